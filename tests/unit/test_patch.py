"""Patches at the zero level: values and derivatives, reference and Triton kernel (interpreter or GPU)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates

from nsr.conventions import camera_centres, pixel_rays, project
from nsr.kernels.patch import PatchLoss, PatchRays, PatchShape, PatchTables, patch_loss
from tests.unit.look_at import look_at
from tests.unit.patch_scene import HEIGHT, NORMAL, STEP, WIDTH, K, photograph, poses, rays_of, samples_of, tables

pytest.importorskip("triton", reason="triton is not installed")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
BOTH = pytest.mark.parametrize("backend", ["reference", "triton"])
W2C = poses()
TABLES = tables(W2C)
SHAPE = PatchShape(7, 1, 3)
# View, column and row: the middle ones of two views, a corner, a border that the patch just fits into.
RAYS = rays_of(W2C, [0, 0, 2, 4, 1], [30, 45, 40, 0, 3], [28, 33, 20, 0, 30])


def single(parts):
    """Float32 on the device, the numbers as they are."""
    return [(part.float() if part.is_floating_point() else part).to(DEVICE) for part in parts]


def run(backend, samples, rays=RAYS, table=TABLES, shape=SHAPE) -> tuple[PatchLoss, torch.Tensor]:
    """The loss, and the gradient of its sum in the distances; float64 for the reference."""
    sdf, gradient, t, packed = samples
    if backend == "triton":
        sdf, gradient, t = single((sdf, gradient, t))
        packed, rays, table = (type(part)(*single(part)) for part in (packed, rays, table))
    sdf = sdf.clone().requires_grad_()
    found = patch_loss(sdf, gradient, t, packed, rays, table, shape=shape, step=STEP, backend=backend)
    if found.loss.requires_grad:
        found.loss.sum().backward()
    pulled = torch.zeros_like(sdf) if sdf.grad is None else sdf.grad
    return PatchLoss(found.loss.detach().double().cpu(), found.used.cpu()), pulled.double().cpu()


def by_hand(ray, offset, shape, images, sources):
    """1 - NCC of one ray with each source by ray-plane intersection and projection; NaN where the patch is not seen."""
    view, column, row = (int(RAYS[k][ray]) for k in (1, 2, 3))
    reach = np.arange(-(shape.size // 2), shape.size // 2 + 1) * shape.spacing
    pixels = np.stack(np.meshgrid(column + reach, row + reach), -1).reshape(-1, 2)
    origin, direction = pixel_rays(K, W2C[view], pixels + 0.5)
    points = origin + direction * ((offset - origin @ NORMAL) / (direction @ NORMAL))[:, None]
    own = images[view][pixels[:, 1], pixels[:, 0]]
    costs = []
    for source in sources:
        place, _ = project(K, W2C[source], points)
        theirs = map_coordinates(images[source], (place - 0.5).T[::-1], order=1, mode="constant", cval=np.nan)
        costs.append(1 - np.corrcoef(own, theirs)[0, 1])
    return np.array(costs)


@BOTH
@pytest.mark.parametrize(("offset", "shape"), [(0.02, SHAPE), (-0.04, PatchShape(5, 2, 2)), (0.05, PatchShape(11, 1, 1))])
def test_loss_is_that_of_intersection_and_projection(backend, offset, shape):
    images = [photograph(pose) for pose in W2C]
    found, _ = run(backend, samples_of(W2C, RAYS, offset, first=3), shape=shape)
    for ray in range(3):
        costs = by_hand(ray, offset, shape, images, TABLES.sources[int(RAYS.view[ray])].tolist())
        costs = np.sort(costs[costs < 0.9])[: shape.best]
        assert len(costs) == shape.best
        assert found.loss[ray] == pytest.approx(costs.mean(), abs=2e-5 if backend == "triton" else 1e-10)
    assert found.used[:3].all()
    assert not found.used[3], "a patch over the photograph's corner"


@BOTH
def test_no_loss_at_the_true_depth_and_a_pull_towards_it_from_both_sides(backend):
    size = PatchShape(9, 1, 4)
    exact, _ = run(backend, samples_of(W2C, RAYS), shape=size)
    assert exact.loss.max() < 1e-4
    for offset in (-0.05, -0.02, 0.02, 0.05):
        found, pulled = run(backend, samples_of(W2C, RAYS, offset), shape=size)
        assert found.used.sum() >= 3
        assert (found.loss > 20 * exact.loss)[found.used].all()
        # A plane too near (offset > 0) is crossed too early: larger distances move it back.
        pull = pulled.reshape(len(RAYS.view), -1).sum(1)[found.used]
        assert (pull * offset < 0).all(), offset


def test_derivative_is_the_difference_quotient():
    samples = samples_of(W2C, RAYS, 0.03, first=3)
    found, pulled = run("reference", samples)
    rows = torch.nonzero(pulled)[:, 0]
    assert len(rows) == 2 * found.used.sum(), "the two samples around a ray's crossing and no others"
    for row in rows.tolist():
        sums = []
        for shift in (1e-6, -1e-6):
            sdf = samples[0].clone()
            sdf[row] += shift
            sums.append(float(run("reference", (sdf, *samples[1:]))[0].loss.sum()))
        assert pulled[row] == pytest.approx((sums[0] - sums[1]) / 2e-6, rel=1e-3)


@pytest.mark.parametrize(("count", "size"), [(5, 7), (1, 11), (3, 11)])
def test_kernel_matches_the_reference(count, size):
    sources = [[other for other in range(6) if other != view][: count - 1] + [-1] for view in range(6)]
    sources = sources if count > 1 else [[(view + 1) % 6] for view in range(6)]
    table = tables(W2C, sources=sources)
    generator = torch.Generator().manual_seed(count)
    numbers = (torch.randint(0, most, (8,), generator=generator).tolist() for most in (6, WIDTH, HEIGHT))
    rays = rays_of(W2C, *numbers)
    sdf, gradient, t, packed = samples_of(W2C, rays, 0.02, first=2)
    # A surface that is no plane: other normals at every sample; strides of a feature-major array.
    gradient = (gradient + 0.2 * torch.randn(gradient.shape, generator=generator, dtype=torch.float64)).T.contiguous().T
    samples = sdf + 0.2 * STEP * torch.randn(sdf.shape, generator=generator, dtype=torch.float64), gradient, t, packed
    shape = PatchShape(size, 1, 2)
    (slow, slow_pull), (fast, fast_pull) = (run(name, samples, rays, table, shape) for name in ("reference", "triton"))
    assert slow.used.any()
    assert torch.equal(slow.used, fast.used)
    torch.testing.assert_close(fast.loss, slow.loss, rtol=1e-3, atol=2e-5)
    torch.testing.assert_close(fast_pull, slow_pull, rtol=1e-3, atol=2e-4 * float(slow_pull.abs().max()))
    again, again_pull = run("triton", samples, rays, table, shape)
    assert torch.equal(again.loss, fast.loss)
    assert torch.equal(again_pull, fast_pull)


def changed(change):
    """Samples of one ray at the true plane, changed; columns are the ray's samples in order."""
    sdf, gradient, t, packed = samples_of(W2C, rays_of(W2C, [0], [30], [28]))
    sdf, gradient, t = sdf.clone(), gradient.clone(), t.clone()
    change(sdf, gradient, t, int((sdf <= 0).nonzero()[0]))
    return sdf, gradient, t, packed


def second_wall(sdf, gradient, t, inside):
    sdf[inside + 3 :] = 0.1
    sdf[inside + 8 :] = -0.1


LEFT_OUT = {
    "no crossing": lambda sdf, gradient, t, inside: sdf.abs_().add_(0.01),
    "it begins inside": lambda sdf, gradient, t, inside: sdf[:1].neg_(),
    "all inside": lambda sdf, gradient, t, inside: sdf.abs_().neg_(),
    "nothing known between": lambda sdf, gradient, t, inside: t[inside:].add_(STEP),
    "hardly a slope": lambda sdf, gradient, t, inside: sdf.mul_(0.05),
    "a surface seen from behind": lambda sdf, gradient, t, inside: gradient.neg_(),
    "a grazing ray": lambda sdf, gradient, t, inside: gradient.copy_(torch.tensor([1.0, 0.0, -0.05])),
    "no gradient": lambda sdf, gradient, t, inside: gradient.zero_(),
}


@BOTH
@pytest.mark.parametrize("reason", LEFT_OUT)
def test_rays_that_are_left_out(backend, reason):
    found, pulled = run(backend, changed(LEFT_OUT[reason]), rays_of(W2C, [0], [30], [28]))
    assert not found.used.any()
    assert (found.loss == 0).all()
    assert (pulled == 0).all()


@BOTH
def test_the_first_crossing_counts_and_an_exact_zero_is_one(backend):
    ray = rays_of(W2C, [0], [30], [28])
    plain, pulled = run(backend, changed(lambda *parts: None), ray)
    walls, pulled_walls = run(backend, changed(second_wall), ray)
    assert torch.equal(plain.loss, walls.loss)
    assert torch.equal(pulled, pulled_walls)
    assert plain.used.all()
    # The sample lies on the plane, and is the crossing.
    sdf, gradient, t, packed = samples_of(W2C, ray)
    inside = int((sdf <= 0).nonzero()[0])
    t = t - float(sdf[inside] / (sdf[inside] - sdf[inside - 1])) * (t[inside] - t[inside - 1])
    sdf = sdf - sdf[inside]
    assert run(backend, (sdf, gradient, t, packed), ray)[0].loss == pytest.approx(float(plain.loss), abs=1e-5)


@BOTH
def test_rays_without_samples_and_no_rays(backend):
    sdf, gradient, t, packed = samples_of(W2C, RAYS, 0.02)
    whole, _ = run(backend, (sdf, gradient, t, packed))
    counts = packed.counts.clone()
    counts[1] = 0
    found, pulled = run(backend, (sdf, gradient, t, packed._replace(counts=counts)))
    assert found.used.tolist() == [bool(used) and ray != 1 for ray, used in enumerate(whole.used)]
    assert (pulled.reshape(5, -1)[1] == 0).all()
    none = PatchRays(*(part[:0] for part in RAYS))
    assert run(backend, (sdf, gradient, t, packed), none)[0].loss.shape == (0,)
    assert not run(backend, (sdf[:0], gradient[:0], t[:0], packed._replace(counts=counts * 0)))[0].used.any()


def one_source(pose, image):
    """Tables of view 0, a good source, and another one; view 0 is compared with both, or with the good one only."""
    images = [photograph(W2C[0]), photograph(W2C[1]), image]
    every = np.stack([W2C[0], W2C[1], pose])
    return [tables(every, images, sources=[other, [0, -1], [0, -1]]) for other in ([1, 2], [1, -1], [2, -1])]


NOISE = np.random.default_rng(0).uniform(0, 255, (HEIGHT, WIDTH))
BAD_SOURCES = {
    "behind it": (look_at((0.2, 0.1, 2.0), (0.2, 0.1, 4.0), (0, 1, 0)), photograph(W2C[0])),
    "looks past it": (look_at((0.2, 0.1, 2.0), (3.0, 0.1, 0.5), (0, 1, 0)), photograph(W2C[0])),
    "sees the other side": (look_at((0.2, 0.1, -2.0), (0, 0, 0), (0, 1, 0)), photograph(look_at((0.2, 0.1, -2.0), up=(0, 1, 0)))),
    "too slanted": (look_at((2.5, 0.0, -0.1), (0, 0, 0), (0, 1, 0)), NOISE),
    "sees something else": (W2C[2], 255 - photograph(W2C[2])),
    "dark": (W2C[2], np.zeros((HEIGHT, WIDTH))),
    "of one grey": (W2C[2], np.full((HEIGHT, WIDTH), 200.0)),
}


@BOTH
@pytest.mark.parametrize("reason", BAD_SOURCES)
def test_sources_that_do_not_count(backend, reason):
    with_both, good, bad = one_source(*BAD_SOURCES[reason])
    ray = rays_of(W2C, [0], [30], [28])
    samples = samples_of(W2C, ray, 0.02)
    expected, pull = run(backend, samples, ray, good)
    found, pulled = run(backend, samples, ray, with_both)
    assert expected.used.all()
    assert torch.equal(found.loss, expected.loss)
    assert torch.equal(pulled, pull)
    alone, none = run(backend, samples, ray, bad)
    assert not alone.used.any()
    assert (none == 0).all()


@BOTH
def test_a_photograph_without_contrast_has_no_loss(backend):
    images = [np.full((HEIGHT, WIDTH), 77.0), *(photograph(pose) for pose in W2C[1:])]
    ray = rays_of(W2C, [0], [30], [28])
    found, pulled = run(backend, samples_of(W2C, ray, 0.02), ray, tables(W2C, images))
    assert not found.used.any()
    assert torch.isfinite(pulled).all()
    assert (pulled == 0).all()


@BOTH
def test_brightness_and_contrast_of_a_photograph_do_not_matter(backend):
    images = [0.6 * photograph(pose) + 30 if view else photograph(pose) for view, pose in enumerate(W2C)]
    samples = samples_of(W2C, RAYS, 0.02)
    (plain, pull), (found, pulled) = run(backend, samples), run(backend, samples, table=tables(W2C, images))
    torch.testing.assert_close(found.loss[0], plain.loss[0], rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(pulled[:40], pull[:40], rtol=1e-2, atol=1e-4)


@BOTH
def test_photographs_of_16_bits_and_of_different_sizes(backend):
    wide = np.concatenate([photograph(W2C[1]), np.zeros((HEIGHT, 9))], axis=1)
    table = tables(W2C)
    rest = [photograph(pose).reshape(-1) for pose in W2C]
    rest[1] = wide.reshape(-1)
    lengths = [len(part) for part in rest]
    sizes = table.sizes.clone()
    sizes[1, 0] += 9
    other = table._replace(
        grey=torch.from_numpy(np.concatenate(rest)).half(), sizes=sizes, starts=torch.tensor(np.cumsum([0, *lengths[:-1]]))
    )
    samples = samples_of(W2C, RAYS, 0.03)
    found, plain = run("reference", samples, table=other)[0], run("reference", samples)[0]
    torch.testing.assert_close(found.loss, plain.loss, rtol=0, atol=2e-3)
    if backend == "triton":
        sdf, gradient, t = single(samples[:3])
        rays, packed = PatchRays(*single(RAYS)), type(samples[3])(*single(samples[3]))
        half = PatchTables(other.grey.to(DEVICE), *single(other[1:]))
        fast = patch_loss(sdf, gradient, t, packed, rays, half, shape=SHAPE, step=STEP, backend=backend)
        torch.testing.assert_close(fast.loss.double().cpu(), found.loss, rtol=1e-3, atol=2e-5)


@BOTH
def test_the_normal_is_taken_as_given(backend):
    sdf, gradient, t, packed = samples_of(W2C, RAYS, 0.02)
    sdf, gradient, t = single((sdf, gradient, t)) if backend == "triton" else (sdf, gradient, t)
    table, rays = (PatchTables(*single(TABLES)), PatchRays(*single(RAYS))) if backend == "triton" else (TABLES, RAYS)
    packed = type(packed)(*(part.to(DEVICE if backend == "triton" else "cpu") for part in packed))
    gradient.requires_grad_()
    sdf.requires_grad_()
    patch_loss(sdf, gradient, t, packed, rays, table, shape=SHAPE, step=STEP, backend=backend).loss.sum().backward()
    assert gradient.grad is None
    assert sdf.grad.abs().sum() > 0


def test_what_does_not_fit_is_refused():
    sdf, gradient, t, packed = samples_of(W2C, RAYS)
    options = {"shape": SHAPE, "step": STEP}
    with pytest.raises(ValueError, match="gradient"):
        patch_loss(sdf, gradient[1:], t, packed, RAYS, TABLES, **options)
    with pytest.raises(ValueError, match="2 rays for 5 rays"):
        patch_loss(sdf, gradient, t, packed._replace(starts=packed.starts[:2]), RAYS, TABLES, **options)
    for wrong in (PatchShape(8, 1, 3), PatchShape(1, 1, 3), PatchShape(7, 0, 3), PatchShape(7, 1, 0)):
        with pytest.raises(ValueError, match="size must be odd"):
            patch_loss(sdf, gradient, t, packed, RAYS, TABLES, shape=wrong, step=STEP)


def test_cameras_of_the_tables_are_those_of_the_conventions():
    pixels = np.array([[3.5, 7.5], [60.5, 50.5]])
    for view, pose in enumerate(W2C):
        direction = np.concatenate([pixels, np.ones((2, 1))], 1) @ TABLES.towards[view].numpy().T
        origin, expected = pixel_rays(K, pose, pixels)
        np.testing.assert_allclose(direction / np.linalg.norm(direction, axis=1, keepdims=True), expected, atol=1e-12)
        np.testing.assert_allclose(camera_centres(pose[None])[0], origin[0], atol=1e-12)
