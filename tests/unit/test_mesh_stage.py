"""The mesh stages on an analytic model: cleaning order, facts, decimation, metric frame."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from nsr.config import MeshConfig, resolve
from nsr.conventions import MASK_BACKGROUND, MASK_OBJECT, Similarity
from nsr.errors import DataError, EmptyMesh
from nsr.mesh import stage
from nsr.mesh.cleaning import StepLog, clean_mesh
from nsr.mesh.io import read_mesh, read_metric
from nsr.mesh.marching_cubes import extract
from nsr.mesh.surface import Mesh
from nsr.scene.scene import Scene, View, save_scene
from tests.unit.shapes import CENTRE, ball, joined, sphere, torched


@pytest.fixture
def two_views(tmp_path):
    """A scene without masks: two cameras on the unit frame's -y and -x axes, world frame scaled, turned and moved."""
    root = tmp_path / "scene"
    root.mkdir()
    turn = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    similarity = Similarity(10.0, turn, np.array([5.0, 6.0, 7.0]))
    K = np.array([[200.0, 0.0, 100.0], [0.0, 200.0, 80.0], [0.0, 0.0, 1.0]])
    views = []
    for name, forward in {"a": [0.0, 1.0, 0.0], "b": [1.0, 0.0, 0.0]}.items():
        right = np.cross(forward, [0.0, 0.0, 1.0])
        axes = np.stack([right, np.cross(forward, right), forward])
        world_axes = axes @ turn.T
        w2c = np.eye(4)
        w2c[:3, :3] = world_axes
        w2c[:3, 3] = -world_axes @ similarity.apply(-3.0 * np.array(forward)[None])[0]
        views.append(View(name, root / f"{name}.png", None, 200, 160, K, w2c))
    scene = Scene(root, "test/two", tuple(views), similarity)
    save_scene(scene)
    return scene


@pytest.fixture
def analytic(tmp_path, monkeypatch):
    """A model file that stands for a sphere of radius 0.4 with its normals as colours, rendered everywhere."""

    class Trained:
        info = {"step": 7, "train_views": ["a"]}  # noqa: RUF012
        occupied = torch.ones(8, 8, 8, dtype=torch.bool)

        def sdf(self, points):
            return torched(lambda p: sphere(p, 0.4))(points)

        def colour(self, points, normals):
            return 0.5 * (normals + 1)

    monkeypatch.setattr(stage, "_load", lambda model, device, threads: (Trained(), torch.device("cpu")))
    (tmp_path / "model.pt").write_bytes(b"x")
    return tmp_path / "model.pt"


def test_stage_writes_mesh_and_facts(tmp_path, analytic, two_views):
    """The stage with an analytic model in place of a trained one: colours, culling, world frame, JSON."""
    config = resolve([{"mesh": {"resolution": 48, "mask_dilation": -1}}])
    facts = stage.mesh_stage(analytic, two_views.root, tmp_path / "mesh.ply", config)
    assert json.loads((tmp_path / "mesh.json").read_text()) == json.loads(json.dumps(facts))
    mesh = read_mesh(tmp_path / "mesh.ply")
    unit = two_views.similarity.inverse().apply(mesh.vertices)
    assert np.abs(sphere(unit, 0.4)).max() < 2e-3
    normal = (unit - CENTRE) / 0.4
    assert np.abs(mesh.colours / 255.0 - 0.5 * (normal + 1)).max() < 0.03
    assert facts["triangles"] == len(mesh.faces)
    assert facts["steps"][0]["triangles"] > facts["triangles"], "what neither camera sees is gone"
    assert not facts["watertight"]
    assert facts["scene"] == two_views.name
    assert [step["step"] for step in facts["steps"]] == [
        "extracted", "region of interest", "ghosts", "largest components", "visibility culling", "crumbs"
    ]  # fmt: skip
    assert facts["memory"]["host_gb"] > 0
    assert facts["frame"] == "world"


def test_stage_decimates_within_the_bound_and_lists_holes(tmp_path, analytic, two_views):
    settings = {"resolution": 64, "mask_dilation": -1, "triangles": 300, "max_error": 0.2, "holes": True}
    facts = stage.mesh_stage(analytic, two_views.root, tmp_path / "mesh.ply", resolve([{"mesh": settings}]))
    found = facts["decimation"]
    mesh = read_mesh(tmp_path / "mesh.ply")
    assert found["after"] == len(mesh.faces) < 0.6 * found["before"]
    # 0.2 percent of the region's radius, which is 10 in this world; 300 triangles are off by more.
    assert 0 < found["mean_error"] < found["max_error"] <= 0.02
    assert len(mesh.faces) > 500
    assert np.abs(sphere(two_views.similarity.inverse().apply(mesh.vertices), 0.4)).max() < 3e-3
    assert facts["holes"]["count"] >= 1
    # The two cameras see two sides: what is open is the border between seen and unseen.
    assert facts["holes"]["largest"][0]["length"] > 2 * np.pi * 4.0 * 0.5
    assert facts["border_edges"] > 0
    settings |= {"max_error": 1e-9}
    facts = stage.mesh_stage(analytic, two_views.root, tmp_path / "mesh.ply", resolve([{"mesh": settings}]))
    assert facts["decimation"]["after"] == facts["decimation"]["before"]
    assert any("mesh.max_error" in note for note in facts["notes"])


def test_a_known_distance_gives_real_units_in_the_file_and_the_world_frame_to_the_package(tmp_path, analytic, two_views):
    world = stage.mesh_stage(
        analytic, two_views.root, tmp_path / "w.ply", resolve([{"mesh": {"resolution": 32, "mask_dilation": -1}}])
    )
    # Two points of this world that are 4 units apart are 30 mm apart.
    metric = {"first": [1.0, 2.0, 3.0], "second": [1.0, 2.0, 7.0], "distance": 30.0, "unit": "mm"}
    config = resolve([{"mesh": {"resolution": 32, "mask_dilation": -1, "metric": metric}}])
    facts = stage.mesh_stage(analytic, two_views.root, tmp_path / "m.ply", config)
    assert (facts["frame"], facts["unit"]) == ("metric", "mm")
    assert facts["metric"]["scale"] == 7.5
    assert facts["area"] == pytest.approx(7.5**2 * world["area"])
    np.testing.assert_allclose(facts["bounds"], 7.5 * np.array(world["bounds"]))
    foreign = trimesh.load(tmp_path / "m.ply", process=False)
    plain = trimesh.load(tmp_path / "w.ply", process=False)
    np.testing.assert_allclose(foreign.vertices, 7.5 * plain.vertices)
    np.testing.assert_allclose(read_mesh(tmp_path / "m.ply").vertices, plain.vertices)
    assert read_metric(tmp_path / "m.ply").unit == "mm"
    assert read_metric(tmp_path / "w.ply") is None


@pytest.mark.parametrize("name", ["to_metric.json", "to_metric.txt"])
def test_a_similarity_file_turns_and_scales(tmp_path, analytic, two_views, name):
    turn = np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    similarity = Similarity(0.25, turn, np.array([1.0, -2.0, 3.0]))
    file = tmp_path / name
    if name.endswith("json"):
        similarity.save(file)
    else:
        np.savetxt(file, similarity.matrix())
    config = resolve([{"mesh": {"resolution": 24, "mask_dilation": -1, "metric": {"file": str(file)}}}])
    facts = stage.mesh_stage(analytic, two_views.root, tmp_path / "m.ply", config)
    assert facts["unit"] == "m"
    written = trimesh.load(tmp_path / "m.ply", process=False)
    centre = similarity.apply(two_views.similarity.apply(CENTRE[None]))
    distance = np.linalg.norm(written.vertices - centre, axis=1)
    assert distance == pytest.approx(0.4 * 10 * 0.25, rel=0.02)
    assert (np.einsum("mx,mx->m", written.vertices - centre, written.vertex_normals) > 0).all()
    back = read_mesh(tmp_path / "m.ply")
    np.testing.assert_allclose(similarity.apply(back.vertices), written.vertices, atol=1e-9)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [("none.json", None, "cannot be read"), ("bad.json", "{}", "no similarity"), ("bad.txt", "1 2 3", "no similarity"),
     ("flat.txt", "0 0 0 0\n" * 3 + "0 0 0 1", "no similarity")],
)  # fmt: skip
def test_a_broken_similarity_file_is_named(tmp_path, analytic, two_views, name, text, words):
    if text is not None:
        (tmp_path / name).write_text(text)
    config = resolve([{"mesh": {"metric": {"file": str(tmp_path / name)}}}])
    with pytest.raises(DataError, match=f"{name}: {words}"):
        stage.mesh_stage(analytic, two_views.root, tmp_path / "m.ply", config)


def test_the_step_that_left_nothing_is_named(two_views):
    # The surface lies behind both cameras.
    mesh = extract(lambda points: points.norm(dim=1) - 0.3, 24)
    behind = mesh.moved(Similarity(0.1, np.eye(3), np.array([0.6, -0.7, 0.1])))
    cameras = two_views.views
    with pytest.raises(EmptyMesh, match=r"region of interest left no surface; look at mesh\.box"):
        clean_mesh(mesh, two_views, MeshConfig(mask_dilation=-1, box=(50.0, 50.0, 50.0, 51.0, 51.0, 51.0)), StepLog())
    with pytest.raises(EmptyMesh, match="ghosts left no surface"):
        clean_mesh(mesh, two_views, MeshConfig(mask_dilation=-1), StepLog(), occupied=np.zeros((4, 4, 4), dtype=bool))
    turned = [View(v.name, v.image, None, v.width, v.height, v.K, np.diag([-1.0, 1, -1, 1]) @ v.w2c) for v in cameras]
    blind = Scene(two_views.root, two_views.name, tuple(turned), two_views.similarity)
    with pytest.raises(EmptyMesh, match="visibility culling left no surface"):
        clean_mesh(behind, blind, MeshConfig(mask_dilation=-1), StepLog())


def test_what_the_masks_rule_out_still_hides_what_is_behind_it(two_views, tmp_path):
    """Two balls, the lower one behind a screen for each camera, the screens outside the other camera's mask; as under a table."""
    screens = [
        np.array([[-0.5, -0.6, -0.5], [0.5, -0.6, -0.5], [0.5, -0.6, 0.0], [-0.5, -0.6, 0.0]]),
        np.array([[-0.6, -0.5, -0.5], [-0.6, 0.5, -0.5], [-0.6, 0.5, 0.0], [-0.6, -0.5, 0.0]]),
    ]
    quad = np.array([[0, 1, 2], [0, 2, 3]])
    mesh = joined(ball(0.15, (0, 0, 0.25)), ball(0.15, (0, 0, -0.25)), *(Mesh(screen, quad) for screen in screens))
    mask = np.full((160, 200), MASK_BACKGROUND, dtype=np.uint8)
    mask[50:110, 70:130] = MASK_OBJECT  # 0.45 up and down and to the sides at the origin
    Image.fromarray(mask).save(tmp_path / "mask.png")
    views = tuple(replace(view, mask=tmp_path / "mask.png") for view in two_views.views)
    masked = replace(two_views, views=views)
    left = clean_mesh(mesh, masked, MeshConfig(mask_dilation=0, component_share=0.0), StepLog()).mesh
    assert len(left.faces) > 100
    assert left.vertices[:, 2].min() > 0.09
    # Without the screens the same cameras see it.
    without = joined(ball(0.15, (0, 0, 0.25)), ball(0.15, (0, 0, -0.25)))
    assert clean_mesh(without, masked, MeshConfig(mask_dilation=0), StepLog()).mesh.vertices[:, 2].min() < -0.39


@pytest.mark.parametrize(
    ("settings", "radii"), [({}, [0.3, 0.1]), ({"components": 1}, [0.3]), ({"component_share": 0.0}, [0.3, 0.1, 0.02])]
)
def test_several_objects_stay_and_specks_go(two_views, settings, radii):
    """A tenth of the largest area is an object, a 225th is none."""
    places = {0.3: (0.0, 0.0, 0.0), 0.1: (0.5, -0.5, 0.1), 0.02: (-0.6, 0.3, 0.4)}
    config = resolve([{"mesh": {"min_views": 0, "mask_dilation": -1, **settings}}])
    scene = joined(*(ball(radius, place) for radius, place in places.items()))
    parts = clean_mesh(scene, two_views, config.mesh, StepLog())
    assert parts.areas() == pytest.approx([ball(radius, (0, 0, 0)).face_areas().sum() for radius in radii], rel=1e-5)
