"""Patches as training data: which views are compared, the photographs in grey, and the term in the plain step."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from nsr.conventions import camera_centres, pixel_rays
from nsr.data.raw import Points
from nsr.errors import ConfigError
from nsr.fields.model import SurfaceModel
from nsr.kernels.packed import Packed
from nsr.kernels.patch import PatchRays, PatchShape, patch_loss
from nsr.sampling.occupancy import OccupancyGrid
from nsr.scene.spill import Spill
from nsr.train.data import load_training_data
from nsr.train.loop import Trainer
from nsr.train.patch import Sightings, grey_levels, load_patches, patch_term, sightings, source_views
from nsr.train.step import training_step
from tests.unit import training_scene
from tests.unit.training_scene import RADIUS, SIMILARITY, quick_config, sphere_scene

CPU = torch.device("cpu")
SIZE, K = 128, np.array([[160.0, 0, 64], [0, 160, 64], [0, 0, 1]])


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """The usual sphere with a finer pattern in larger photographs, so that a patch holds some of it."""
    with pytest.MonkeyPatch.context() as patched:
        for name, value in (("SIZE", SIZE), ("K", K), ("FREQUENCY", 20)):
            patched.setattr(training_scene, name, value)
        return sphere_scene(tmp_path_factory.mktemp("patches") / "scene", views=24)


def around(*degrees):
    """Cameras (V, 3) around the origin."""
    angle = np.radians(degrees)
    return 3 * np.stack([np.cos(angle), np.sin(angle), np.zeros_like(angle)], axis=1)


def seen_by(*groups):
    """Points at the origin with the views that see them; weight 1."""
    offsets = np.cumsum([0, *(len(group) for group in groups)])
    return Sightings(np.zeros((len(groups), 3)), np.ones(len(groups)), offsets, np.concatenate(groups).astype(np.int64))


def test_sources_are_those_under_a_good_angle():
    # Under 5 degrees the score falls faster than above: 4 is as good as 15, 3 as 25.
    centres = around(0, 2.5, 6, 12, 44, 46, 180)
    sources = source_views(seen_by(range(7)), centres, 8)
    assert sources[0].tolist() == [2, 3, 1, 4, -1, -1, -1, -1]
    assert sources[6].tolist() == [-1] * 8
    assert source_views(seen_by(range(7)), centres, 2)[0].tolist() == [2, 3]
    assert sources.dtype == np.int32


def test_sources_share_what_they_see():
    centres = around(0, 6, 8, 10)
    # View 2 shares three points with view 0, view 1 one, view 3 none.
    sources = source_views(seen_by([0, 2], [0, 1, 2], [0, 2], [1, 3]), centres, 3)
    assert sources[0].tolist() == [2, 1, -1]
    assert sources[3].tolist() == [1, -1, -1]


def test_sparse_points_outweigh_the_lattice(scene):
    views = scene.split("train")
    bare = sightings(scene, views)
    assert (np.linalg.norm(bare.position, axis=1) <= 0.6 + 1e-9).all()
    assert len(bare.position) == 33
    first, last = scene.views.index(views[0]), scene.views.index(views[1])
    unit = np.array([[0.1, 0.2, 0.3], [0, 0, 1.2]])
    points = Points(
        SIMILARITY.apply(unit), np.zeros((2, 3), np.uint8), np.full(2, 0.5), np.array([0, 2, 4]),
        np.array([first, last, first, last], dtype=np.int32),
    )  # fmt: skip
    seen = sightings(replace(scene, points=points), views)
    np.testing.assert_allclose(seen.position[0], unit[0], atol=1e-12)
    assert np.diff(seen.offsets)[:2].tolist() == [2, 0], "a point out of the ball is seen by none"
    assert seen.views[:2].tolist() == [0, 1]
    assert seen.weight[0] > 100 * seen.weight[-1]
    centres = camera_centres(scene.unit_w2c(views))
    alone, helped = (source_views(part, centres, 3) for part in (bare, seen))
    assert (alone[:, 0] >= 0).all()
    assert (helped[2:] == alone[2:]).all(), "views without shared points are compared as before"


def test_grey_is_the_luminance(tmp_path):
    colours = torch.randint(0, 256, (1000, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    exact = colours.double() @ torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)
    for spill in (None, Spill(tmp_path), Spill(tmp_path, limit=0)):
        grey = grey_levels(colours, spill)
        assert grey.dtype == torch.float16
        torch.testing.assert_close(grey.double(), exact, rtol=0, atol=1 / 16)


def sphere_samples(tables, rays, radius, number=24):
    """Samples around where the rays meet a sphere: distance, gradient, t, packed."""
    origin, direction = tables.centre[rays.view.long()].double(), rays.direction.double()
    along = -(origin * direction).sum(1)
    near = along - (along**2 - origin.square().sum(1) + radius**2).sqrt()
    t = (near[:, None] + (torch.arange(number) - number / 2 + 0.3) * 0.02).reshape(-1)
    ray = torch.arange(len(near)).repeat_interleave(number)
    point = origin[ray] + direction[ray] * t[:, None]
    starts = torch.arange(len(near)) * number
    packed = Packed(ray, starts, torch.full_like(starts, number))
    return point.norm(dim=1) - radius, point / point.norm(dim=1, keepdim=True), t, packed


def test_the_true_surface_of_a_scene_has_the_least_loss(scene):
    """Through all frames: the scene's world is scaled, turned and moved."""
    config = quick_config(loss={"patch": 0.5}, patch={"size": 7, "sources": 6, "best": 3}, split="all")
    data = load_training_data(scene, config.model, config.train, CPU)
    tables = data.patches
    assert tables.sources.shape == (24, 6)
    w2c = scene.unit_w2c(scene.views)
    pixel = torch.tensor([20.5, 30.5, 1.0])
    for view in (0, 7):
        _, expected = pixel_rays(K, w2c[view], [[20.5, 30.5]])
        found = torch.nn.functional.normalize(tables.towards[view] @ pixel, dim=0)
        np.testing.assert_allclose(found.numpy(), expected[0], atol=1e-6)
    view = torch.arange(24).repeat_interleave(4)
    column, row = SIZE // 2 + torch.tensor([-3, 2, 4, -1]).repeat(24), SIZE // 2 + torch.tensor([1, -4, 3, -2]).repeat(24)
    batch = data.store.rays(view, column, row)
    assert torch.equal(batch.column, column)
    assert torch.equal(batch.row, row)
    rays = PatchRays(batch.direction, view, column, row)

    def mean(radius):
        found = patch_loss(*sphere_samples(tables, rays, radius), rays, tables, shape=PatchShape(7, 1, 3), step=0.02)
        assert found.used.sum() > 40
        return float(found.loss.sum() / found.used.sum())

    losses = [mean(radius) for radius in (RADIUS - 0.08, RADIUS - 0.03, RADIUS, RADIUS + 0.03, RADIUS + 0.08)]
    assert losses[0] > losses[1] > losses[2] < losses[3] < losses[4], losses


def one_step(scene, config, data, step=5, patches=None):
    """Result and gradients by name of a plain step."""
    model = SurfaceModel(config.model, torch.Generator().manual_seed(0), "reference")
    result = training_step(
        model, OccupancyGrid(16, CPU), data.store, config.train, step=step, rays=32,
        generator=torch.Generator().manual_seed(3), patches=patches,
    )  # fmt: skip
    result.loss.backward()
    return result, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def test_the_step_adds_the_weighted_term_and_it_reaches_table_and_network(scene):
    config = quick_config(loss={"patch": [[3, 0.0], [5, 0.7]]}, patch={"size": 5, "rays": 20})
    data = load_training_data(scene, config.model, config.train, CPU)
    without, plain = one_step(scene, config, data)
    result, grads = one_step(scene, config, data, patches=data.patches)
    assert 0.001 < float(result.terms["patch"]) < 0.9
    torch.testing.assert_close(result.loss, without.loss + 0.7 * result.terms["patch"])
    moved = {name for name in grads if (grads[name] - plain[name]).abs().max() > 1e-6}
    assert "sdf.table" in moved
    assert any(name.startswith("sdf.") and not name.endswith("table") for name in moved)
    assert not any(name.startswith(("radiance", "background", "log_sharpness")) for name in moved)
    early, _ = one_step(scene, config, data, step=2, patches=data.patches)
    assert "patch" not in early.terms
    assert "patch" not in without.terms


def test_only_the_first_rays_count(scene):
    config = quick_config(loss={"patch": 1.0}, patch={"size": 5, "rays": 7}, split="all")
    data = load_training_data(scene, config.model, config.train, CPU)
    column, row = torch.full((12,), SIZE // 2 - 2), torch.full((12,), SIZE // 2 + 1)
    batch = data.store.rays(torch.arange(12), column, row)
    parts = sphere_samples(data.patches, PatchRays(batch.direction, batch.view, column, row), RADIUS - 0.05)
    term = patch_term(*parts, batch, data.patches, config=config.train.patch, step=0.02, backend="reference")
    shape = PatchShape(5, 1, 4)
    every = PatchRays(batch.direction, batch.view, column, row)
    found = patch_loss(*parts, every, data.patches, shape=shape, step=0.02)
    assert found.used[:7].any()
    torch.testing.assert_close(term, found.loss[:7].sum() / found.used[:7].sum())


def test_patches_move_the_surface_to_where_the_photographs_agree(scene, tmp_path):
    """Nothing but patches and the Eikonal term: a sphere that is too small grows towards the photographs' one."""
    config = quick_config(
        loss={"patch": 1.0, "colour_weight": 0.0, "mask": 0.0, "eikonal_random": 0.1}, random_points=128,
        patch={"size": 9, "sources": 6, "best": 3, "rays": 64}, split="all", optim={"learning_rate": 0.004},
    )  # fmt: skip
    config.model.sdf.sphere_radius = RADIUS - 0.05
    trainer = Trainer(scene, config, tmp_path / "run", CPU)
    check = torch.nn.functional.normalize(torch.randn(200, 3, generator=torch.Generator().manual_seed(2)), dim=1) * RADIUS
    before = trainer.model.sdf.value(check).mean().item()
    losses = [float(trainer.advance().terms["patch"]) for _ in range(35)]
    after = trainer.model.sdf.value(check).mean().item()
    assert before > 0.04
    assert abs(after) < 0.4 * before
    assert np.mean(losses[-5:]) < 0.5 * losses[0]


def test_no_weight_no_tables(scene):
    config = quick_config()
    assert load_training_data(scene, config.model, config.train, CPU).patches is None


def test_what_is_compared_belongs_to_the_data(scene):
    configs = [quick_config(loss={"patch": 0.5}, patch={"sources": count}) for count in (3, 3, 4)]
    digests = [load_training_data(scene, config.model, config.train, CPU).digest for config in configs]
    assert digests[0] == digests[1] != digests[2]


def test_views_too_far_apart_have_no_patches(tmp_path, caplog):
    far = sphere_scene(tmp_path / "far", views=3)
    config = quick_config(loss={"patch": 0.5}, split="all")
    data = load_training_data(far, config.model, config.train, CPU)
    assert data.patches is None
    assert "within 45 degrees" in caplog.text
    assert load_patches(far, far.views, data.store, config.train.patch) is None


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"size": 10}, "train.patch.size: 10 must be an odd number"),
        ({"size": 99}, "train.patch.size: 99 must be an odd number of pixels from 3 to 21"),
        ({"size": 1}, "train.patch.size: 1"),
        ({"sources": 17}, "train.patch.sources: 17 must be at most 16"),
        ({"best": 0}, "train.patch.best: 0 must be greater than 0"),
        ({"rays": 0}, "train.patch.rays"),
        ({"spacing": 0}, "train.patch.spacing"),
    ],
)
def test_settings_that_cannot_work_are_refused(setting, message):
    with pytest.raises(ConfigError, match=message):
        quick_config(patch=setting)
