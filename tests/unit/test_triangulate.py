"""Triangulation with known cameras: on photos of the example against its exact mesh, and its parts against known geometry."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import open3d
import pytest
import torch
import trimesh

from nsr.config import PrepareConfig, TriangulateConfig
from nsr.conventions import camera_centres, project
from nsr.data.neus import read_neus
from nsr.data.raw import Points
from nsr.errors import ConfigError, DataError
from nsr.scene.matching import Features, _near_planes, band_matches, view_pairs
from nsr.scene.prepare import prepare
from nsr.scene.scene import load_scene, save_scene, with_points
from nsr.scene.triangulate import chosen, seen_from, track_angles, triangulate_scene
from nsr.train.points import load_surface_points
from tests.unit.scene_builders import around, make_view

SPOT = Path(__file__).parents[2] / "examples" / "spot"
NEIGHBOURS = (2, 5, 7, 10, 15, 18, 23, 28)  # photos from one side of the object
SMALL = TriangulateConfig(first_octave=0, max_features=3000, min_track=3, max_pair_angle=90)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """A scene of a few photos, the last of them held out, its points and their facts."""
    folder = tmp_path_factory.mktemp("points")
    raw = read_neus(SPOT)
    few = replace(raw, views=tuple(raw.views[index] for index in NEIGHBOURS))
    scene = prepare(few, folder / "scene", name="test/spot", settings=PrepareConfig(holdout_every=0))
    scene = replace(scene, views=(*scene.views[:-1], replace(scene.views[-1], held_out=True)))
    save_scene(scene)
    facts = triangulate_scene(scene, folder / "points", SMALL, threads=1, seed=3)
    return with_points(scene, folder / "points" / "points.npz"), folder, facts


def test_points_lie_on_the_surface_and_in_the_photos_that_see_them(found):
    scene, folder, facts = found
    points = scene.points
    assert facts["source"] == "triangulated"
    assert facts["points"] == len(points.xyz) > 100
    assert json.loads((folder / "points" / "points.json").read_text())["points"] == facts["points"]
    assert sorted(path.name for path in folder.iterdir()) == ["points", "scene"]
    assert np.diff(points.offsets).min() >= SMALL.min_track
    assert points.error.max() <= SMALL.max_reprojection
    assert 7 not in points.views, "a held-out photo was used"
    owner = np.repeat(np.arange(len(points.xyz)), np.diff(points.offsets))
    for index, view in enumerate(scene.views[:7]):
        pixel, depth = project(view.K, view.w2c, points.xyz[owner[points.views == index]])
        assert (depth > 0).all()
        assert ((pixel > -2) & (pixel < [view.width + 2, view.height + 2])).all()
    # The photos also show the table, whose points the masks take away.
    mine = load_surface_points(scene, scene.split("train"), True, torch.device("cpu"))
    position = scene.similarity.apply(mine.table[:, :3].numpy()).astype(np.float32)
    mesh = trimesh.load(SPOT / "gt_mesh.ply", force="mesh")
    radius = np.linalg.norm(mesh.vertices - mesh.bounds.mean(0), axis=1).max()
    rays = open3d.t.geometry.RaycastingScene()
    rays.add_triangles(np.asarray(mesh.vertices, np.float32), np.asarray(mesh.faces, np.uint32))
    distance = rays.compute_distance(position).numpy() / radius
    assert len(distance) > 15
    assert np.median(distance) < 0.006
    assert np.percentile(distance, 80) < 0.02


def test_points_that_a_scene_came_with_are_kept_and_filtered(found, tmp_path):
    scene, _, _ = found
    facts = triangulate_scene(scene, tmp_path / "again", SMALL)
    assert facts["source"] == "scene"
    assert facts["points"] == len(scene.points.xyz)
    strict = replace(SMALL, min_track=4, max_reprojection=0.5)
    facts = triangulate_scene(scene, tmp_path / "strict", strict)
    lengths = np.diff(scene.points.offsets)
    assert facts["points"] == ((lengths >= 4) & (scene.points.error <= 0.5)).sum()
    assert facts["dropped"]["short track"] == (lengths < 4).sum()


def test_one_thread_and_one_seed_give_the_same_points(found, tmp_path):
    scene, _, _ = found
    few = replace(scene, views=scene.views[:4], points=None)
    for name in ("one", "two"):
        triangulate_scene(few, tmp_path / name, replace(SMALL, max_features=800, min_track=2), seed=3)
    one, two = (with_points(few, tmp_path / name / "points.npz").points for name in ("one", "two"))
    assert len(one.xyz) > 20
    assert all(np.array_equal(a, b) for a, b in zip(vars(one).values(), vars(two).values(), strict=True))


def test_matches_are_those_of_true_points_among_many_alike():
    """Every second descriptor is shared by all points: only the chord tells which is whose."""
    rng = np.random.default_rng(4)
    w2c = around((0, 0, 0), 3.0, 12)[4:6]
    views = [make_view(str(index), pose, 640, 480, 500.0) for index, pose in enumerate(w2c)]
    points = rng.uniform(-0.5, 0.5, (60, 3))
    descriptor = rng.uniform(0, 1, (60, 128)).astype(np.float32)
    descriptor[::2] = descriptor[0]
    descriptor /= np.linalg.norm(descriptor, axis=1, keepdims=True)
    order = rng.permutation(60)
    one, two = (features(view, points[o], descriptor[o]) for view, o in zip(views, (np.arange(60), order), strict=True))
    centre = camera_centres(w2c)[0]
    found = band_matches(one, two, centre, views[1].K, w2c[1], TriangulateConfig(max_epipolar=0.5))
    matched = found >= 0
    assert (order[found[matched]] == np.flatnonzero(matched)).all()
    assert matched[1::2].all()
    assert matched[::2].sum() > 15
    # Without the chord's help none of those alike is told from the others.
    free = band_matches(one, two, centre, views[1].K, w2c[1], TriangulateConfig(max_epipolar=1e4))
    assert (free[::2] == -1).all()
    nothing = Features(*(part[:0] for part in two))
    assert (band_matches(one, nothing, centre, views[1].K, w2c[1], TriangulateConfig()) == -1).all()
    assert len(band_matches(nothing, two, centre, views[1].K, w2c[1], TriangulateConfig())) == 0


@pytest.mark.parametrize(
    "moved", [(0.9, 0.2, 0.1), (0.02, -0.01, 0.8), (0.0, 0.0, 0.0)], ids=["sideways", "forward", "not at all"]
)
def test_no_feature_near_an_epipolar_line_is_left_out(moved):
    """Against all pairs, also where the epipole lies in the picture, among features that crowd around it."""
    rng = np.random.default_rng(6)
    other = np.eye(4)
    other[2, 3] = 2.5
    first = other.copy()
    first[:3, 3] -= moved
    views = [make_view(name, pose, 640, 480, 500.0) for name, pose in (("one", first), ("two", other))]
    points = np.concatenate([rng.uniform(-0.5, 0.5, (300, 3)), [0.065, -0.0325, 0.1] + rng.normal(0, 0.004, (100, 3))])
    one, two = (features(view, points, np.ones((400, 128), np.float32)) for view in views)
    two = two._replace(place=two.place + rng.uniform(-3, 3, (400, 2)))
    start, end = (project(views[1].K, other, part)[0] for part in (one.near, one.far))
    along = (end - start) / np.maximum(np.linalg.norm(end - start, axis=1, keepdims=True), 1e-9)
    ahead, offset = (((two.place[None] - start[:, None]) * way[:, None]).sum(2) for way in (along, along[:, ::-1] * [-1, 1]))
    found = np.zeros((400, 400), dtype=int)
    for mine, theirs in _near_planes(one, two, camera_centres(first[None])[0], views[1].K, other, 2.0):
        np.add.at(found, (mine, theirs), 1)
    assert found.max() == 1, "no pair twice"
    assert found[(np.abs(offset) <= 2.0) & (ahead >= -2.0)].all(), "what lies behind the chord is not compared"
    assert moved[0] != 0.9 or found.mean() < 0.2, "and most others are"


def features(view, points, descriptor):
    """Exact features of points in the unit ball."""
    pixel, _ = project(view.K, view.w2c, points)
    centre = -view.w2c[:3, :3].T @ view.w2c[:3, 3]
    direction = (points - centre) / np.linalg.norm(points - centre, axis=1, keepdims=True)
    middle = -(direction @ centre)
    half = np.sqrt(1 - centre @ centre + middle**2)
    near, far = (centre + along[:, None] * direction for along in (middle - half, middle + half))
    return Features(np.arange(len(points)), pixel, near, far, descriptor)


def test_pairs_are_the_nearest_by_direction():
    angles = np.radians([0, 10, 25, 90, 180])
    poses = np.stack([np.eye(4)] * 5)
    poses[:, :3, 3] = -3 * np.column_stack([np.cos(angles), np.sin(angles), 0 * angles])  # looking along z from a ring
    assert view_pairs(poses, 1, 180.0) == [(0, 1), (1, 2), (2, 3), (3, 4)]
    assert view_pairs(poses, 4, 30.0) == [(0, 1), (0, 2), (1, 2)]
    assert view_pairs(poses, 4, 5.0) == []


def made(tracks, xyz):
    """Points with given tracks."""
    offsets = np.cumsum([0, *map(len, tracks)])
    views = np.array([view for track in tracks for view in track], dtype=np.int32)
    return Points(np.array(xyz, float), np.zeros((len(xyz), 3), np.uint8), np.arange(len(xyz)) / 2, offsets, views)


def test_angles_choices_and_tracks():
    centres = np.array([[1.0, 0, 0], [0, 1, 0], [-1, 0, 0], [1, 1, 0]])
    points = made([[0, 1], [0, 3], [0, 1, 2], [2]], np.zeros((4, 3)))
    assert track_angles(points, centres) == pytest.approx([90, 45, 180, 0])
    some = chosen(points, np.array([False, True, True, False]))
    assert (some.offsets.tolist(), some.views.tolist(), some.error.tolist()) == ([0, 2, 5], [0, 3, 0, 1, 2], [0.5, 1.0])
    less = seen_from(points, [0, 2])
    assert (less.offsets.tolist(), less.views.tolist()) == ([0, 1, 2, 4, 5], [0, 0, 0, 2, 2])


def test_photos_without_features_give_no_points(tmp_path):
    from tests.unit.training_scene import sphere_scene

    scene = sphere_scene(tmp_path / "scene", views=3)
    facts = triangulate_scene(scene, tmp_path / "points", replace(SMALL, split="all", peak_threshold=0.5))
    assert (facts["points"], facts["reprojection"], facts["track_length"]) == (0, None, 0.0)
    assert len(with_points(scene, tmp_path / "points" / "points.npz").points.xyz) == 0


def test_bad_input_is_named(tmp_path):
    from nsr.config import resolve
    from tests.unit.training_scene import sphere_scene

    scene = sphere_scene(tmp_path / "scene", views=3)
    with pytest.raises(DataError, match="1 views to triangulate from; give more or use"):
        triangulate_scene(replace(scene, views=scene.views[:2]), tmp_path / "out", SMALL)
    with pytest.raises(DataError, match="photos|images|scene"):
        triangulate_scene(scene, tmp_path / "scene", SMALL)
    assert load_scene(tmp_path / "scene").views
    with pytest.raises(DataError, match="absent.npz: no such file; run triangulate first"):
        with_points(scene, tmp_path / "absent.npz")
    (tmp_path / "broken.npz").write_bytes(b"PK\3\4 no")
    with pytest.raises(DataError, match="broken.npz: not the points of this scene .*; run triangulate again"):
        with_points(scene, tmp_path / "broken.npz")
    foreign = made([[0, 7]], [[0, 0, 0]])
    np.savez(tmp_path / "foreign.npz", **vars(foreign))
    with pytest.raises(DataError, match="seen by view 7, the scene has 3"):
        with_points(scene, tmp_path / "foreign.npz")
    with pytest.raises(ConfigError, match="triangulate.min_track: 1 must be at least 2"):
        resolve([{"triangulate": {"min_track": 1}}])
