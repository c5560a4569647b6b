"""Marching in Triton against the reference: interpreted on the CPU, compiled where there is a GPU."""

import pytest
import torch
from torch.nn.functional import normalize

from nsr.kernels.march import OccupancyBits, march, march_padded, pack_occupancy
from nsr.kernels.march.reference import unpack_occupancy

pytest.importorskip("triton", reason="triton is not installed")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
BOTH = pytest.mark.parametrize("backend", ["reference", "triton"])
STEP = 0.013


def scene(resolution=24, share=0.3, rays=150):
    """Rays of all kinds, through the ball, beside it, from inside, away from it, and a half-empty grid."""
    generator = torch.Generator().manual_seed(resolution)
    origin = normalize(torch.randn(rays, 3, generator=generator), dim=1) * 2
    direction = normalize(torch.randn(rays, 3, generator=generator) * 0.7 - origin, dim=1)
    origin[:30] *= 0.3
    direction[30:40] *= -1
    occupied = torch.rand(resolution, resolution, resolution, generator=generator) < share
    occupied[: resolution // 2] &= torch.rand(resolution // 2, 1, 1, generator=generator) < 0.3
    jitter = torch.rand(rays, generator=generator)
    return tuple(part.to(DEVICE) for part in (origin, direction, occupied, jitter))


def padded(backend, *, live, budget, first=0, resolution=24):
    """Padded samples of `scene`, and the counts and midpoints of its plain march by the same back end."""
    origin, direction, occupied, jitter = scene(resolution)
    bits = pack_occupancy(occupied, backend=backend)
    device_live = torch.tensor([live], dtype=torch.int32, device=DEVICE)
    options = {"step": STEP, "jitter": jitter, "backend": backend}
    found = march_padded(origin, direction, bits, live=device_live, budget=budget, first=first, **options)
    plain = march(origin, direction, occupied, **options)
    return found, plain.packed.counts.tolist(), plain.t.split(plain.packed.counts.tolist())


@pytest.mark.parametrize("resolution", [1, 8, 13, 32, 37])
def test_bits_make_a_round_trip(resolution):
    _, _, occupied, _ = scene(resolution, share=0.02)
    slow, fast = pack_occupancy(occupied), pack_occupancy(occupied, backend="triton")
    assert torch.equal(fast.fine, slow.fine)
    assert torch.equal(fast.coarse, slow.coarse)
    assert torch.equal(unpack_occupancy(fast), occupied)
    number = -(-resolution // 8)
    blocks = unpack_occupancy(OccupancyBits(fast.coarse, fast.coarse, number))
    for x, y, z in torch.cartesian_prod(*[torch.arange(number)] * 3).reshape(-1, 3).tolist():
        cells = occupied[8 * x : 8 * x + 8, 8 * y : 8 * y + 8, 8 * z : 8 * z + 8]
        assert blocks[x, y, z] == cells.any()


@BOTH
def test_bits_are_refilled_in_place(backend):
    _, _, occupied, _ = scene(13)
    bits = pack_occupancy(torch.ones_like(occupied), backend=backend)
    places = bits.fine.data_ptr(), bits.coarse.data_ptr()
    again = pack_occupancy(occupied, out=bits, backend=backend)
    assert (again.fine.data_ptr(), again.coarse.data_ptr()) == places
    assert torch.equal(unpack_occupancy(bits), occupied)
    assert torch.equal(again.coarse, pack_occupancy(occupied).coarse)


@pytest.mark.parametrize("resolution", [13, 32])
def test_march_matches_the_reference(resolution):
    origin, direction, occupied, jitter = scene(resolution)
    slow, fast = (march(origin, direction, occupied, step=STEP, jitter=jitter, backend=name) for name in ("reference", "triton"))
    same = slow.packed.counts == fast.packed.counts
    # Sums of three products in another order move samples by one rounding, which may carry one over a cell's border.
    assert same.float().mean() > 0.98
    torch.testing.assert_close(fast.t[same[fast.packed.ray]], slow.t[same[slow.packed.ray]], rtol=0, atol=1e-6)
    assert (slow.packed.counts == 0).any()
    assert slow.packed.counts.max() > 30
    assert len(slow.t) > 2000


@pytest.mark.parametrize("full", [True, False])
def test_full_and_empty_grids(full):
    origin, direction, occupied, jitter = scene()
    occupied = torch.full_like(occupied, full)
    slow, fast = (march(origin, direction, occupied, step=STEP, jitter=jitter, backend=name) for name in ("reference", "triton"))
    assert (slow.packed.counts - fast.packed.counts).abs().sum() <= 1, "but for a sample at the ball's surface"
    assert (len(fast.t) > 0) == full
    live = torch.tensor([len(origin)], dtype=torch.int32, device=DEVICE)
    bits = pack_occupancy(occupied, backend="triton")
    samples = march_padded(origin, direction, bits, step=STEP, jitter=jitter, live=live, budget=30_000, backend="triton")
    assert samples.total.item() == samples.wanted.item() == len(fast.t)
    assert samples.kept.all()


def test_samples_on_cell_borders_belong_to_the_upper_cell():
    # Every number here is a short binary fraction: no rounding, so that both back ends must agree to the last sample.
    origin = torch.tensor(
        [[-2.0, 0, 0], [0, -2, 0], [0, 0, 2], [0.25, 0, 0], [0.5, 0.5, -2], [2, 0, 0], [0, 1, 0]], device=DEVICE
    )
    direction = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, -1], [-1, 0, 0], [0, 0, 1], [1, 0, 0], [0, 0, 1]], device=DEVICE)
    occupied = torch.rand(16, 16, 16, generator=torch.Generator().manual_seed(0)).to(DEVICE) < 0.5
    for shift in (0.0, 0.5):
        jitter = torch.full((7,), shift, device=DEVICE)
        slow, fast = (
            march(origin, direction, occupied, step=0.125, jitter=jitter, backend=name) for name in ("reference", "triton")
        )
        assert torch.equal(slow.packed.counts, fast.packed.counts)
        assert torch.equal(slow.t[slow.packed.ray != 4], fast.t[fast.packed.ray != 4])
        assert slow.packed.counts[5:].tolist() == [0, 0], "a ray that leaves the ball behind, one that touches it"
    line = occupied[:, 8, 8].nonzero()[:, 0] / 8.0 + 1
    first = march(origin[:1], direction[:1], occupied, step=0.125, jitter=jitter[:1] * 0, backend="triton")
    torch.testing.assert_close(first.t, line, rtol=0, atol=0)


@BOTH
@pytest.mark.parametrize(("live", "budget", "first"), [(150, 9000, 0), (150, 9000, 5), (90, 1500, 7), (64, 40, 0), (0, 50, 3)])
def test_padded_samples_are_those_of_the_first_rays(backend, live, budget, first):
    found, counts, parts = padded(backend, live=live, budget=budget, first=first)
    rows, used = first, 0
    assert len(found.t) == len(found.position) == len(found.ray) == first + budget
    origin, direction, _, _ = scene()
    for ray, count in enumerate(counts):
        used += count if ray < live else 0
        kept = ray < live and used <= budget
        assert found.kept[ray].item() == kept
        assert found.counts[ray].item() == (count if kept else 0)
        assert found.starts[ray].item() == min(rows, first + budget) or not kept
        if kept and count:
            part = slice(rows, rows + count)
            torch.testing.assert_close(found.t[part], parts[ray], rtol=0, atol=0)
            assert (found.ray[part] == ray).all()
            position = (origin[ray] + direction[ray] * parts[ray][:, None]).clamp(-1, 1)
            torch.testing.assert_close(found.position[part], position, rtol=0, atol=3e-7)
            rows += count
    assert found.total.tolist() == [rows]
    assert found.wanted.tolist() == [sum(counts[:live])]
    for part in (found.t, found.position, found.ray):
        assert not part[rows:].any()
        assert not part[:first].any()
    assert (found.starts.diff() >= 0).all()
    assert found.starts.max() <= first + budget


def test_padded_back_ends_agree():
    slow, fast = (padded(name, live=140, budget=2000, first=3)[0] for name in ("reference", "triton"))
    for name, ours, theirs in zip(slow._fields, fast, slow, strict=True):
        assert ours.dtype == theirs.dtype, name
        assert ours.shape == theirs.shape, name
        if DEVICE.type == "cpu" or name == "kept":
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
    assert not slow.kept.all()


def test_a_ray_after_the_cut_is_dropped_even_if_empty():
    found, counts, _ = padded("triton", live=150, budget=300)
    cut = int(found.kept.sum())
    assert found.kept[:cut].all()
    assert not found.kept[cut:].any()
    assert 0 in counts[cut:]


@BOTH
@pytest.mark.filterwarnings("ignore:invalid value encountered in cast:RuntimeWarning")
def test_rays_without_direction_have_no_samples(backend):
    bits = pack_occupancy(torch.ones(8, 8, 8, dtype=torch.bool, device=DEVICE), backend=backend)
    direction = torch.tensor([[float("nan")] * 3, [0, 0, 1]], device=DEVICE)
    samples = march_padded(
        torch.zeros(2, 3, device=DEVICE), direction, bits, step=0.25, jitter=torch.full((2,), 0.5, device=DEVICE),
        live=torch.tensor([2], dtype=torch.int32, device=DEVICE), budget=8, backend=backend,
    )  # fmt: skip
    assert samples.counts.tolist() == [0, 4]
    assert samples.t.tolist() == [0.125, 0.375, 0.625, 0.875, 0, 0, 0, 0]


@BOTH
def test_no_rays(backend):
    none = torch.zeros(0, 3, device=DEVICE)
    samples = march(
        none, none, torch.ones(4, 4, 4, dtype=torch.bool, device=DEVICE), step=0.1, jitter=none[:, 0], backend=backend
    )
    assert len(samples.t) == len(samples.packed.counts) == 0


def test_what_does_not_fit_is_refused():
    origin, direction, occupied, jitter = scene()
    bits = pack_occupancy(occupied)
    live = torch.ones(1, dtype=torch.int32, device=DEVICE)
    with pytest.raises(ValueError, match="cube"):
        pack_occupancy(occupied[:3])
    with pytest.raises(ValueError, match="words"):
        pack_occupancy(occupied[:8, :8, :8], out=bits)
    with pytest.raises(ValueError, match="words"):
        march_padded(origin, direction, bits._replace(resolution=64), step=0.1, jitter=jitter, live=live, budget=9)
    with pytest.raises(ValueError, match="jitter"):
        march_padded(origin, direction, bits, step=0.1, jitter=jitter[:3], live=live, budget=9)
    with pytest.raises(ValueError, match="budget 0"):
        march_padded(origin, direction, bits, step=0.1, jitter=jitter, live=live, budget=0)


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE.type != "cuda", reason="needs a CUDA GPU")
def test_a_captured_graph_follows_its_inputs():
    origin, direction, occupied, jitter = scene()
    bits = pack_occupancy(torch.zeros_like(occupied), backend="triton")
    live = torch.zeros(1, dtype=torch.int32, device=DEVICE)
    source = occupied.clone()

    def run():
        pack_occupancy(source, out=bits, backend="triton")
        return march_padded(origin, direction, bits, step=STEP, jitter=jitter, live=live, budget=2000, first=2, backend="triton")

    run()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = run()
    for grid, rays in ((occupied, 140), (~occupied, 60)):
        source.copy_(grid)
        live.fill_(rays)
        graph.replay()
        found = [part.clone() for part in captured]
        for ours, eager in zip(found, run(), strict=True):
            assert torch.equal(ours, eager)
