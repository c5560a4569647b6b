"""Fused ReLU networks in Triton against the reference: interpreted on the CPU, compiled where there is a GPU."""

import pytest
import torch
from torch.nn.functional import linear

from nsr.kernels.mlp import mlp, mlp_pair

pytest.importorskip("triton", reason="triton is not installed")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
# Of the root mean squares; tf32 keeps 10 bits of each factor.
# Outputs, gradients. In tf32 a unit near zero may switch, which changes the gradients of its whole row.
TOLERANCE, GRADIENT_TOLERANCE = (5e-3, 5e-2) if DEVICE.type == "cuda" else (1e-5, 1e-5)


def network(sizes, *, bias=True, rows=150):
    """Inputs, weights and biases in float64, and the gradient by the outputs.

    No hidden unit is near zero at any of the inputs, where tf32 may switch it and with it a whole term of the gradients.
    """
    generator = torch.Generator().manual_seed(sum(sizes))
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64).to(DEVICE)  # noqa: E731
    weights = [draw(b, a) * (2 / a) ** 0.5 for a, b in zip(sizes[:-1], sizes[1:], strict=True)]
    biases = [0.3 * draw(b) if bias else None for b in sizes[1:]]
    x = draw(20 * rows, sizes[0])
    clear = torch.ones(len(x), dtype=torch.bool, device=DEVICE)
    hidden = x
    for weight, offset in zip(weights[:-1], biases[:-1], strict=True):
        hidden = linear(hidden, weight, offset)
        clear &= (hidden.abs() > 0.01).all(dim=1)
        hidden = hidden.relu()
    x = x[clear][:rows].contiguous()
    assert len(x) == rows
    return x, weights, biases, draw(rows, sizes[-1])


def evaluated(backend, x, weights, biases, to_out, *, count=None, turned=False):
    """Outputs and all gradients; `triton` in float32, `turned` from and to feature-major arrays."""
    kind = torch.float32 if backend == "triton" else torch.float64
    leaves = [part.to(kind).requires_grad_() for part in (x, *weights, *(bias for bias in biases if bias is not None))]
    x, *parts = leaves
    given = iter(parts[len(weights) :])
    biases = [None if bias is None else next(given) for bias in biases]
    if turned:
        x = x.T.contiguous().T
    out = mlp(x, parts[: len(weights)], biases, count=count, backend=backend)
    to_out = to_out.to(kind).T.contiguous().T if turned else to_out.to(kind)
    return [out.detach(), *torch.autograd.grad(out, leaves, to_out)]


def assert_same(found, expected):
    assert len(found) == len(expected)
    for number, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
        assert ours.dtype == torch.float32
        assert ours.shape == theirs.shape
        error = (ours - theirs).norm()
        assert error <= (GRADIENT_TOLERANCE if number else TOLERANCE) * theirs.norm()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("sizes", [(12, 64, 3), (16, 64, 9), (37, 64, 64, 3), (37, 32, 32, 16), (12, 32, 1), (64, 32, 32, 4)])
def test_values_and_gradients(sizes, bias):
    x, weights, biases, to_out = network(sizes, bias=bias)
    for turned in (False, True):
        found = evaluated("triton", x, weights, biases, to_out, turned=turned)
        assert_same(found, evaluated("reference", x, weights, biases, to_out))


def test_more_blocks_than_programs():
    args = network((16, 32, 3), rows=1500)
    assert_same(evaluated("triton", *args, turned=True), evaluated("reference", *args))


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_a_layer_without_biases(missing):
    x, weights, biases, to_out = network((16, 32, 32, 3))
    biases[missing] = None
    assert_same(evaluated("triton", x, weights, biases, to_out), evaluated("reference", x, weights, biases, to_out))


@pytest.mark.parametrize("used", [0, 70, 128, 150, 1000])
@pytest.mark.parametrize("sizes", [(16, 32, 3), (12, 48, 3)])
def test_rows_past_the_count_have_no_effect(sizes, used):
    x, weights, biases, to_out = network(sizes, rows=400)
    expected = evaluated("reference", x[:used], weights, biases, to_out[:used])
    # Neither inputs nor gradients past the count are read.
    x[used:] = to_out[used:] = torch.nan
    count = torch.tensor([used], dtype=torch.int32, device=DEVICE)
    for backend in ("triton", "reference"):
        out, to_x, *rest = evaluated(backend, x, weights, biases, to_out, count=count)
        assert not out[used:].any()
        assert not to_x[used:].any()
        assert_same([part.float() for part in (out[:used], to_x[:used], *rest)], expected)


def test_no_rows():
    args = network((16, 32, 3), rows=0)
    out, to_x, *rest = evaluated("triton", *args)
    assert out.shape == (0, 3)
    assert to_x.shape == (0, 16)
    assert not any(part.any() for part in rest)


@pytest.mark.parametrize("sizes", [(12, 48, 3), (80, 64, 3), (16, 64, 17), (16, 32, 64, 3), (16, 32, 32, 32, 3), (16, 3)])
def test_other_networks_are_composed(sizes):
    args = network(sizes)
    assert_same(evaluated("triton", *args), evaluated("reference", *args))


def test_arrays_are_feature_major():
    x, weights, biases, _ = network((16, 32, 3))
    x = x.float().T.contiguous().T.requires_grad_()
    weights, biases = ([part.float() for part in parts] for parts in (weights, biases))
    out = mlp(x, weights, biases, backend="triton")
    (to_x,) = torch.autograd.grad(out.sum(), x)  # its gradient has strides of zero
    assert out.T.is_contiguous()
    assert to_x.T.is_contiguous()


def test_relu_is_flat_at_zero_and_keeps_nan():
    x = torch.zeros(3, 16, device=DEVICE)
    x[2, 5] = torch.nan
    x.requires_grad_()
    weights = [torch.ones(size, device=DEVICE) for size in ((32, 16), (3, 32))]
    out = mlp(x, weights, [None, None], backend="triton")
    (to_x,) = torch.autograd.grad(out[:2].sum(), x)
    assert out[2].isnan().all()
    assert not to_x[:2].any()


@pytest.mark.parametrize("used", [150, 60])
@pytest.mark.parametrize("bias", [True, False])
def test_a_pair_of_networks(bias, used):
    x, weights, biases, _ = network([8, 32, 5], bias=bias)
    _, other_weights, other_biases, to_out = network([7, 32, 32, 3], bias=bias)
    extra, to_value = torch.randn(2, 150, 3, generator=torch.Generator().manual_seed(4), dtype=torch.float64).to(DEVICE)
    count = torch.tensor([used], dtype=torch.int32, device=DEVICE)

    def run(backend, kind):
        leaves = [part.to(kind).requires_grad_() for part in (x, *weights, *other_weights)]
        given = [[None if part is None else part.to(kind).requires_grad_() for part in part] for part in (biases, other_biases)]
        first, second = (leaves[1:3], given[0]), (leaves[3:], given[1])
        own = extra.to(kind).requires_grad_()
        value, out = mlp_pair(leaves[0], first, second, own, count=count, backend=backend)
        every = [*leaves, *(part for group in given for part in group if part is not None)]
        every += [own]
        loss = (value * to_value[:, 0].to(kind)).sum() + (out * to_out.to(kind)).sum()
        return [value.detach()[:, None], out.detach(), *torch.autograd.grad(loss, every)]

    ours, theirs = run("triton", torch.float32), run("reference", torch.float64)
    assert ((ours[1] > 0) & (ours[1] < 1))[:used].all()
    assert_same(ours, theirs)
    assert (ours[2][used:] == 0).all() and (ours[-1][used:] == 0).all()


def test_a_logistic_function_at_the_end():
    x, weights, biases, to_out = network([8, 32, 3])
    kinds = {"triton": torch.float32, "reference": torch.float64}
    found = []
    for backend, kind in kinds.items():
        leaves = [part.to(kind).requires_grad_() for part in (x, *weights, *biases)]
        out = mlp(leaves[0], leaves[1:3], leaves[3:], sigmoid=True, backend=backend)
        torch.testing.assert_close(out, torch.sigmoid(mlp(leaves[0], leaves[1:3], leaves[3:], backend=backend)))
        found.append([out.detach(), *torch.autograd.grad(out, leaves, to_out.to(kind))])
    assert_same(*found)
