"""Random rays and points: the Triton kernels against the reference, and both against what they should be distributed like."""

import pytest
import torch

from nsr.conventions import MASK_BACKGROUND, MASK_IGNORE, MASK_OBJECT
from nsr.kernels.points import points_in_ball, points_in_cells, points_of_table
from nsr.kernels.rays import PixelTables, draw_rays
from nsr.kernels.rays.philox import BALL_STREAM, CELL_STREAM, RAY_STREAM, philox, random_words, uniform
from nsr.kernels.rays.reference import pixel_rays

pytest.importorskip("triton", reason="triton is not installed")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
BOTH = pytest.mark.parametrize("backend", ["reference", "triton"])
SIZES = ((30, 20), (12, 10), (5, 7), (16, 16))  # width, height
WINDOWS = ((3, 2, 29, 20), (0, 0, 12, 10), (1, 2, 4, 6), (15, 0, 16, 16))


def at(step, kind=torch.int64):
    return torch.tensor([step], device=DEVICE, dtype=kind)


def tables(masks=True, windows=WINDOWS):
    """Four photographs whose pixels tell where they are: red = column, green = row, blue = view."""
    generator = torch.Generator().manual_seed(0)
    colours = [
        torch.stack([*torch.meshgrid(torch.arange(w), torch.arange(h), indexing="xy"), torch.full((h, w), view)], dim=-1)
        for view, (w, h) in enumerate(SIZES)
    ]
    flat = torch.cat([colour.reshape(-1, 3) for colour in colours]).to(torch.uint8)
    values = torch.tensor([MASK_BACKGROUND, MASK_IGNORE, MASK_OBJECT], dtype=torch.uint8)
    labels = values[torch.randint(0, 3, (len(flat),), generator=generator)] if masks else None
    areas = torch.tensor([w * h for w, h in SIZES])
    windows = torch.tensor(windows)
    window_areas = (windows[:, 2] - windows[:, 0]) * (windows[:, 3] - windows[:, 1])
    K_inverse = torch.linalg.inv(torch.tensor([[40.0, 0.3, 14], [0, 42, 9], [0, 0, 1]])).repeat(4, 1, 1)
    K_inverse[:, 0, 2] += torch.arange(4) * 0.1
    rotation = torch.linalg.qr(torch.randn(4, 3, 3, generator=generator))[0]
    parts = (
        flat, labels, areas.cumsum(0) - areas, torch.tensor([w for w, _ in SIZES]), windows, window_areas.cumsum(0),
        K_inverse, rotation, torch.randn(4, 3, generator=generator),
    )  # fmt: skip
    return PixelTables(*(None if part is None else part.to(DEVICE).contiguous() for part in parts))


def chi_square(counts, expected):
    """Deviation of a chi^2 of so many bins from its mean, in standard deviations."""
    freedom = len(counts) - 1
    return float(((counts - expected) ** 2 / expected).sum() - freedom) / (2 * freedom) ** 0.5


def test_philox_gives_the_published_numbers():
    # Known answers of Random123, which ships with the publication.
    zero = torch.zeros(1, dtype=torch.int64)
    full = zero + 0xFFFFFFFF
    assert [int(w) for w in philox((zero,) * 4, 0)] == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    assert [int(w) for w in philox((full,) * 4, -1)] == [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]
    last = uniform(full)
    assert 0.9999999 < last < 1


@pytest.mark.parametrize("masks", [True, False])
@pytest.mark.parametrize(("seed", "kind"), [(0, torch.int64), (1, torch.int32), (2**40 + 5, torch.int64), (-7, torch.int32)])
def test_draws_match_the_reference(masks, seed, kind):
    pixels = tables(masks)
    slow, fast = (draw_rays(pixels, 300, seed=seed, step=at(12345, kind), backend=name) for name in ("reference", "triton"))
    for name, ours, theirs in zip(slow._fields, fast, slow, strict=True):
        assert ours.dtype == theirs.dtype, name
        assert ours.shape == theirs.shape, name
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6 if ours.is_floating_point() else 0, msg=name)


@BOTH
def test_rays_carry_their_own_pixel(backend):
    pixels = tables()
    rays = draw_rays(pixels, 1000, seed=3, step=at(1), backend=backend)
    own = torch.stack([rays.column, rays.row, rays.view], dim=1)
    assert torch.equal((rays.colour * 255).round().int(), own)
    for found, expected in zip(rays, pixel_rays(pixels, rays.view, rays.column, rays.row), strict=False):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(rays.direction.norm(dim=1), torch.ones(1000, device=DEVICE))
    label = pixels.masks[pixels.starts[rays.view] + rays.row * pixels.widths[rays.view] + rays.column]
    assert torch.equal(rays.valid, label != MASK_IGNORE)
    assert torch.equal(rays.mask, (label == MASK_OBJECT).float())
    assert set(label.unique().tolist()) == {MASK_BACKGROUND, MASK_IGNORE, MASK_OBJECT}
    left, top, right, bottom = pixels.windows[rays.view].unbind(1)
    assert ((rays.column >= left) & (rays.column < right) & (rays.row >= top) & (rays.row < bottom)).all()


def test_without_masks_all_is_object_and_valid():
    rays = draw_rays(tables(masks=False), 100, seed=3, step=at(1), backend="triton")
    assert (rays.mask == 1).all()
    assert rays.valid.all()


@BOTH
def test_every_pixel_of_every_window_is_equally_likely(backend):
    pixels = tables()
    rays = draw_rays(pixels, 30_000, seed=5, step=at(7), backend=backend)
    flat = pixels.starts[rays.view] + rays.row * pixels.widths[rays.view] + rays.column
    total = int(pixels.cumulative_area[-1])
    counts = torch.bincount(flat, minlength=len(pixels.colours))
    assert (counts > 0).sum() == total, "the windows' pixels and no others"
    assert abs(chi_square(counts[counts > 0], 30_000 / total)) < 5
    for values in (rays.jitter, *rays.noise.unbind(1)):
        assert 0 <= values.min() < values.max() < 1
        assert abs(chi_square(torch.bincount((values * 50).int(), minlength=50), 30_000 / 50)) < 5
    numbers = torch.stack([flat.double(), rays.jitter.double(), *rays.noise.double().unbind(1)])
    assert (torch.corrcoef(numbers) - torch.eye(5, device=DEVICE)).abs().max() < 0.03


@BOTH
def test_more_than_four_giga_pixels(backend):
    # Views of one row of pixels each that is seen again in every row, so that the pixels fit into memory.
    width, height = 40_000, 50_000
    pixels = tables(masks=False, windows=((0, 0, width, height),) * 4)
    pixels = pixels._replace(
        widths=torch.zeros_like(pixels.widths), starts=torch.zeros_like(pixels.starts),
        colours=torch.zeros(width, 3, dtype=torch.uint8, device=DEVICE),
    )  # fmt: skip
    assert int(pixels.cumulative_area[-1]) > 2**32
    rays = draw_rays(pixels, 20_000, seed=0, step=at(0), backend=backend)
    assert abs(chi_square(torch.bincount(rays.view, minlength=4), 5000)) < 5
    assert abs(chi_square(torch.bincount(rays.row // 500, minlength=100), 200)) < 5
    assert abs(chi_square(torch.bincount(rays.column // 400, minlength=100), 200)) < 5
    # Columns come down to single pixels: numbers of 24 bits would leave gaps.
    assert abs(chi_square(torch.bincount(rays.column % 16, minlength=16), 1250)) < 5


@BOTH
def test_rays_follow_from_seed_and_step(backend):
    pixels = tables()

    def draw(seed, step, count=64):
        return torch.cat(
            [part.reshape(count, -1).double() for part in draw_rays(pixels, count, seed=seed, step=at(step), backend=backend)], 1
        )

    assert torch.equal(draw(1, 2), draw(1, 2))
    assert torch.equal(draw(1, 2, 20), draw(1, 2)[:20]), "a ray's numbers do not depend on how many there are"
    for other in (draw(1, 3), draw(2, 2), draw(2, 1)):
        assert ((other == draw(1, 2))[:, -4:]).float().mean() < 0.05


def test_streams_share_no_numbers():
    words = [
        torch.cat(random_words(11, at(step), 400, stream=stream, draw=draw))
        for stream, draws in ((RAY_STREAM, 2), (BALL_STREAM, 1), (CELL_STREAM, 1))
        for draw in range(draws)
        for step in (5, 6)
    ]
    # 12 800 numbers of 32 bits: 0.02 pairs in expectation.
    assert len(torch.cat(words).unique()) == len(words) * 1600


@BOTH
def test_points_in_ball_are_uniform(backend):
    room = torch.full((20_002, 3), 7.0, device=DEVICE)
    points = points_in_ball(room[:20_000], seed=4, step=at(9), backend=backend)
    assert points.data_ptr() == room.data_ptr()
    assert (room[20_000:] == 7).all()
    assert points.norm(dim=1).max() < 1 + 1e-6
    shells = (points.norm(dim=1) ** 3 * 20).int().clamp(max=19)
    assert abs(chi_square(torch.bincount(shells, minlength=20), 1000)) < 5
    octants = ((points > 0).int() * torch.tensor([1, 2, 4], device=DEVICE)).sum(1)
    assert abs(chi_square(torch.bincount(octants, minlength=8), 2500)) < 5
    # Second moments of the ball are 1/5; a standard error is 0.0012.
    torch.testing.assert_close(points.T @ points / 20_000, torch.eye(3, device=DEVICE) / 5, rtol=0, atol=0.006)


@BOTH
@pytest.mark.parametrize("resolution", [16, 13])
def test_points_in_cells_are_uniform_in_their_cells(backend, resolution):
    cells = torch.randint(resolution**3, (5000,), generator=torch.Generator().manual_seed(0), dtype=torch.int32).to(DEVICE)
    points = points_in_cells(cells, resolution, seed=4, step=at(9), backend=backend)
    corner = torch.stack([cells // resolution**2, cells // resolution % resolution, cells % resolution], dim=1)
    inside = (points + 1) * (resolution / 2) - corner
    assert inside.min() > -1e-5
    assert inside.max() < 1 + 1e-5
    for axis in inside.unbind(1):
        assert abs(chi_square(torch.bincount((axis * 25).int().clamp(0, 24), minlength=25), 200)) < 5
    assert points.abs().max() <= 1


@pytest.mark.parametrize("seed", [0, -3, 2**50])
def test_points_match_the_reference(seed):
    slow, fast = (
        points_in_ball(torch.empty(300, 3, device=DEVICE), seed=seed, step=at(2), backend=n) for n in ("reference", "triton")
    )
    torch.testing.assert_close(fast, slow, rtol=0, atol=2e-6)
    cells = torch.arange(300, device=DEVICE)
    slow, fast = (points_in_cells(cells, 7, seed=seed, step=at(2), backend=n) for n in ("reference", "triton"))
    torch.testing.assert_close(fast, slow, rtol=0, atol=1e-6)
    repeated = points_in_cells(torch.zeros_like(cells), 7, seed=seed, step=at(2), backend="triton")
    assert len(repeated.unique(dim=0)) == 300, "a cell named twice has two points"


def table_of(points, facts):
    """A table whose rows tell their number, and entries that name row r r + 1 times."""
    rows = torch.arange(float(points), device=DEVICE)[:, None] + torch.arange(3 + facts, device=DEVICE) / 10
    number = torch.arange(points, device=DEVICE)
    return rows.contiguous(), torch.repeat_interleave(number, number + 1).int()


@BOTH
@pytest.mark.parametrize("facts", [0, 2])
def test_points_of_a_table_are_drawn_by_their_entries(backend, facts):
    table, entries = table_of(5, facts)
    out = torch.empty(9000, 3, device=DEVICE)
    found = points_of_table(out, table, entries, seed=7, step=at(3), backend=backend)
    row = out[:, 0].round().long()
    torch.testing.assert_close(torch.cat([out, found], 1), table[row])
    torch.testing.assert_close(row.bincount().float() / 9000, torch.arange(1.0, 6, device=DEVICE) / 15, rtol=0, atol=0.02)
    other = torch.empty_like(out)
    points_of_table(other, table, entries, seed=7, step=at(4), backend=backend)
    assert (other != out).any(1).float().mean() > 0.5, "another step draws others"


@pytest.mark.parametrize("seed", [0, -3, 2**50])
@pytest.mark.parametrize("points", [1, 6])
def test_points_of_a_table_match_the_reference(seed, points):
    table, entries = table_of(points, 2)
    results = []
    for backend in ("reference", "triton"):
        out = torch.empty(300, 3, device=DEVICE)
        results.append((out, points_of_table(out, table, entries, seed=seed, step=at(2), backend=backend)))
    for slow, fast in zip(*results, strict=True):
        assert torch.equal(slow, fast)


@BOTH
def test_no_points(backend):
    assert points_in_ball(torch.empty(0, 3, device=DEVICE), seed=0, step=at(0), backend=backend).shape == (0, 3)
    facts = points_of_table(torch.empty(0, 3, device=DEVICE), *table_of(3, 2), seed=0, step=at(0), backend=backend)
    assert facts.shape == (0, 2)
    nothing = torch.empty(0, dtype=torch.int32, device=DEVICE)
    assert points_in_cells(nothing, 4, seed=0, step=at(0), backend=backend).shape == (0, 3)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="step"):
        draw_rays(tables(), 4, seed=0, step=torch.tensor([1.0]))
    with pytest.raises(ValueError, match="0 rays"):
        draw_rays(tables(), 0, seed=0, step=at(0))
    with pytest.raises(ValueError, match="contiguous"):
        points_in_ball(torch.empty(3, 4).T, seed=0, step=at(0))
    with pytest.raises(ValueError, match="step"):
        points_in_ball(torch.empty(4, 3), seed=0, step=torch.tensor(1))
    with pytest.raises(ValueError, match="cells"):
        points_in_cells(torch.zeros(4), 4, seed=0, step=at(0))
    table, entries = table_of(3, 2)
    with pytest.raises(ValueError, match="table"):
        points_of_table(torch.empty(4, 3), table.T, entries, seed=0, step=at(0))
    with pytest.raises(ValueError, match="entries"):
        points_of_table(torch.empty(4, 3), table, entries[:0], seed=0, step=at(0))


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE.type != "cuda", reason="needs a CUDA GPU")
def test_a_captured_graph_follows_the_step():
    pixels, step, known = tables(), at(0), table_of(9, 2)
    room = torch.empty(100, 3, device=DEVICE)
    cells = torch.arange(100, dtype=torch.int32, device=DEVICE)

    def run():
        rays = draw_rays(pixels, 256, seed=3, step=step, backend="triton")
        points_in_ball(room, seed=3, step=step, backend="triton")
        drawn = torch.empty(100, 3, device=DEVICE)
        facts = points_of_table(drawn, *known, seed=3, step=step, backend="triton")
        return *rays, room, points_in_cells(cells, 8, seed=3, step=step, backend="triton"), drawn, facts

    run()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = run()
    for number in (4, 5):
        step.fill_(number)
        graph.replay()
        found = [part.clone() for part in captured]
        for ours, eager in zip(found, run(), strict=True):
            assert torch.equal(ours, eager)
