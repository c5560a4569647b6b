"""Sparse points as training data, and the term they have in the plain step."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from nsr.conventions import project
from nsr.data.raw import Points
from nsr.errors import DataError
from nsr.fields.model import SurfaceModel
from nsr.losses import zero_level
from nsr.sampling.occupancy import OccupancyGrid
from nsr.train.data import load_training_data
from nsr.train.loop import Trainer
from nsr.train.points import SurfacePoints, load_surface_points
from nsr.train.step import training_step
from tests.unit.training_scene import RADIUS, SIMILARITY, SIZE, quick_config, sphere_scene

CPU = torch.device("cpu")


def sphere_points(scene, count=60):
    """Exact points of the sphere with the views that see them, world frame; every third error unknown."""
    rng = np.random.default_rng(5)
    unit = rng.normal(size=(count, 3))
    unit *= RADIUS / np.linalg.norm(unit, axis=1, keepdims=True)
    w2c = scene.unit_w2c(scene.views)
    centres = -np.einsum("vji,vj->vi", w2c[:, :3, :3], w2c[:, :3, 3])
    tracks = [np.flatnonzero(((centres - point) @ point) > 0.3 * RADIUS) for point in unit]
    error = np.where(np.arange(count) % 3 == 0, np.nan, rng.uniform(0.3, 1.0, count))
    offsets = np.concatenate([[0], np.cumsum([len(track) for track in tracks])])
    views = np.concatenate(tracks).astype(np.int32)
    return Points(SIMILARITY.apply(unit), np.zeros((count, 3), np.uint8), error, offsets, views)


@pytest.fixture()
def scene(tmp_path):
    bare = sphere_scene(tmp_path / "scene")
    return replace(bare, points=sphere_points(bare))


def test_table_is_what_a_loop_over_the_points_finds(scene):
    train = scene.split("train")
    found = load_surface_points(scene, train, False, CPU)
    names = {view.name for view in train}
    w2c = scene.unit_w2c(scene.views)
    unit = SIMILARITY.inverse().apply(scene.points.xyz)
    rows, sigmas, lengths = [], [], []
    for index, point in enumerate(unit):
        track = scene.points.views[scene.points.offsets[index] : scene.points.offsets[index + 1]]
        track = [view for view in track if scene.views[view].name in names]
        if len(track) < 2:
            continue
        spans = [(w2c[view] @ [*point, 1])[2] / scene.views[view].K[0, 0] for view in track]
        error = scene.points.error[index]
        sigmas.append((1.0 if np.isnan(error) else max(error, 0.25)) * np.mean(spans) / np.sqrt(len(track) - 1))
        rows.append(point)
        lengths.append(len(track))
    sigmas = np.array(sigmas)
    expected = np.column_stack([rows, sigmas, np.minimum(1, np.median(sigmas) / sigmas)])
    assert len(rows) > 20
    np.testing.assert_allclose(found.table.numpy(), expected, rtol=1e-5, atol=1e-6)
    assert np.bincount(found.entries.numpy()).tolist() == lengths


def test_points_out_of_the_ball_on_the_background_or_seen_once_are_left_out(scene):
    points = scene.points
    masked, whole = (len(load_surface_points(scene, scene.views, masks, CPU).table) for masks in (True, False))
    assert 0 <= whole - masked <= 2, "of the object only its rim can be taken for background"
    # Beside the object for every camera that sees it: masks say background.
    aside = SIMILARITY.apply([[0, 0, 0.9]])
    pixels, _ = project(scene.views[1].K, scene.views[1].w2c, aside)
    assert ((pixels > 0) & (pixels < SIZE)).all()
    more = Points(
        np.concatenate([points.xyz, aside, SIMILARITY.apply([[0, 0, 1.2]]), aside]),
        np.zeros((len(points.xyz) + 3, 3), np.uint8),
        np.concatenate([points.error, [0.5, 0.5, 0.5]]),
        np.concatenate([points.offsets, points.offsets[-1] + [2, 4, 5]]),
        np.concatenate([points.views, [1, 3, 1, 3, 1]]).astype(np.int32),
    )
    assert len(load_surface_points(replace(scene, points=more), scene.views, True, CPU).table) == masked
    assert len(load_surface_points(replace(scene, points=more), scene.views, False, CPU).table) == whole + 1


def test_what_is_drawn_goes_by_entries():
    table = torch.arange(15.0).reshape(3, 5)
    points = SurfacePoints(table, torch.tensor([0, 2, 2, 2], dtype=torch.int32))
    position, width, weight = points.draw(8000, torch.Generator().manual_seed(1))
    assert set(position[:, 0].tolist()) == {0.0, 10.0}
    assert (position[:, 0] == 10).float().mean().item() == pytest.approx(0.75, abs=0.02)
    torch.testing.assert_close(width, position[:, 0] + 3)
    torch.testing.assert_close(weight, position[:, 0] + 4)


def test_the_step_adds_the_weighted_term_and_its_gradient(scene):
    config = quick_config(loss={"points": 0.7, "points_cutoff": 0.2}, sparse_points=64)
    data = load_training_data(scene, config.model, config.train, CPU)
    model = SurfaceModel(config.model, torch.Generator().manual_seed(0), "reference")
    occupancy = OccupancyGrid(16, CPU)

    def step(points, seed=3):
        model.zero_grad()
        result = training_step(
            model,
            occupancy,
            data.store,
            config.train,
            step=5,
            rays=32,
            generator=torch.Generator().manual_seed(seed),
            points=points,
        )
        result.loss.backward()
        return result, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    without, plain = step(None)
    result, grads = step(data.points)
    # Rays and samples are drawn first, so they are the same in both.
    generator = torch.Generator().manual_seed(3)
    store_state = training_step(model, occupancy, data.store, config.train, step=5, rays=32, generator=generator)
    position, width, weight = data.points.draw(64, generator)
    model.zero_grad()
    term = (weight * zero_level(model.sdf.value(position), width, 1 / 0.2)).mean()
    (0.7 * term).backward()
    torch.testing.assert_close(store_state.loss, without.loss)
    torch.testing.assert_close(result.terms["points"], term.detach())
    torch.testing.assert_close(result.loss, without.loss + 0.7 * term)
    for name, parameter in model.named_parameters():
        if parameter.grad is not None and name in grads:
            torch.testing.assert_close(grads[name], plain[name] + parameter.grad, rtol=1e-4, atol=1e-7)
    assert "points" not in without.terms


def test_points_move_the_surface_to_where_they_are(scene, tmp_path):
    """Nothing but the points and the Eikonal term: the sphere of radius 0.5 becomes that of 0.6."""
    config = quick_config(loss={"points": 5.0, "colour_weight": 0.0, "mask": 0.0, "eikonal_random": 0.1}, random_points=128)
    trainer = Trainer(scene, config, tmp_path / "run", CPU)
    check = torch.nn.functional.normalize(torch.randn(200, 3, generator=torch.Generator().manual_seed(2)), dim=1) * RADIUS
    before = trainer.model.sdf.value(check).abs().mean().item()
    for _ in range(60):
        result = trainer.advance()
    after = trainer.model.sdf.value(check).abs().mean().item()
    assert before > 0.08
    assert after < 0.02
    assert float(result.terms["points"]) < 0.02


def test_a_scene_without_points_is_refused_and_one_without_usable_ones_is_not(scene, caplog):
    config = quick_config(loss={"points": [[0, 0.0], [10, 1.0]]})
    with pytest.raises(DataError, match="train.loss.points needs sparse points; run triangulate .* --points"):
        load_training_data(replace(scene, points=None), config.model, config.train, CPU)
    far = replace(scene.points, xyz=scene.points.xyz + 100)
    with caplog.at_level("WARNING"):
        data = load_training_data(replace(scene, points=far), config.model, config.train, CPU)
    assert data.points is None
    assert "no sparse point is usable" in caplog.text
    off = quick_config()
    assert load_training_data(scene, off.model, off.train, CPU).points is None


def test_a_checkpoint_of_other_points_is_another_run(scene):
    config = quick_config(loss={"points": 1.0})
    moved = replace(scene.points, xyz=scene.points.xyz + 1e-3)
    one, two = (load_training_data(s, config.model, config.train, CPU).digest for s in (scene, replace(scene, points=moved)))
    assert one != two
    plain = quick_config()
    without = {load_training_data(s, plain.model, plain.train, CPU).digest for s in (scene, replace(scene, points=None))}
    assert len(without) == 1
