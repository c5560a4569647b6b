"""Sampling, distances, scores and the object-surface protocol against naive twins and known shapes."""

from __future__ import annotations

import json

import numpy as np
import pytest
import trimesh
from PIL import Image

from nsr.config import EvaluateConfig, resolve
from nsr.conventions import MASK_BACKGROUND, MASK_OBJECT, Similarity, project
from nsr.errors import ConfigError, EvaluationError
from nsr.evaluate import chamfer
from nsr.evaluate.object_surface import evaluate_surface, surface_distance
from nsr.evaluate.stage import MeshEvaluation, evaluate_mesh_stage
from nsr.evaluate.surface import object_radius, sample_surface
from nsr.evaluate.visibility import above_floor
from nsr.mesh.io import read_mesh, write_ply
from nsr.mesh.surface import Mesh
from nsr.mesh.visibility import Camera
from nsr.scene.scene import Scene, View, save_scene

WIDTH, HEIGHT = 96, 72
K = np.array([[90.0, 0.0, 48.0], [0.0, 90.0, 36.0], [0.0, 0.0, 1.0]])
SMALL = EvaluateConfig(samples=20_000, mask_dilation=-1)


def ball(radius=1.0, centre=(0.0, 0.0, 0.0), subdivisions=4):
    made = trimesh.creation.icosphere(subdivisions=subdivisions, radius=radius)
    return Mesh(np.asarray(made.vertices) + centre, np.asarray(made.faces, dtype=np.int64))


def joined(first, second):
    return Mesh(
        np.concatenate([first.vertices, second.vertices]), np.concatenate([first.faces, second.faces + len(first.vertices)])
    )


def around(count=14, distance=4.0):
    """World-to-camera matrices on a sphere, looking at the origin."""
    k = np.arange(count) + 0.5
    z, angle = 1 - 2 * k / count, np.pi * (1 + 5**0.5) * k
    r = np.sqrt(1 - z * z)
    out = []
    for position in distance * np.stack([r * np.cos(angle), r * np.sin(angle), z], axis=1):
        forward = -position / distance
        right = np.cross(forward, [0.0, 0.0, 1.0])
        right /= np.linalg.norm(right)
        w2c = np.eye(4)
        w2c[:3, :3] = np.stack([right, np.cross(forward, right), forward])
        w2c[:3, 3] = -w2c[:3, :3] @ position
        out.append(w2c)
    return np.stack(out)


CAMERAS = [Camera(WIDTH, HEIGHT, K, w2c) for w2c in around()]


def test_samples_are_seeded_and_uniform_over_the_area():
    corner = np.array([[0.0, 0, 0], [3, 0, 0], [0, 1, 0], [0, 0, 5], [1, 0, 5], [0, 1, 5], [9, 9, 9]])
    mesh = Mesh(corner, np.array([[0, 1, 2], [3, 4, 5], [6, 6, 6]]))
    points = sample_surface(mesh, 40_000, 5)
    assert np.array_equal(points, sample_surface(mesh, 40_000, 5))
    assert not np.array_equal(points, sample_surface(mesh, 40_000, 6))
    lower = points[points[:, 2] == 0]
    assert len(lower) / 40_000 == pytest.approx(0.75, abs=0.01)
    assert len(lower) + (points[:, 2] == 5).sum() == 40_000
    x, y = lower[:, 0] / 3, lower[:, 1]
    assert min(x.min(), y.min(), (1 - x - y).min()) >= -1e-12
    # Moments of the uniform distribution on a triangle: mean 1/3, variance 1/18, covariance -1/36.
    np.testing.assert_allclose([x.mean(), y.mean()], 1 / 3, atol=0.006)
    np.testing.assert_allclose(np.cov(x, y), [[1 / 18, -1 / 36], [-1 / 36, 1 / 18]], atol=0.002)
    with pytest.raises(EvaluationError, match="without area"):
        sample_surface(mesh.select(np.array([False, False, True])), 10, 0)


def test_object_radius_is_taken_from_the_box_centre():
    centre, radius = object_radius(ball(100.0, (35.0, -12.0, 620.0)))
    np.testing.assert_allclose(centre, [35.0, -12.0, 620.0], atol=1e-9)
    assert radius == pytest.approx(100.0)


def test_nearest_equals_all_pairs():
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(300, 3)), rng.normal(size=(200, 3))
    naive = np.sqrt(((a[:, None] - b) ** 2).sum(axis=2)).min(axis=1)
    np.testing.assert_allclose(chamfer.nearest(a, b), naive)
    limited = chamfer.nearest(a, b, limit=0.3)
    np.testing.assert_allclose(limited[naive < 0.3], naive[naive < 0.3])
    assert np.isinf(limited[naive >= 0.3]).all()
    assert np.isinf(chamfer.nearest(a, np.zeros((0, 3)))).all()


def test_hidden_ground_truth_rule_equals_its_naive_twin():
    rng = np.random.default_rng(2)
    percent = 0.06
    everything = rng.uniform(size=(400, 3))
    dense = rng.uniform(size=(3000, 3))
    seen = everything[everything[:, 0] > 0.4]
    points = rng.uniform(size=(500, 3))

    def distances(p, q):
        return np.sqrt(((p[:, None] - q) ** 2).sum(axis=2)).min(axis=1) / percent

    close = dense[distances(dense, seen) < 1]
    expected = []
    for point in points:
        to_seen = distances(point[None], seen)[0]
        if to_seen < 2:
            expected.append(distances(point[None], close)[0])
        elif distances(point[None], everything)[0] < 1:
            expected.append(np.nan)
        else:
            expected.append(to_seen)
    found = chamfer.to_seen_surface(points, seen, everything, dense, percent=percent)
    assert np.isnan(expected).sum() > 2
    assert (np.array(expected) < 2).sum() > 5
    np.testing.assert_allclose(found, expected)


def test_metrics_by_hand():
    to_truth = np.array([0.2, 0.4, 3.0, 30.0, np.nan])
    to_prediction = np.array([0.6, 0.8, np.inf])
    found = chamfer.chamfer_metrics(to_truth, to_prediction, limit=20.0, thresholds=(0.5, 1.0))
    assert found["accuracy"] == pytest.approx(1.2)
    assert found["completeness"] == pytest.approx(0.7)
    assert found["chamfer"] == pytest.approx(0.95)
    assert found["surplus"] == pytest.approx(0.25)
    assert found["missed"] == pytest.approx(1 / 3)
    assert (found["precision_0.5"], found["recall_0.5"], found["f_0.5"]) == (0.5, 0.0, 0.0)
    assert found["f_1.0"] == pytest.approx(2 * 0.5 * (2 / 3) / (0.5 + 2 / 3))
    assert chamfer.f_score(0.0, 0.0) == 0.0
    assert chamfer.mean_distance(np.array([np.nan, 50.0]), 20.0) == 20.0


def floor_of(density):
    """Mean distance, in percent of the radius 1, from a point of the unit sphere to the nearest of `density` random ones."""
    return 100 * 0.5 / np.sqrt(density / (4 * np.pi))


def test_a_larger_sphere_is_off_by_the_difference_of_the_radii():
    found = evaluate_surface(ball(1.03), ball(1.0), CAMERAS, SMALL)
    assert found.metrics["accuracy"] == pytest.approx(3.0, rel=0.03)
    assert found.metrics["completeness"] == pytest.approx(3.0, rel=0.03)
    assert found.metrics["chamfer_world"] == pytest.approx(found.metrics["chamfer"] / 100)
    assert found.metrics["f_1.0"] == 0.0
    assert found.metrics["missed"] == 0.0


def test_a_mesh_against_itself_has_the_distance_that_sampling_adds_and_the_same_numbers_twice():
    first = evaluate_surface(ball(), ball(), CAMERAS, SMALL)
    assert first.metrics["accuracy"] == pytest.approx(floor_of(200_000), rel=0.06)
    assert first.metrics["completeness"] == pytest.approx(floor_of(100_000), rel=0.03)
    assert first.counts["not_judged"] == 0
    assert evaluate_surface(ball(), ball(), CAMERAS, SMALL).metrics == first.metrics


def test_hidden_surplus_counts_only_when_asked():
    inside = joined(ball(), ball(0.5))
    visible = evaluate_surface(inside, ball(), CAMERAS, SMALL)
    assert visible.metrics["surplus"] == 0.0
    assert visible.metrics["accuracy"] < 0.6
    everything = evaluate_surface(inside, ball(), CAMERAS, EvaluateConfig(samples=20_000, mask_dilation=-1, visible_only=False))
    assert everything.metrics["surplus"] == pytest.approx(0.2, abs=0.01), "a fifth of the area, 50 % deep: dropped from the mean"
    assert everything.metrics["precision_1.0"] == pytest.approx(0.8 * visible.metrics["precision_1.0"], abs=0.01)


def test_a_missing_half_shows_in_recall_and_completeness():
    half = ball().select(ball().vertices[ball().faces][:, :, 2].min(axis=1) > 0)
    found = evaluate_surface(half, ball(), CAMERAS, SMALL)
    assert found.metrics["recall_1.0"] == pytest.approx(0.5, abs=0.08)
    assert found.metrics["missed"] > 0.3
    assert found.metrics["accuracy"] < 0.6


def test_prediction_next_to_unseen_ground_truth_is_not_judged():
    above = [Camera(WIDTH, HEIGHT, K, w2c) for w2c in around() if np.linalg.inv(w2c)[2, 3] > 1.0]
    config = EvaluateConfig(samples=20_000, mask_dilation=-1, visible_only=False)
    found = evaluate_surface(ball(), ball(), above, config)
    share = found.counts["not_judged"] / found.counts["prediction"]
    assert 0.2 < share < 0.5
    assert found.metrics["accuracy"] < 0.6


def test_floor_takes_the_table_away_along_any_direction():
    table = trimesh.creation.box((6.0, 6.0, 0.02)).subdivide().subdivide().subdivide()
    for up, turn in (((0, 0, 1), np.eye(3)), ((0, 2, 0), np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]]))):
        slab = Mesh((np.asarray(table.vertices) - [0, 0, 1.0]) @ turn.T, np.asarray(table.faces, dtype=np.int64))
        without = evaluate_surface(joined(ball(), slab), ball(), CAMERAS, SMALL)
        config = EvaluateConfig(samples=20_000, mask_dilation=-1, floor=2.0, up=up)
        with_floor = evaluate_surface(joined(ball(), slab), ball(), CAMERAS, config)
        assert without.metrics["accuracy"] > 1.0
        assert any("no floor" in note for note in without.notes)
        assert with_floor.metrics["accuracy"] < 0.6
        assert with_floor.metrics["missed"] < 0.01
        assert not any("no floor" in note for note in with_floor.notes)
    with pytest.raises(ConfigError, match=r"evaluate\.up"):
        above_floor(np.zeros((1, 3)), (0, 0, 0), 0.0)


def test_nothing_to_compare_is_a_named_error():
    with pytest.raises(EvaluationError, match="different frames"):
        evaluate_surface(ball(1.0, (9.0, 0.0, 0.0)), ball(), CAMERAS, SMALL)
    with pytest.raises(EvaluationError, match="no ground truth counts"):
        evaluate_surface(ball(), ball(), [], SMALL)
    config = EvaluateConfig(samples=2000, mask_dilation=-1, floor=150.0)
    with pytest.raises(EvaluationError, match="no predicted surface counts"):
        evaluate_surface(ball(0.3), ball(), CAMERAS, config)


def test_surface_distance_is_exact():
    points = np.array([[620.0, 0, 3], [620.2, 0.1, -2], [622.0, 0, 0]])
    mesh = Mesh(np.array([[620.0, -1, 0], [621, 0, 0], [620, 1, 0]]), np.array([[0, 1, 2]]))
    np.testing.assert_allclose(surface_distance(points, mesh), [3.0, 2.0, 1.0], atol=1e-4)


@pytest.fixture
def sphere_scene(tmp_path):
    """A scene with masks of a sphere of radius 1, in a frame that a similarity takes to the ground truth's."""
    to_truth = Similarity(4.0, np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]), np.array([10.0, 20.0, 30.0]))
    root = tmp_path / "scene"
    (root / "masks").mkdir(parents=True)
    views, world_mats = [], {}
    columns, rows = np.meshgrid(np.arange(WIDTH) + 0.5, np.arange(HEIGHT) + 0.5)
    for number, truth_w2c in enumerate(around()):
        # Cameras are laid out around the sphere of the scene's frame, then told to the ground truth's frame.
        centre = project(K, truth_w2c, np.zeros((1, 3)))[0][0]
        mask = np.hypot(columns - centre[0], rows - centre[1]) < 90.0 / np.sqrt(15.0)
        name = f"{number:03d}"
        Image.fromarray(np.where(mask, MASK_OBJECT, MASK_BACKGROUND).astype(np.uint8)).save(root / "masks" / f"{name}.png")
        views.append(View(name, root / f"{name}.png", root / "masks" / f"{name}.png", WIDTH, HEIGHT, K, truth_w2c))
        known = np.eye(4)
        known[:3] = K @ to_truth.inverse().camera_to_unit(truth_w2c)[:3]
        world_mats[f"world_mat_{number}"] = known
    np.savez(tmp_path / "cameras_sphere.npz", **world_mats)
    scene = Scene(root, "test/ball", tuple(views), Similarity.identity())
    save_scene(scene)
    write_ply(tmp_path / "truth.ply", ball(1.0).moved(to_truth))
    write_ply(tmp_path / "mesh.ply", joined(ball(1.03), ball(0.3, (1.6, 0.0, 0.0))))
    return scene


def test_stage_aligns_culls_and_writes(tmp_path, sphere_scene):
    config = resolve([{"evaluate": {"samples": 20_000, "mask_dilation": 3}}])
    job = MeshEvaluation(
        tmp_path / "mesh.ply",
        sphere_scene.root,
        tmp_path / "evaluate" / "mesh.json",
        tmp_path / "truth.ply",
        tmp_path / "cameras_sphere.npz",
        tmp_path / "aligned.ply",
    )
    result = evaluate_mesh_stage(job, config)
    assert json.loads(job.out.read_text()) == result
    assert result["alignment"]["kind"] == "similarity-from-cameras"
    assert result["alignment"]["scale"] == pytest.approx(4.0)
    assert result["alignment"]["rms"] < 1e-9
    assert "similarity" in result["notes"][0]
    assert result["metrics"]["accuracy"] == pytest.approx(3.0, rel=0.03), "the ball beside the object is outside the masks"
    assert result["metrics"]["accuracy_world"] == pytest.approx(0.04 * result["metrics"]["accuracy"])
    counts = result["counts"]
    assert counts["prediction_in_silhouettes"] < 0.95 * counts["prediction_above_floor"]
    aligned = read_mesh(tmp_path / "aligned.ply")
    np.testing.assert_allclose(np.linalg.norm(aligned.vertices[:100] - [10.0, 20.0, 30.0], axis=1), 4.12, atol=1e-6)
    with np.load(job.out.with_suffix(".npz")) as arrays:
        np.testing.assert_allclose(np.linalg.norm(arrays["points"], axis=1), 1.03, atol=5e-3)
        assert arrays["points"].shape == (len(arrays["errors"]), 3)
        assert np.isfinite(arrays["errors"]).all()
        assert len(arrays["vertex_error"]) == len(read_mesh(tmp_path / "mesh.ply").vertices)
        assert arrays["vertex_error"][:100] == pytest.approx(3.0, abs=0.15)


def test_stage_without_alignment_or_ground_truth_says_so(tmp_path, sphere_scene):
    config = resolve([{"evaluate": {"samples": 5000}}])
    out = tmp_path / "mesh.json"
    with pytest.raises(EvaluationError, match="gt-cameras"):
        evaluate_mesh_stage(MeshEvaluation(tmp_path / "mesh.ply", sphere_scene.root, out, tmp_path / "truth.ply"), config)
    assert not out.exists()
    write_ply(tmp_path / "same.ply", ball())
    same = evaluate_mesh_stage(MeshEvaluation(tmp_path / "mesh.ply", sphere_scene.root, out, tmp_path / "same.ply"), config)
    assert same["alignment"]["kind"] == "none"
    assert "not aligned" in same["notes"][0]
    none = evaluate_mesh_stage(MeshEvaluation(tmp_path / "mesh.ply", sphere_scene.root, out), config)
    assert none["metrics"] == {}
    assert "no ground truth" in none["notes"][0]
    assert out.with_suffix(".npz").is_file()
