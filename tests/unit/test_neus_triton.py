"""NeuS compositing in Triton against the reference in double precision: interpreted on the CPU, compiled on a GPU."""

import pytest
import torch
from torch.nn.functional import normalize

from nsr.errors import BackendUnavailable
from nsr.kernels.neus import RaySums, neus_composite
from nsr.kernels.packed import Packed
from nsr.losses import distortion, eikonal

pytest.importorskip("triton", reason="triton is not installed")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
STEP, FIRST = 0.02, 5
# One sample, none, a block, one more, several blocks; not a multiple of the rays of a program.
COUNTS = [1, 0, 32, 33, 70, 5, 0, 100, 3, 64, 31, 12, 40, 9, 2, 25, 50, 1, 17, 0]
DIFFERENTIABLE = ("sdf", "gradient", "colour", "sharpness")


def scene(solid=-0.1, seed=0, feature_major=True):
    """Rays that fall from 0.3 outside a surface to `solid` inside it, samples in rows between rows of no ray."""
    generator = torch.Generator().manual_seed(seed)
    counts = torch.tensor(COUNTS, dtype=torch.int32)
    starts = (FIRST + counts.cumsum(0) - counts).int()
    rows = FIRST + sum(COUNTS) + 7
    sdf, t = torch.full((2, rows), float("nan"))
    gradient, colour = torch.full((2, 3, rows), float("nan"))
    direction = normalize(torch.randn(len(COUNTS), 3, generator=generator), dim=1)
    for start, count, along in zip(starts.tolist(), COUNTS, direction, strict=True):
        own = slice(start, start + count)
        noise = torch.randn(3, count, generator=generator)
        sdf[own] = torch.linspace(0.3, solid, count) + 0.01 * noise[0]
        t[own] = 1 + STEP * torch.arange(count)
        gradient[:, own] = 0.6 * noise - along[:, None]
        colour[:, own] = torch.rand(3, count, generator=generator)
    sdf[FIRST + 1] = 40.0  # far outside
    gradient[:, FIRST + sum(COUNTS[:8]) - 1] = 0.0  # at the surface
    ray = torch.zeros(rows, dtype=torch.int32)
    if not feature_major:
        gradient, colour = gradient.T.contiguous().T, colour.T.contiguous().T
    parts = {"sdf": sdf, "gradient": gradient.T, "colour": colour.T, "t": t, "direction": direction}
    return {name: part.to(DEVICE) for name, part in parts.items()}, Packed(*(p.to(DEVICE) for p in (ray, starts, counts)))


def run(parts, packed, backend, *, ratio=1.0, sharpness=150.0, dtype=torch.float32, only=None):
    """Sums and the gradients of a random combination of them, or of one."""
    parts = {name: part.to(dtype) for name, part in parts.items()} | {
        "sharpness": torch.tensor(sharpness, dtype=dtype).to(DEVICE)
    }
    for name in DIFFERENTIABLE:
        parts[name] = parts[name].detach().requires_grad_()
    ratio = torch.tensor([ratio], dtype=dtype, device=DEVICE)
    sums = neus_composite(**parts, packed=packed, cosine_ratio=ratio, step=STEP, backend=backend)
    assert isinstance(sums, RaySums)
    generator = torch.Generator().manual_seed(1)
    loss = 0.0
    for name, value in zip(sums._fields[:6], sums, strict=False):
        pull = torch.randn(value.shape, generator=generator).to(DEVICE)
        loss = loss + ((value * pull).sum() if only in (None, name) else 0)
    gradients = torch.autograd.grad(loss, [parts[name] for name in DIFFERENTIABLE], allow_unused=True)
    return sums, {
        name: torch.zeros_like(parts[name]) if g is None else g for name, g in zip(DIFFERENTIABLE, gradients, strict=True)
    }


def compare(parts, packed, **options):
    slow, slow_gradients = run(parts, packed, "reference", dtype=torch.float64, **options)
    fast, fast_gradients = run(parts, packed, "triton", **options)
    for name, ours, theirs in zip(slow._fields, fast, slow, strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")
    # Of a vector without length the gradient is a million times the others'.
    usual = parts["gradient"].abs().sum(1) > 0
    for name, theirs in slow_gradients.items():
        ours, size = fast_gradients[name], (theirs[usual] if theirs.ndim else theirs).abs().max()
        assert ours.shape == theirs.shape
        torch.testing.assert_close(
            ours.double(), theirs, rtol=1e-4, atol=1e-5 * float(size) + 1e-6, msg=lambda text, name=name: f"of {name}: {text}"
        )
    return fast, fast_gradients


@pytest.mark.parametrize("ratio", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("feature_major", [True, False])
def test_sums_and_gradients_match_the_reference(ratio, feature_major):
    parts, packed = scene(solid=0.01, feature_major=feature_major)
    fast, gradients = compare(parts, packed, ratio=ratio)
    assert 0.05 < float(fast.opacity[7].detach()) < 0.999
    owned = torch.zeros(len(parts["t"]), dtype=torch.bool)
    owned[FIRST : FIRST + sum(COUNTS)] = True
    for values in (fast.weights, *(gradients[name] for name in DIFFERENTIABLE[:3])):
        assert values[owned.to(DEVICE)].isfinite().all()
        assert (values[~owned.to(DEVICE)] == 0).all()
    empty = packed.counts == 0
    assert all((values[empty] == 0).all() for values in fast[:6])


@pytest.mark.parametrize("only", RaySums._fields[:6])
def test_each_sum_alone(only):
    compare(*scene(solid=0.01, seed=2), only=only, ratio=0.7)


@pytest.mark.parametrize("sharpness", [1.0, 3000.0])
def test_soft_and_sharp_surfaces(sharpness):
    # Far inside, one sample lets exp(-60) pass; its sum of logarithms is cut at -23.
    compare(*scene(solid=0.002, seed=3), sharpness=sharpness)


def test_rays_end_in_the_solid():
    """What follows an opaque block has no weight and no gradient but that of the Eikonal sum."""
    parts, packed = scene(solid=-0.6, seed=4)
    fast, gradients = compare(parts, packed, sharpness=600.0)
    torch.testing.assert_close(fast.opacity[7], torch.ones_like(fast.opacity[7]), rtol=0, atol=1e-5)
    start = int(packed.starts[7])
    last = slice(start + 64, start + 99)
    assert (fast.weights[last] == 0).all()
    assert (gradients["sdf"][last] == 0).all()
    assert (gradients["colour"][last] == 0).all()
    assert (gradients["gradient"][last] != 0).all()


def test_the_eikonal_sum_is_that_of_the_loss():
    parts, packed = scene()
    sums, _ = run(parts, packed, "triton")
    own = slice(int(packed.starts[4]), int(packed.starts[4] + packed.counts[4]))
    torch.testing.assert_close(sums.eikonal[4], eikonal(parts["gradient"][own]).sum(), rtol=1e-5, atol=1e-6)


def test_the_distortion_sum_is_that_of_the_loss():
    parts, packed = scene(solid=0.01)
    sums, _ = run(parts, packed, "triton")
    own = slice(int(packed.starts[7]), int(packed.starts[7] + packed.counts[7]))
    one = Packed.from_counts(packed.counts[7:8].long())
    expected = distortion(sums.weights[own], parts["t"][own], STEP, one)
    assert float(expected) > 1e-3
    torch.testing.assert_close(sums.distortion[7:8], expected, rtol=1e-4, atol=1e-7)


def test_reference_gradients_against_finite_differences():
    generator = torch.Generator().manual_seed(5)
    packed = Packed(torch.zeros(7, dtype=torch.int64), torch.tensor([1, 4, 4]), torch.tensor([3, 0, 2]))
    sdf, gradient, colour = (torch.randn(*shape, generator=generator).double() for shape in ((7,), (7, 3), (7, 3)))
    direction = normalize(torch.randn(3, 3, generator=generator).double(), dim=1)
    inputs = [part.requires_grad_() for part in (0.02 * sdf, gradient, colour, torch.tensor(50.0).double())]

    def sums(sdf, gradient, colour, sharpness):
        ratio = torch.tensor([0.4]).double()
        t = torch.arange(7).double()
        return neus_composite(
            sdf, gradient, colour, t, direction, packed, sharpness=sharpness, cosine_ratio=ratio, step=STEP,
            backend="reference",
        )[:6]  # fmt: skip

    assert torch.autograd.gradcheck(sums, inputs, atol=1e-6)


@pytest.mark.parametrize("backend", ["reference", "triton"])
def test_no_rays_and_no_samples(backend):
    for rays in (0, 4):
        none = torch.zeros(rays, dtype=torch.int64, device=DEVICE)
        parts = {"sdf": torch.zeros(0), "gradient": torch.zeros(0, 3), "colour": torch.zeros(0, 3), "t": torch.zeros(0)}
        parts = {name: part.to(DEVICE) for name, part in parts.items()} | {"direction": torch.ones(rays, 3, device=DEVICE)}
        sums, gradients = run(parts, Packed(none[:0], none, none), backend)
        assert [tuple(part.shape) for part in sums] == [(rays, 3), (rays, 3), (rays,), (rays,), (rays,), (rays,), (0,)]
        assert all((part == 0).all() for part in (*sums, *gradients.values()))


def test_what_does_not_fit_is_refused():
    parts, packed = scene()
    one = torch.ones(1, device=DEVICE)
    options = {"packed": packed, "sharpness": one, "cosine_ratio": one, "step": STEP}
    with pytest.raises(ValueError, match="gradient"):
        neus_composite(**parts | {"gradient": parts["gradient"].T}, **options)
    with pytest.raises(ValueError, match="rays"):
        neus_composite(**parts, **options | {"packed": packed._replace(starts=packed.starts[1:])})
    with pytest.raises(ValueError, match="cosine_ratio"):
        neus_composite(**parts, **options | {"cosine_ratio": one[0]})
    with pytest.raises(BackendUnavailable):
        neus_composite(**parts, **options, backend="nerfacc")


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE.type != "cuda", reason="needs a CUDA GPU")
def test_a_captured_graph_follows_its_inputs():
    parts, packed = scene()
    sharpness, ratio = torch.tensor(100.0, device=DEVICE), torch.ones(1, device=DEVICE)
    leaves = [parts["sdf"].requires_grad_(), sharpness.requires_grad_()]

    def composite():
        sums = neus_composite(**parts, packed=packed, sharpness=sharpness, cosine_ratio=ratio, step=STEP, backend="triton")
        return [*sums, *torch.autograd.grad(sums.colour.sum() + sums.eikonal.sum(), leaves)]

    composite()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = composite()
    for value, share in ((300.0, 0.3), (50.0, 0.9)):
        with torch.no_grad():
            sharpness.fill_(value)
            ratio.fill_(share)
        graph.replay()
        for ours, eager in zip([part.clone() for part in captured], composite(), strict=True):
            assert torch.equal(ours, eager)
