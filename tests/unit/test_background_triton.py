"""Background rendering in Triton against the reference in float64: interpreted on the CPU, compiled on a GPU."""

import pytest
import torch

from nsr.kernels.background import background_composite, background_samples

pytest.importorskip("triton", reason="triton is not installed")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def rays(kind):
    """Rays that cross the ball, miss it ahead, miss it behind, start inside and look away; directions of length 1."""
    origin = torch.tensor([[0, 0, -3.0], [0, 2, -3], [0, 2, 3], [0.1, -0.2, 0.3], [0, 0, -3], [0, 1.0, -2]])
    direction = torch.tensor([[0, 0.1, 1.0], [0.1, 0, 1], [0.1, 0, 1], [1, 2, 3], [0, 0, -1], [0, 0, 1]])
    shift = torch.tensor([0, 0.3, 0.5, 0.9, 0.999, 0.1])
    direction = torch.nn.functional.normalize(direction.double(), dim=1)
    return origin.to(DEVICE, kind), direction.to(DEVICE, kind), shift.to(DEVICE, kind)


@pytest.mark.parametrize("samples", [1, 5, 32, 64])
@pytest.mark.parametrize("degree", [0, 2, 4])
def test_samples(samples, degree):
    # The sixth ray touches the ball: which way that falls is a matter of rounding.
    ours = background_samples(*(part[:5] for part in rays(torch.float32)), samples=samples, degree=degree, backend="triton")
    theirs = background_samples(*(part[:5] for part in rays(torch.float64)), samples=samples, degree=degree)
    for found, expected in zip(ours, theirs, strict=True):
        assert found.shape == expected.shape
        torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-5)
    assert ours.position.min() >= 0
    assert ours.position.max() <= 1


def test_a_grazing_ray_starts_where_it_passes_the_ball():
    found = background_samples(*(part[5:] for part in rays(torch.float32)), samples=4, degree=0, backend="triton")
    assert (found.position[0] * 4 - 2).norm() > 0.99


def drawn(samples, number=9, scale=1.0):
    generator = torch.Generator().manual_seed(samples)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64).to(DEVICE)  # noqa: E731
    logit, colour, to_out = scale * draw(number * samples), draw(number * samples, 3), draw(number, 3)
    return logit, colour, draw(number, samples).exp(), to_out


def summed(backend, kind, logit, colour, lengths, to_out, *, turned=False):
    leaves = [logit.to(kind).requires_grad_(), colour.to(kind).requires_grad_()]
    given = leaves[1].T.contiguous().T if turned else leaves[1]
    out = background_composite(leaves[0], given, lengths.to(kind), backend=backend)
    return [out.detach(), *torch.autograd.grad((out * to_out.to(kind)).sum(), leaves)]


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("samples", [1, 4, 6, 32, 64])
def test_sums_and_gradients(samples, turned):
    given = drawn(samples)
    ours, theirs = summed("triton", torch.float32, *given, turned=turned), summed("reference", torch.float64, *given)
    for found, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-5)


def test_an_endless_last_interval_takes_what_is_left():
    """Its optical depth of thousands must not round off the weights of the samples before it."""
    logit, colour, lengths, to_out = drawn(8, scale=0.1)
    lengths = lengths * 1e-3
    lengths[:, -1] = 1e3
    logit[7::8] = 30.0
    ours, theirs = (
        summed(b, k, logit, colour, lengths, to_out) for b, k in (("triton", torch.float32), ("reference", torch.float64))
    )
    torch.testing.assert_close(ours[0].double(), theirs[0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours[1].double(), theirs[1], rtol=1e-3, atol=1e-7)
    white = torch.ones_like(colour)
    torch.testing.assert_close(summed("triton", torch.float32, logit, white, lengths, to_out)[0], torch.ones(9, 3, device=DEVICE))


def test_no_rays():
    none = torch.empty(0, 3, device=DEVICE)
    found = background_samples(none, none, none[:, 0], samples=4, degree=2, backend="triton")
    assert [tuple(part.shape) for part in found] == [(0, 3), (0, 4), (0, 4)]
    assert background_composite(none[:, 0], none, found.lengths, backend="triton").shape == (0, 3)
