"""Inputs of the colour network in Triton against the reference in float64: interpreted on the CPU, compiled on a GPU."""

import pytest
import torch

from nsr.kernels.shading import colour_inputs

pytest.importorskip("triton", reason="triton is not installed")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SAMPLES, RAYS = 41, 7


def arrays(kind, features):
    """Position, features, gradient, directions in `kind`, rays, and the gradient by the result of 30 columns or fewer."""
    generator = torch.Generator().manual_seed(3)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64).to(DEVICE, kind)  # noqa: E731
    position, given, gradient, direction = draw(SAMPLES, 3), draw(SAMPLES, features), draw(SAMPLES, 3), draw(RAYS, 3)
    gradient[0], gradient[1] = 0.0, 1e-7  # shorter than what is divided by
    ray = torch.randint(RAYS, (SAMPLES,), generator=generator).to(DEVICE, torch.int32)
    return position, given, gradient, torch.nn.functional.normalize(direction, dim=1), ray, draw(SAMPLES, 3 + features + 3 + 16)


def evaluated(backend, kind, *, features, degree, position, turned=False):
    x, given, gradient, direction, ray, pull = arrays(kind, features)
    leaves = [given.requires_grad_(), gradient.requires_grad_()]
    parts = [part.T.contiguous().T if turned else part for part in leaves]
    out = colour_inputs(x if position else None, *parts, direction, ray, degree=degree, backend=backend)
    return [out.detach(), *torch.autograd.grad((out * pull[:, : out.shape[1]]).sum(), leaves)]


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("position", [True, False])
@pytest.mark.parametrize(("features", "degree"), [(15, 4), (1, 3), (4, 2), (4, 1), (2, 0)])
def test_values_and_gradients(features, degree, position, turned):
    options = {"features": features, "degree": degree, "position": position}
    ours = evaluated("triton", torch.float32, turned=turned, **options)
    theirs = evaluated("reference", torch.float64, **options)
    assert ours[0].shape == (SAMPLES, 3 * position + features + 3 + degree**2)
    torch.testing.assert_close(ours[0].double(), theirs[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours[1].double(), theirs[1], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours[2].double(), theirs[2], rtol=1e-4, atol=1e-5)


def test_the_normal_has_length_one_and_no_gradient_along_itself():
    out, _, to_gradient = evaluated("triton", torch.float32, features=2, degree=0, position=False)
    normal = out[2:, 2:5]
    torch.testing.assert_close(normal.norm(dim=1), torch.ones(SAMPLES - 2, device=DEVICE))
    assert ((to_gradient[2:] * normal).sum(1).abs() < 1e-4 * to_gradient[2:].norm(dim=1).clamp(min=1)).all()


def test_no_samples():
    empty = torch.empty(0, 3, device=DEVICE)
    ray = torch.empty(0, dtype=torch.int32, device=DEVICE)
    out = colour_inputs(
        empty, torch.empty(0, 5, device=DEVICE), empty, torch.eye(3, device=DEVICE), ray, degree=2, backend="triton"
    )
    assert out.shape == (0, 3 + 5 + 3 + 4)
