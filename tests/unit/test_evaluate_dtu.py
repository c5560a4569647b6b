"""The DTU protocol: sampling and thinning against loops, the score against a direct rewrite, culls, named errors."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from scipy.io import loadmat
from scipy.spatial import cKDTree

from nsr.config import EvaluateConfig, resolve
from nsr.conventions import MASK_BACKGROUND, MASK_OBJECT, Similarity
from nsr.errors import EvaluationError
from nsr.evaluate.dtu import cull_name, dtu_files, evaluate_dtu, read_dtu
from nsr.evaluate.lattice import lattice_points, thin
from nsr.evaluate.points import read_points
from nsr.evaluate.stage import MeshEvaluation, evaluate_mesh_stage
from nsr.evaluate.visibility import in_silhouettes, mask_margins
from nsr.mesh.io import write_ply
from nsr.mesh.surface import Mesh
from nsr.mesh.visibility import Camera
from nsr.scene.scene import Scene, View, save_scene
from tests.unit.dtu_files import CENTRE, bumpy_ball, prediction, write_scan
from tests.unit.look_at import look_at

EVERYWHERE = np.full(3, -1e9), np.full(3, 1e9)


def loop_lattice(mesh, spacing):
    """The lattice face by face and node by node, from its description."""
    points, owners = [], []
    for number, (v0, v1, v2) in enumerate(mesh.vertices[mesh.faces]):
        a, b = v1 - v0, v2 - v0
        area = np.linalg.norm(np.cross(a, b))
        if area == 0:
            continue
        step = spacing * np.sqrt(np.linalg.norm(a) * np.linalg.norm(b) / area)
        rows, columns = int(np.linalg.norm(a) / step), int(np.linalg.norm(b) / step)
        for i in range(rows):
            for j in range(columns):
                u, v = (i + 0.5) / rows, (j + 0.5) / columns
                if u + v < 1:
                    points.append(v0 + u * a + v * b)
                    owners.append(number)
    return np.array(points).reshape(-1, 3), np.array(owners)


def loop_thin(points, radius):
    """One point after another removes the later ones within the radius."""
    tree, left = cKDTree(points), np.ones(len(points), dtype=bool)
    for k in range(len(points)):
        if left[k]:
            near = tree.query_ball_point(points[k], radius)
            left[[other for other in near if other > k]] = False
    return np.flatnonzero(left)


def random_triangles(count, size, seed):
    rng = np.random.default_rng(seed)
    return Mesh(rng.normal(size=(3 * count, 3)) * size, np.arange(3 * count).reshape(-1, 3))


@pytest.mark.parametrize("size", [0.05, 0.4, 3.0])
def test_lattice_equals_the_loop(size):
    mesh = random_triangles(40, size, 3)
    points, owner = lattice_points(mesh, 0.2, EVERYWHERE)
    expected, owners = loop_lattice(mesh, 0.2)
    np.testing.assert_allclose(points, expected, atol=1e-12)
    assert np.array_equal(owner, owners)


def test_lattice_has_one_point_per_cell_of_the_spacing_and_stays_in_the_box(monkeypatch):
    mesh = random_triangles(20, 30.0, 4)
    points, _ = lattice_points(mesh, 0.5, EVERYWHERE)
    assert len(points) == pytest.approx(mesh.face_areas().sum() / 0.5**2, rel=0.02)
    box = np.array([-5.0, -5, -5]), np.array([8.0, 8, 8])
    monkeypatch.setattr("nsr.evaluate.lattice._GRID_AT_ONCE", 1000)
    inside, _ = lattice_points(mesh, 0.5, box)
    assert np.array_equal(inside, points[((points >= box[0]) & (points <= box[1])).all(axis=1)])


@pytest.mark.parametrize("first_batch", [40, 1 << 16])
def test_thinning_equals_the_loop_whatever_the_batches(monkeypatch, first_batch):
    monkeypatch.setattr("nsr.evaluate.lattice._FIRST_BATCH", first_batch)
    points = np.random.default_rng(5).uniform(size=(3000, 3)) * [3, 3, 0.3]
    points[100:200] = points[:100]
    for radius in (0.02, 0.2, 1.0):
        assert np.array_equal(thin(points, radius), loop_thin(points, radius))
    on_grid = np.stack(np.meshgrid(np.arange(12) * 0.25, np.arange(12) * 0.25, [0.0]), axis=-1).reshape(-1, 3)
    assert np.array_equal(thin(on_grid, 0.25), loop_thin(on_grid, 0.25)), "a point at exactly the radius goes"
    assert len(thin(np.zeros((0, 3)), 0.2)) == 0


def direct_score(mesh, root, seed):
    """The published description step by step, without culling; plain loops and trees."""
    points = np.concatenate([mesh.vertices, loop_lattice(mesh, 0.2)[0]])
    points = points[np.random.default_rng(seed).permutation(len(points))]
    points = points[loop_thin(points, 0.2)]
    mask = loadmat(root / "ObsMask/ObsMask24_10.mat")
    low, high = mask["BB"].astype(np.float32)
    points = points[((points >= low - 60) & (points < high + 120)).all(axis=1)]
    cell = np.around((points - low) / mask["Res"]).astype(int)
    counted = np.array([min(c) >= 0 and (c < mask["ObsMask"].shape).all() and mask["ObsMask"][tuple(c)] > 0 for c in cell])
    stl = read_points(root / "Points/stl/stl024_total.ply")
    plane = loadmat(root / "ObsMask/Plane24.mat")["P"][:, 0]
    to_scan = cKDTree(stl).query(points[counted])[0]
    to_mesh = cKDTree(points).query(stl[stl @ plane[:3] + plane[3] > 0])[0]
    return to_scan[to_scan < 20].mean(), to_mesh[to_mesh < 20].mean()


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    root = tmp_path_factory.mktemp("dtu")
    return root, write_scan(root)


def test_score_equals_the_direct_rewrite(scan):
    root, stl = scan
    truth, mesh = read_dtu(stl), prediction(junk=False)
    found = evaluate_dtu(mesh, truth, [], EvaluateConfig(seed=3)).metrics
    assert (found["accuracy"], found["completeness"]) == pytest.approx(direct_score(mesh, root, 3), rel=1e-9)
    assert found["chamfer"] == 0.5 * (found["accuracy"] + found["completeness"])
    assert evaluate_dtu(mesh, truth, [], EvaluateConfig(seed=3)).metrics == found, "seeded"
    for seed in (4, 5):  # another shuffle, and surface outside the box, change little
        assert evaluate_dtu(prediction(), truth, [], EvaluateConfig(seed=seed)).metrics["chamfer"] == pytest.approx(
            found["chamfer"], rel=0.01
        )


def test_distances_over_the_limit_are_dropped_and_told(scan):
    truth = read_dtu(scan[1])
    far = Mesh(bumpy_ball(4).vertices + [0, 0, 25.0], bumpy_ball(4).faces)
    observed = np.ones((200, 200, 200), dtype=bool)
    wide = type(truth)(truth.points, observed, truth.box, truth.cell, truth.plane)
    found = evaluate_dtu(far, wide, [], EvaluateConfig())
    assert found.metrics["accuracy"] <= 20.0
    assert found.metrics["surplus"] > 0.2


def cameras_with_masks(folder, radius):
    """Six views around the ball, masks with disks of the given radius in pixels."""
    K = np.array([[400.0, 0, 80], [0, 400.0, 60], [0, 0, 1]])
    column, row = np.meshgrid(np.arange(160) + 0.5, np.arange(120) + 0.5)
    mask = np.where(np.hypot(column - 80, row - 60) < radius, MASK_OBJECT, MASK_BACKGROUND).astype(np.uint8)
    Image.fromarray(mask).save(folder / "mask.png")
    centres = [[30, 0, 3], [-30, 0, 3], [0, 30, 3], [0, -30, 3], [20, 20, 10], [-20, 20, -10]]
    return [Camera(160, 120, K, look_at(CENTRE + centre, CENTRE), folder / "mask.png") for centre in centres]


def test_margins_agree_with_growing_the_masks(tmp_path):
    cameras = cameras_with_masks(tmp_path, 30)
    points = CENTRE + np.random.default_rng(1).normal(size=(3000, 3)) * 5
    margins = mask_margins(points, cameras)
    for radius in (0, 3, 12, 24):
        assert np.array_equal(margins <= radius, in_silhouettes(points, cameras, radius))
    assert (margins == 0).any()
    assert (margins > 24).any()


def test_culls_are_named_and_equal_the_mesh_cut_first(scan, tmp_path):
    truth, mesh = read_dtu(scan[1]), prediction()
    cameras = cameras_with_masks(tmp_path, 60)
    config = EvaluateConfig(dtu_culls=(12, -1, 0, 50))
    found = evaluate_dtu(mesh, truth, cameras, config)
    assert list(found.variants) == ["mask-12px", "no-cull", "mask-0px", "mask-50px"]
    assert found.metrics == found.variants["mask-12px"]
    assert found.unit == {"name": "mm", "cull": "mask-12px"}
    for pixels in (0, 12):
        keep = in_silhouettes(mesh.vertices, cameras, pixels)[mesh.faces].all(axis=1)
        cut = evaluate_dtu(mesh.select(keep), truth, [], config).metrics
        assert found.variants[cull_name(pixels)]["chamfer"] == pytest.approx(cut["chamfer"], rel=0.02)
    assert found.variants["no-cull"]["accuracy"] > found.variants["mask-0px"]["accuracy"], "the floater counts only here"
    assert evaluate_dtu(mesh, truth, [], config).variants.keys() == {"no-cull"}
    assert "no masks" in evaluate_dtu(mesh, truth, [], config).notes[0]


def test_stage_writes_protocol_variants_and_pictures(scan, tmp_path):
    cameras = cameras_with_masks(tmp_path, 50)
    views = [View(f"{k}", tmp_path / f"{k}.png", c.mask, c.width, c.height, c.K, c.w2c) for k, c in enumerate(cameras)]
    save_scene(Scene(tmp_path, "dtu/scan24", tuple(views), Similarity(9.0, np.eye(3), CENTRE), unit="mm"))
    write_ply(tmp_path / "mesh.ply", prediction())
    (tmp_path / "mesh.json").write_text(json.dumps({"settings": {"mesh": {"mask_dilation": 12}}}))
    job = MeshEvaluation(tmp_path / "mesh.ply", tmp_path, tmp_path / "out.json", scan[1], protocol="dtu")
    result = evaluate_mesh_stage(job, resolve([]))
    assert (result["protocol"], result["version"], result["unit"]["name"]) == ("dtu", 1, "mm")
    assert set(result["variants"]) == {"mask-24px", "no-cull", "mask-0px", "mask-12px", "mask-50px"}
    assert any("mesh.mask_dilation=-1" in note for note in result["notes"])
    with np.load(tmp_path / "out.npz") as arrays:
        nearest = cKDTree(read_points(scan[1])).query(arrays["points"])[0]
        np.testing.assert_allclose(arrays["errors"], nearest, atol=1e-3)
        assert len(arrays["truth_points"]) == len(arrays["truth_errors"]) == result["counts"]["ground_truth"]
        assert len(arrays["vertex_error"]) == len(prediction().vertices)


def test_missing_and_foreign_files_are_named(scan, tmp_path):
    assert [path.name for path in dtu_files(scan[1])] == ["ObsMask24_10.mat", "Plane24.mat"]
    with pytest.raises(EvaluationError, match=r"needs the scan's stlNNN_total\.ply"):
        read_dtu(tmp_path / "scan.ply")
    with pytest.raises(EvaluationError, match=r"ObsMask7_10\.mat: no such file"):
        read_dtu(tmp_path / "Points/stl/stl007_total.ply")
    copy = write_scan(tmp_path, 8, points=300)
    (tmp_path / "ObsMask/Plane8.mat").write_bytes(b"nothing")
    with pytest.raises(EvaluationError, match="download it again"):
        read_dtu(copy)
    truth = read_dtu(scan[1])
    with pytest.raises(EvaluationError, match="DTU world frame"):
        evaluate_dtu(Mesh(bumpy_ball(3).vertices / 1000, bumpy_ball(3).faces), truth, [], EvaluateConfig())
    with pytest.raises(EvaluationError, match="in the ground truth's unit"):
        lattice_points(random_triangles(100, 1e4, 0), 0.2, EVERYWHERE)
