"""The SDF core: closed-form gradient and its backward against differentiation of an independent differentiable twin."""

import torch
from torch.nn.functional import softplus

from nsr.kernels.hashgrid import HashGridSpec
from nsr.kernels.sdf import SdfWeights, sdf_value, sdf_with_gradient

SPEC = HashGridSpec(3, 2, 7, 3, 12)
D = torch.float64


def make_weights(hidden=9, features=4, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, dtype=D, generator=generator).requires_grad_()

    net = SdfWeights(
        draw(hidden, 3 + SPEC.levels * SPEC.features), draw(hidden), draw(1 + features, hidden), draw(1 + features), 7.0
    )
    return draw(SPEC.entries, SPEC.features), net


def twin(x, table, net):
    """Trilinear interpolation by products that autograd differentiates in x as often as wanted."""
    parts = [x]
    for level in range(SPEC.levels):
        p = (x + 1) / 2 * SPEC.scales[level] + 0.5
        cell = p.detach().floor()
        w = p - cell
        total = 0
        for c in range(8):
            bits = [c >> d & 1 for d in range(3)]
            i, j, k = (cell[:, d].long() + bits[d] for d in range(3))
            side, size = SPEC.resolutions[level], SPEC.sizes[level]
            index = (i + j * side + k * side**2) % size if SPEC.dense[level] else (i ^ (j * 2654435761) ^ (k * 805459861)) % size
            weight = torch.stack([w[:, d] if bits[d] else 1 - w[:, d] for d in range(3)]).prod(0)
            total = total + weight[:, None] * table[SPEC.offsets[level] + index]
        parts.append(total)
    out = softplus(torch.cat(parts, 1) @ net.W1.T + net.b1, net.beta) @ net.W2.T + net.b2
    return out[:, 0], out[:, 1:]


def scalar(sdf, features, gradient):
    """A loss that needs every output, the Eikonal term among them."""
    weights = torch.linspace(-1, 1, features.numel(), dtype=D).reshape(features.shape)
    return sdf.square().sum() + (weights * features).sum() + (gradient.norm(dim=1) - 1).square().sum() + gradient[:, 0].sum()


def test_value_gradient_and_every_parameter_gradient():
    table, net = make_weights()
    x = torch.rand(30, 3, dtype=D, generator=torch.Generator().manual_seed(1)) * 2 - 1
    sdf, features, gradient = sdf_with_gradient(x, table, SPEC, net)
    x_twin = x.clone().requires_grad_()
    sdf_twin, features_twin = twin(x_twin, table, net)
    (gradient_twin,) = torch.autograd.grad(sdf_twin.sum(), x_twin, create_graph=True)
    torch.testing.assert_close(sdf, sdf_twin, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(features, features_twin, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(gradient, gradient_twin, rtol=1e-8, atol=1e-8)
    parameters = [table, net.W1, net.b1, net.W2, net.b2]
    ours = torch.autograd.grad(scalar(sdf, features, gradient), parameters)
    theirs = torch.autograd.grad(scalar(sdf_twin, features_twin, gradient_twin), parameters)
    for got, expected in zip(ours, theirs, strict=True):
        # torch's softplus drops terms under e^-20 in its second derivative; ours keeps them.
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def test_value_alone_agrees_with_value_and_gradient():
    table, net = make_weights(seed=4)
    x = torch.rand(10, 3, dtype=D) * 2 - 1
    for active in (1, 2, 3):
        value, features = sdf_value(x, table, SPEC, net, active=active)
        both = sdf_with_gradient(x, table, SPEC, net, active=active)
        torch.testing.assert_close(value, both.sdf)
        torch.testing.assert_close(features, both.features)


def test_gradient_with_some_levels_inactive_is_that_of_the_value():
    table, net = make_weights(seed=5)
    x = torch.rand(8, 3, dtype=D, generator=torch.Generator().manual_seed(2)) * 1.6 - 0.8
    gradient = sdf_with_gradient(x, table, SPEC, net, active=2).gradient
    step = 1e-7
    for d in range(3):
        shift = torch.zeros(3, dtype=D)
        shift[d] = step
        ahead, behind = (sdf_value(x + s * shift, table, SPEC, net, active=2)[0] for s in (1, -1))
        torch.testing.assert_close(gradient[:, d], (ahead - behind) / (2 * step), rtol=1e-5, atol=1e-5)


def test_single_precision_stays_near_double():
    table, net = make_weights(seed=6)
    x = torch.rand(200, 3, dtype=D) * 2 - 1
    exact = sdf_with_gradient(x, table, SPEC, net)
    single_net = SdfWeights(*(p.float() for p in net[:4]), net.beta)
    single = sdf_with_gradient(x.float(), table.float(), SPEC, single_net)
    # Cells are chosen from the rounded position: samples within rounding of a border may differ, hence the quantile.
    error = (single.gradient.double() - exact.gradient).norm(dim=1) / exact.gradient.norm(dim=1)
    assert error.quantile(0.95) < 1e-4
    assert ((single.sdf.double() - exact.sdf).abs() / exact.sdf.abs().mean()).quantile(0.95) < 1e-4
