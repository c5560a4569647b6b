"""Tanks and Temples, general ground truth, ICP, trajectories and normals, against naive twins and known answers."""

from __future__ import annotations

import json

import numpy as np
import pytest
import trimesh
from matplotlib.path import Path as Polygon

from nsr.config import EvaluateConfig, resolve
from nsr.conventions import Similarity, camera_centres
from nsr.errors import DataError, EvaluationError
from nsr.evaluate.align import align_to_cameras, match_views, read_trajectory_centres
from nsr.evaluate.icp import refine, similarity_of
from nsr.evaluate.normals import angles, face_normals, normal_error
from nsr.evaluate.points import read_points, read_truth
from nsr.evaluate.protocols import protocol_of
from nsr.evaluate.stage import MeshEvaluation, evaluate_mesh_stage
from nsr.evaluate.surface_distance import evaluate_distance
from nsr.evaluate.tanks import evaluate_tanks, mesh_points, tanks_metrics, tau_of
from nsr.mesh.io import write_ply
from nsr.mesh.surface import Mesh
from nsr.scene.scene import Scene, View, save_scene
from tests.unit.tanks_files import CENTRE, RADIUS, cameras, statue, write_tanks

SMALL = EvaluateConfig(samples=10_000, mask_dilation=-1, visible_only=False)


def ball(radius=1.0, subdivisions=4, centre=(0.0, 0.0, 0.0)):
    made = trimesh.creation.icosphere(subdivisions=subdivisions, radius=radius)
    return Mesh(np.asarray(made.vertices) + centre, np.asarray(made.faces, dtype=np.int64))


def small_turn(angle, axis=(0.2, 0.3, 0.9)):
    return trimesh.transformations.rotation_matrix(angle, axis)[:3, :3]


@pytest.fixture(scope="module")
def barn(tmp_path_factory):
    return write_tanks(tmp_path_factory.mktemp("tanks") / "Barn")


def scene_views():
    return [View(f"{k + 1:06d}", None, None, 10, 10, np.eye(3), w2c) for k, w2c in enumerate(cameras())]


def test_trajectory_with_its_transform_aligns_the_scene(barn, tmp_path):
    log = barn.with_name("Barn_COLMAP_SfM.log")
    found = align_to_cameras(scene_views(), log)
    assert found.similarity.scale == pytest.approx(1.0)
    np.testing.assert_allclose(found.similarity.apply(np.zeros((1, 3)))[0], CENTRE, atol=1e-9)
    some = match_views(["000002", "000005"], log)
    np.testing.assert_allclose(some, found.similarity.apply(camera_centres(cameras()[[1, 4]])), atol=1e-9)
    with pytest.raises(EvaluationError, match="cannot be matched"):
        match_views(["000000", "000001"], log)
    (tmp_path / "x.log").write_text("0 0 0\n1 2 3\n")
    with pytest.raises(EvaluationError, match="not a trajectory"):
        read_trajectory_centres(tmp_path / "x.log")
    with pytest.raises(EvaluationError, match="no such file"):
        read_trajectory_centres(tmp_path / "y.log")


def test_tanks_undoes_a_small_misalignment_and_finds_what_is_missing(barn):
    to_scan = align_to_cameras(scene_views(), barn.with_name("Barn_COLMAP_SfM.log")).similarity
    off = Similarity(1.004, small_turn(0.01), np.array([0.002, -0.001, 0.001]))
    whole = evaluate_tanks(statue().moved(off).moved(to_scan), barn, SMALL)
    assert whole.refinement.scale == pytest.approx(1 / 1.004, abs=2e-3)
    assert whole.metrics["f_score"] > 0.99
    assert whole.unit["tau"] == 0.01
    assert whole.arrays["points"][:, 2].min() > CENTRE[2] - 0.1, "cropped"
    half = statue()
    half = half.select((half.vertices[half.faces][:, :, 0] < 0).all(axis=1))
    found = evaluate_tanks(half.moved(to_scan), barn, SMALL).metrics
    assert found["precision"] > 0.97
    assert found["recall"] == pytest.approx(0.5, abs=0.06)
    noise = np.random.default_rng(0).normal(size=statue().vertices.shape) * 0.02
    noisy = Mesh(statue().vertices + noise, statue().faces)
    assert evaluate_tanks(noisy.moved(to_scan), barn, SMALL).metrics["f_score"] < 0.9


def test_crop_is_the_polygon_between_the_planes(barn):
    from nsr.evaluate.tanks import _cropped, _read_volume

    points = CENTRE + np.random.default_rng(2).uniform(-1, 1, size=(2000, 3))
    inside = Polygon(CENTRE[:2] + np.array([[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]])).contains_points(points[:, :2])
    inside &= (points[:, 2] >= CENTRE[2] - 0.1) & (points[:, 2] <= CENTRE[2] + 0.5)
    found = _cropped(points, _read_volume(barn.with_suffix(".json")))
    np.testing.assert_allclose(sorted(map(tuple, found)), sorted(map(tuple, points[inside])))
    with pytest.raises(EvaluationError, match="crop volume"):
        _cropped(points - 50, _read_volume(barn.with_suffix(".json")))


def test_tanks_points_scores_and_names(barn, tmp_path):
    mesh = Mesh(np.array([[0.0, 0, 0], [3, 0, 0], [0, 3, 0]]), np.array([[0, 1, 2]]))
    np.testing.assert_allclose(mesh_points(mesh, "vertices-and-centres"), [*mesh.vertices, [1, 1, 0]])
    assert len(mesh_points(mesh, "vertices")) == 3
    found = tanks_metrics(np.array([0.1, 0.2, 0.3, 0.4]), np.array([0.1, 0.5]), 0.3)
    assert found == {"f_score": 0.5, "precision": 0.5, "recall": 0.5}
    assert tau_of(barn) == 0.01
    with pytest.raises(EvaluationError, match="one of Barn"):
        tau_of(tmp_path / "Spot.ply")
    with pytest.raises(EvaluationError, match=r"Truck\.json: no such crop volume"):
        evaluate_tanks(mesh, tmp_path / "Truck.ply", SMALL)
    (tmp_path / "Church.json").write_text("{}")
    with pytest.raises(EvaluationError, match="not a crop volume"):
        evaluate_tanks(mesh, tmp_path / "Church.ply", SMALL)


@pytest.mark.parametrize("scale", [True, False])
def test_icp_recovers_a_motion(scale):
    target = statue().vertices
    true = Similarity(1.01 if scale else 1.0, small_turn(0.02), np.array([0.003, 0.002, -0.002]))
    found, facts = refine(true.inverse().apply(target), target, distance=0.05, scale=scale, iterations=200)
    assert found.scale == pytest.approx(true.scale, abs=1e-3)
    assert facts["rms"] < 1e-3
    assert facts["share"] == 1.0
    with pytest.raises(EvaluationError, match="icp_distance"):
        refine(target + 10, target, distance=0.05, scale=scale)
    np.testing.assert_allclose(similarity_of(true.matrix()).matrix(), true.matrix(), atol=1e-12)


def test_general_ground_truth_mesh_and_cloud_agree_with_the_known_answer():
    mesh = evaluate_distance(ball(1.03), ball(), [], SMALL)
    points = np.asarray(trimesh.Trimesh(ball().vertices, ball().faces, process=False).sample(100_000, seed=0))
    cloud = evaluate_distance(ball(1.03), points, [], SMALL)
    for found in (mesh, cloud):
        assert found.metrics["accuracy"] == pytest.approx(3.0, rel=0.03)
        assert found.metrics["completeness"] == pytest.approx(3.0, rel=0.06)
        assert found.metrics["f_1.0"] == 0.0
        assert found.arrays["vertex_error"].mean() == pytest.approx(3.0, abs=0.15)
        assert found.unit["object_radius"] == pytest.approx(1.0, abs=0.01)
    assert mesh.metrics["normal_error"] < 3.0
    assert "normal_error" not in cloud.metrics
    assert any("no normal error" in note for note in cloud.notes)
    # So dense that hardly any place of the half is farther than the threshold from all points.
    dense = np.asarray(trimesh.Trimesh(ball().vertices, ball().faces, process=False).sample(500_000, seed=0))
    half = dense[dense[:, 2] > 0]
    assert evaluate_distance(ball(), half, [], SMALL).metrics["precision_1.0"] == pytest.approx(0.5, abs=0.025)


def test_angles_and_normal_error_of_turned_surfaces():
    rng = np.random.default_rng(3)
    first, second = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in rng.normal(size=(2, 100, 3)))
    np.testing.assert_allclose(angles(first, second), np.degrees(np.arccos((first * second).sum(axis=1))), atol=1e-6)
    assert angles(first, -first) == pytest.approx(180.0)
    assert angles(first, first).max() == 0.0
    plane = np.stack(np.meshgrid(np.arange(10.0), np.arange(10.0), [0.0]), axis=-1).reshape(-1, 3)
    up, tilted = np.tile([0.0, 0, 1], (100, 1)), np.tile([0.0, np.sin(0.2), np.cos(0.2)], (100, 1))
    found = normal_error((plane, tilted), (plane + [0, 0, 0.1], up), 0.5)
    assert found == pytest.approx(dict.fromkeys(("normal_error", "normal_accuracy", "normal_completeness"), np.degrees(0.2)))
    assert normal_error((plane, up), (plane + 50, up), 0.5) == {}
    sphere = ball()
    centres = sphere.vertices[sphere.faces].mean(axis=1)
    np.testing.assert_allclose(face_normals(sphere), centres / np.linalg.norm(centres, axis=1, keepdims=True), atol=1e-2)
    flipped = Mesh(sphere.vertices, sphere.faces[:, ::-1])
    assert evaluate_distance(flipped, sphere, [], SMALL).metrics["normal_error"] > 170


def test_alignment_is_chosen_and_named(tmp_path):
    save_scene(Scene(tmp_path, "a/b", saved_views(tmp_path), Similarity.identity()))
    truth = statue(subdivisions=4)
    write_ply(tmp_path / "truth.ply", truth)
    off = Similarity(1.02, small_turn(0.02), np.array([0.004, 0.0, 0.003]))
    write_ply(tmp_path / "mesh.ply", truth.moved(off))
    job = MeshEvaluation(
        tmp_path / "mesh.ply", tmp_path, tmp_path / "out.json", tmp_path / "truth.ply", protocol="surface-distance"
    )

    def chamfer(kind):
        section = {"samples": 5000, "visible_only": False, "alignment": kind}
        result = evaluate_mesh_stage(job, resolve([{"evaluate": section}]))
        assert result["settings"]["evaluate"]["alignment"] == kind
        return result["metrics"]["chamfer"], result

    plain, result = chamfer("none")
    assert result["alignment"]["kind"] == "none"
    rigid, result = chamfer("icp")
    assert result["alignment"]["kind"] == "icp"
    assert result["alignment"]["scale"] == pytest.approx(1.0)
    assert any("lowers the error" in note for note in result["notes"])
    scaled, result = chamfer("icp-similarity")
    assert result["alignment"]["kind"] == "icp-similarity"
    assert result["alignment"]["scale"] == pytest.approx(1 / 1.02, abs=2e-3)
    assert scaled < rigid < plain
    with np.load(tmp_path / "out.npz") as arrays:  # pictures stay in the scene's frame
        size = np.linalg.norm(off.inverse().apply(arrays["points"]), axis=1)
    assert size.max() < 1.3 * RADIUS
    with pytest.raises(EvaluationError, match="gt-cameras"):
        chamfer("cameras")
    assert json.loads((tmp_path / "out.json").read_text())["protocol"] == "surface-distance"


def saved_views(folder):
    return tuple(
        View(view.name, folder / f"{view.name}.png", None, view.width, view.height, view.K, view.w2c) for view in scene_views()
    )


def test_points_meshes_and_neither(tmp_path):
    points = np.random.default_rng(0).normal(size=(50, 3))
    trimesh.PointCloud(points).export(tmp_path / "cloud.ply")
    write_ply(tmp_path / "mesh.ply", ball(subdivisions=1))
    np.savetxt(tmp_path / "cloud.xyz", points)
    for name in ("cloud.ply", "cloud.xyz"):
        np.testing.assert_allclose(read_truth(tmp_path / name), points, atol=1e-6)
    assert isinstance(read_truth(tmp_path / "mesh.ply"), Mesh)
    assert len(read_points(tmp_path / "mesh.ply")) == 42
    (tmp_path / "bad.ply").write_bytes(b"ply\nnothing")
    for name in ("bad.ply", "none.ply", "none.xyz"):
        with pytest.raises(DataError, match=name):
            read_truth(tmp_path / name)
    with pytest.raises(EvaluationError, match="no protocol 'dtv'"):
        protocol_of("dtv")
