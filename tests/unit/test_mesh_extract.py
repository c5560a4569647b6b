"""Grid, marching cubes and world export against analytic distances."""

from __future__ import annotations

import json

import numpy as np
import pytest

from nsr.conventions import Similarity
from nsr.errors import ConfigError, EmptyMesh
from nsr.mesh.clean import is_watertight
from nsr.mesh.grid import sample_field
from nsr.mesh.io import read_mesh, write_ply
from nsr.mesh.marching_cubes import extract
from nsr.mesh.surface import vertex_normals
from nsr.scene.scene import Scene, View, save_scene

CENTRE = np.array([0.1, -0.05, 0.07])


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


def sphere(points, radius=0.5):
    return np.linalg.norm(points - CENTRE, axis=1) - radius


def torus(points):
    ring = np.hypot(points[:, 0], points[:, 1]) - 0.55
    return np.hypot(ring, points[:, 2]) - 0.2


@pytest.mark.parametrize("sdf", [sphere, torus])
def test_vertices_lie_on_the_analytic_surface_and_face_outward(sdf):
    mesh = extract(sdf, 96)
    assert np.abs(sdf(mesh.vertices)).max() < 1e-3
    assert is_watertight(mesh)
    centres = mesh.vertices[mesh.faces].mean(axis=1)
    gradient = np.stack([sdf(centres + e) - sdf(centres - e) for e in 1e-4 * np.eye(3)], axis=1) / 2e-4
    cosine = np.einsum("tx,tx->t", mesh.face_vectors(), gradient)
    assert (cosine > 0).all()
    at_vertices = np.stack([sdf(mesh.vertices + e) - sdf(mesh.vertices - e) for e in 1e-4 * np.eye(3)], axis=1) / 2e-4
    assert np.einsum("mx,mx->m", mesh.normals, at_vertices).min() > 0.999
    assert np.einsum("mx,mx->m", vertex_normals(mesh), at_vertices).min() > 0.9


def test_area_and_enclosed_volume_of_a_sphere():
    mesh = extract(sphere, 96)
    assert mesh.face_areas().sum() == pytest.approx(4 * np.pi * 0.25, rel=2e-3)
    volume = np.einsum("tx,tx->", mesh.vertices[mesh.faces[:, 0]], mesh.face_vectors()) / 6
    assert volume == pytest.approx(4 / 3 * np.pi * 0.125, rel=2e-3)


@pytest.mark.parametrize("resolution", [32, 45])
def test_sparse_field_has_the_crossings_of_the_dense_one(resolution):
    """A distance whose gradient is 3 in one half and 0.4 in the other: neither an exact distance nor steepness <= 2."""

    def uneven(points):
        return sphere(points) * np.where(points[:, 0] > 0, 3.0, 0.4) + 0.02 * np.sin(9 * points[:, 1])

    field = sample_field(uneven, resolution)
    ticks = np.linspace(-1, 1, resolution + 1)
    points = np.stack(np.meshgrid(ticks, ticks, ticks, indexing="ij"), axis=-1).reshape(-1, 3)
    dense = np.maximum(uneven(points), np.linalg.norm(points, axis=1) - 1).reshape(field.shape)
    assert np.array_equal(field < 0, dense < 0)
    for axis in range(3):
        a, b = np.moveaxis(field, axis, 0), np.moveaxis(dense, axis, 0)
        crossing = (b[1:] < 0) != (b[:-1] < 0)
        np.testing.assert_allclose(a[1:][crossing], b[1:][crossing], atol=2e-6)
        np.testing.assert_allclose(a[:-1][crossing], b[:-1][crossing], atol=2e-6)


def test_sparse_field_evaluates_a_small_share_of_the_grid():
    asked = []

    def counting(points):
        asked.append(len(points))
        assert np.linalg.norm(points, axis=1).max() < 1.0, "outside the region of interest"
        return sphere(points)

    sample_field(counting, 128)
    assert sum(asked) < 0.3 * 129**3
    assert max(asked) <= 1 << 18


def test_region_of_interest_ends_at_the_unit_ball():
    mesh = extract(lambda points: points[:, 2], 64)
    assert np.linalg.norm(mesh.vertices, axis=1).max() < 1.0 + 1e-3
    assert is_watertight(mesh)
    flat = np.abs(mesh.vertices[:, 2]) < 1e-6
    assert 0.2 < flat.mean() < 0.8


def test_zero_values_on_grid_points_do_not_open_the_mesh():
    mesh = extract(lambda points: np.abs(points).max(axis=1) - 0.5, 16)
    assert is_watertight(mesh)
    assert np.abs(mesh.vertices).max() == pytest.approx(0.5, abs=1e-4)


def test_world_export_applies_the_similarity(tmp_path):
    rng = np.random.default_rng(3)
    rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    rotation *= np.sign(np.linalg.det(rotation))
    similarity = Similarity(105.0, rotation, np.array([35.0, -12.0, 620.0]))
    mesh = extract(sphere, 32)
    world = mesh.moved(similarity)
    write_ply(tmp_path / "mesh.ply", world)
    back = read_mesh(tmp_path / "mesh.ply")
    centre = 105.0 * rotation @ CENTRE + [35.0, -12.0, 620.0]
    np.testing.assert_allclose(back.vertices, 105.0 * mesh.vertices @ rotation.T + [35.0, -12.0, 620.0], atol=1e-5)
    np.testing.assert_allclose(similarity.inverse().apply(back.vertices), mesh.vertices, atol=1e-5)
    np.testing.assert_allclose(world.normals, mesh.normals @ rotation.T, atol=1e-6)
    outward = np.einsum("tx,tx->t", back.face_vectors(), back.vertices[back.faces[:, 0]] - centre)
    assert (outward > 0).all()


def test_empty_and_broken_fields_are_named_errors():
    with pytest.raises(EmptyMesh, match="outside"):
        extract(lambda points: np.ones(len(points)), 16)
    with pytest.raises(EmptyMesh, match="not finite"):
        extract(lambda points: np.full(len(points), np.nan), 16)
    with pytest.raises(ConfigError, match=r"mesh\.resolution"):
        extract(sphere, 5000)


def test_a_field_that_is_negative_everywhere_gives_the_region_itself():
    mesh = extract(lambda points: -np.ones(len(points)), 32)
    np.testing.assert_allclose(np.linalg.norm(mesh.vertices, axis=1), 1.0, atol=4e-3)


def test_stage_writes_mesh_and_facts(tmp_path, monkeypatch, two_views):
    """The stage with an analytic model in place of a trained one: colours, culling, world frame, JSON."""
    from nsr.config import resolve
    from nsr.mesh import stage

    def colour(points, normals):
        return 0.5 * (normals + 1)

    class Trained:
        info = {"step": 7, "train_views": ["a"]}  # noqa: RUF012

    monkeypatch.setattr(stage, "_load", lambda model, device, threads: (Trained(), None))
    monkeypatch.setattr(stage, "_numpy_functions", lambda trained, device: (lambda p: sphere(p, 0.4), colour))
    (tmp_path / "model.pt").write_bytes(b"x")
    config = resolve([{"mesh": {"resolution": 48, "mask_dilation": -1}}])
    facts = stage.mesh_stage(tmp_path / "model.pt", two_views.root, tmp_path / "mesh.ply", config)
    assert json.loads((tmp_path / "mesh.json").read_text()) == facts
    mesh = read_mesh(tmp_path / "mesh.ply")
    unit = two_views.similarity.inverse().apply(mesh.vertices)
    assert np.abs(sphere(unit, 0.4)).max() < 2e-3
    normal = (unit - CENTRE) / 0.4
    assert np.abs(mesh.colours / 255.0 - 0.5 * (normal + 1)).max() < 0.03
    assert facts["triangles"] == len(mesh.faces)
    assert facts["steps"][0]["triangles"] > facts["triangles"], "what neither camera sees is gone"
    assert not facts["watertight"]
    assert facts["scene"] == two_views.name


def test_stage_says_which_step_left_nothing(tmp_path, two_views):
    from nsr.config import MeshConfig
    from nsr.mesh.stage import clean_mesh

    # The surface lies behind both cameras.
    mesh = extract(lambda points: np.linalg.norm(points, axis=1) - 0.3, 24)
    away = mesh.moved(Similarity(1.0, np.eye(3), np.array([40.0, 40.0, 40.0])))
    with pytest.raises(EmptyMesh, match="visibility culling left no surface"):
        clean_mesh(away, two_views, MeshConfig(mask_dilation=-1))
