"""Inputs of the colour network in Triton against the reference in float64: interpreted on the CPU, compiled on a GPU."""

import math

import pytest
import torch

from nsr.kernels.packed import Packed
from nsr.kernels.shading import colour_inputs

pytest.importorskip("triton", reason="triton is not installed")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SAMPLES, RAYS, CODES = 41, 7, 5
TIMES = {"view": 1, "mirrored": 1, "both": 2}  # that there are harmonics


def arrays(kind, features):
    """Position, features, gradient, directions, codes in `kind`, rays, and the gradient by the result of 43 + features columns or fewer."""
    generator = torch.Generator().manual_seed(3)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64).to(DEVICE, kind)  # noqa: E731
    position, given, gradient, direction = draw(SAMPLES, 3), draw(SAMPLES, features), draw(SAMPLES, 3), draw(RAYS, 3)
    gradient[0], gradient[1] = 0.0, 1e-7  # shorter than what is divided by
    counts = torch.tensor([2, 0, 1, 33, 0, 5, 0])  # a ray of more than a warp's samples, rays without any
    packed = Packed(*(part.to(DEVICE, torch.int32) for part in Packed.from_counts(counts)))
    directions, pull = torch.nn.functional.normalize(direction, dim=1), draw(SAMPLES, 3 + features + 3 + 32 + CODES)
    return position, given, gradient, directions, draw(RAYS, CODES), packed, pull


def evaluated(backend, kind, *, features, degree, position, turned=False, codes=False, directions="view"):
    x, given, gradient, direction, own, packed, pull = arrays(kind, features)
    leaves = [given.requires_grad_(), gradient.requires_grad_()]
    parts = [part.T.contiguous().T if turned else part for part in leaves]
    options = {"degree": degree, "backend": backend, "directions": directions, "codes": own.requires_grad_() if codes else None}
    out = colour_inputs(x if position else None, *parts, direction, packed, **options)
    leaves += [own] if codes else []
    return [out.detach(), *torch.autograd.grad((out * pull[:, : out.shape[1]]).sum(), leaves)]


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("position", [True, False])
@pytest.mark.parametrize(("features", "degree"), [(15, 4), (1, 3), (4, 2), (4, 1), (2, 0)])
@pytest.mark.parametrize(("codes", "directions"), [(False, "view"), (True, "mirrored"), (True, "both")])
def test_values_and_gradients(features, degree, position, turned, codes, directions):
    options = {"features": features, "degree": degree, "position": position, "codes": codes, "directions": directions}
    ours = evaluated("triton", torch.float32, turned=turned, **options)
    theirs = evaluated("reference", torch.float64, **options)
    assert ours[0].shape == (SAMPLES, 3 * position + features + 3 + TIMES[directions] * degree**2 + CODES * codes)
    torch.testing.assert_close(ours[0].double(), theirs[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours[1].double(), theirs[1], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours[2].double(), theirs[2], rtol=1e-4, atol=2e-5)
    for mine, other in zip(ours[3:], theirs[3:], strict=True):
        torch.testing.assert_close(mine.double(), other, rtol=1e-5, atol=1e-5)
        assert not mine[1].any(), "a ray without samples"


@pytest.mark.parametrize("directions", ["view", "mirrored", "both"])
def test_the_reference_differentiates_itself(directions):
    _, given, gradient, direction, codes, packed, _ = arrays(torch.float64, 2)
    gradient[:2] = 0.5
    run = lambda *leaves: colour_inputs(None, *leaves[:2], direction, packed, degree=4, codes=leaves[2], directions=directions)  # noqa: E731
    assert torch.autograd.gradcheck(
        run, [part.requires_grad_() for part in (given, gradient, codes)], fast_mode=True, nondet_tol=1e-12
    )


def test_a_reflected_direction_is_the_mirror_image():
    """Of d, what lies along the normal changes its sign (Verbin et al. 2022, eq. 4, with the direction to the camera -d)."""
    _, given, gradient, direction, _, packed, _ = arrays(torch.float64, 1)
    normal = torch.nn.functional.normalize(gradient[2:], dim=1)
    out = colour_inputs(None, given, gradient, direction, packed, degree=2, directions="mirrored")[2:, 4:]
    found = torch.stack([-out[:, 3], -out[:, 1], out[:, 2]], dim=1) / math.sqrt(3 / (4 * math.pi))
    seen = direction[packed.ray.long()][2:]
    torch.testing.assert_close(found.norm(dim=1), torch.ones(SAMPLES - 2, dtype=torch.float64, device=DEVICE))
    torch.testing.assert_close((found * normal).sum(1), -(seen * normal).sum(1))
    torch.testing.assert_close(torch.linalg.cross(found, normal), torch.linalg.cross(seen, normal))


def test_the_normal_has_length_one_and_no_gradient_along_itself():
    out, _, to_gradient = evaluated("triton", torch.float32, features=2, degree=0, position=False)
    normal = out[2:, 2:5]
    torch.testing.assert_close(normal.norm(dim=1), torch.ones(SAMPLES - 2, device=DEVICE))
    assert ((to_gradient[2:] * normal).sum(1).abs() < 1e-4 * to_gradient[2:].norm(dim=1).clamp(min=1)).all()


def test_no_samples():
    empty = torch.empty(0, 3, device=DEVICE)
    packed = Packed.from_counts(torch.zeros(3, dtype=torch.int64, device=DEVICE))
    codes = torch.ones(3, 2, device=DEVICE, requires_grad=True)
    features = torch.empty(0, 5, device=DEVICE)
    for directions in ("view", "both"):
        options = {"degree": 2, "codes": codes, "directions": directions, "backend": "triton"}
        out = colour_inputs(empty, features, empty, torch.eye(3, device=DEVICE), packed, **options)
        assert out.shape == (0, 3 + 5 + 3 + TIMES[directions] * 4 + 2)
        assert torch.autograd.grad(out.sum(), codes)[0].tolist() == [[0, 0]] * 3


def test_both_directions_stand_beside_each_other():
    """The columns of the view direction, then those of the mirrored one, then the code."""
    _, given, gradient, direction, codes, packed, _ = arrays(torch.float64, 2)
    run = lambda **options: colour_inputs(None, given, gradient, direction, packed, degree=3, **options)  # noqa: E731
    alone = torch.cat([run(), run(directions="mirrored", codes=codes)[:, 5:]], dim=1)
    torch.testing.assert_close(run(directions="both", codes=codes), alone, rtol=0, atol=0)
