"""Visibility and mask culling, reading and writing."""

from __future__ import annotations

import os

import numpy as np
import pytest
import trimesh
from PIL import Image

from nsr.conventions import MASK_BACKGROUND, MASK_IGNORE, MASK_OBJECT
from nsr.errors import DataError
from nsr.mesh import cull
from nsr.mesh.io import read_mesh, write_ply
from nsr.mesh.surface import Mesh
from nsr.mesh.visibility import Camera, dilated_mask, inside_masks, times_seen
from tests.unit.shapes import ball, joined

WIDTH, HEIGHT = 160, 120
K = np.array([[150.0, 0.0, 80.0], [0.0, 150.0, 60.0], [0.0, 0.0, 1.0]])


def camera(position, mask=None):
    """A camera at `position` that looks at the origin."""
    forward = -np.asarray(position, dtype=float) / np.linalg.norm(position)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    w2c = np.eye(4)
    w2c[:3, :3] = np.stack([right, np.cross(forward, right), forward])
    w2c[:3, 3] = -w2c[:3, :3] @ position
    return Camera(WIDTH, HEIGHT, K, w2c, mask)


def around(count=12, distance=3.0):
    """Cameras on a sphere, all sides."""
    k = np.arange(count) + 0.5
    z, angle = 1 - 2 * k / count, np.pi * (1 + 5**0.5) * k
    r = np.sqrt(1 - z * z)
    return [camera(distance * np.array(p)) for p in zip(r * np.cos(angle), r * np.sin(angle), z, strict=True)]


def write_mask(path, mask):
    Image.fromarray(mask.astype(np.uint8)).save(path)
    return path


def test_hidden_inner_sphere_is_culled_and_the_outer_one_stays():
    outer, inner = ball(0.6), ball(0.4)
    left = cull.cull_unseen(joined(outer, inner), around(), min_views=1)
    assert len(left.faces) == len(outer.faces)
    assert np.linalg.norm(left.vertices, axis=1).min() > 0.59


def test_only_the_side_towards_the_camera_is_seen():
    mesh = ball(0.5, subdivisions=4)
    here = np.array([0.31, -2.9, 0.17])  # not on an axis of the mesh, where vertices hide behind vertices
    seen = times_seen((mesh.vertices, mesh.faces), mesh.vertices, [camera(here)], 1) == 1
    # A point of a sphere is seen from c where (c - x) . x > 0; facets of depth 0.001 blur the horizon.
    height = ((here - mesh.vertices) * mesh.vertices).sum(axis=1)
    assert seen[height > 0.05].all()
    assert not seen[height < -0.2].any()


def test_min_views_counts_cameras():
    mesh = ball(0.5, subdivisions=4)
    pair = [camera(np.array([0.0, -3.0, 0.0])), camera(np.array([0.0, -3.0, 0.5]))]
    one = cull.cull_unseen(mesh, pair, 1)
    two = cull.cull_unseen(mesh, pair, 2)
    opposite = [pair[0], camera(np.array([0.0, 3.0, 0.0]))]
    assert len(two.faces) < len(one.faces) < len(mesh.faces)
    assert not len(cull.cull_unseen(mesh, opposite, 2).faces)
    assert cull.cull_unseen(mesh, opposite, 0) is mesh


def test_points_outside_the_image_or_behind_the_camera_are_not_seen():
    mesh = joined(ball(0.2), ball(0.2, centre=(5.0, 0.0, 0.0)), ball(0.2, centre=(0.0, -6.0, 0.0)))
    left = cull.cull_unseen(mesh, [camera(np.array([0.0, -3.0, 0.0]))], 1)
    assert 0 < len(left.faces) < 1280
    assert np.abs(left.vertices).max() < 0.21


def test_a_large_face_seen_only_in_its_middle_is_kept():
    big = Mesh(np.array([[-20.0, 0, -12], [20, 0, -12], [0, 0, 25]]), np.array([[0, 1, 2]]))
    assert len(cull.cull_unseen(big, [camera(np.array([0.0, -3.0, 0.0]))], 1).faces) == 1


def test_lattice_points_lie_inside_their_faces_at_the_asked_density():
    mesh = ball(1.0, subdivisions=1)
    face, points = cull.lattice(mesh, np.array([3, 5]), 0.1)
    assert set(face) == {3, 5}
    for number in (3, 5):
        corners = mesh.vertices[mesh.faces[number]]
        weights = np.linalg.solve(corners.T, points[face == number].T)
        assert weights.min() > 0
        np.testing.assert_allclose(weights.sum(axis=0), 1.0)
        gaps = np.linalg.norm(points[face == number][:, None] - points[face == number], axis=2)
        gaps[gaps == 0] = np.inf
        assert gaps.min(axis=1).max() < 0.1 * 1.05


def test_mask_dilation_is_a_disk(tmp_path):
    mask = np.full((HEIGHT, WIDTH), MASK_BACKGROUND)
    mask[60, 80] = MASK_OBJECT
    view = camera(np.array([0.0, -3.0, 0.0]), write_mask(tmp_path / "m.png", mask))
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    for radius in (0, 1, 7):
        assert np.array_equal(dilated_mask(view, radius), (rows - 60) ** 2 + (columns - 80) ** 2 <= radius**2)
    with pytest.raises(DataError, match=r"m\.png: mask is 160x120"):
        dilated_mask(Camera(100, 100, K, view.w2c, view.mask), 1)
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"broken\.png"):
        dilated_mask(Camera(WIDTH, HEIGHT, K, view.w2c, tmp_path / "broken.png"), 1)


def test_mask_culling_needs_every_view_that_shows_the_point(tmp_path):
    full = write_mask(tmp_path / "full.png", np.full((HEIGHT, WIDTH), MASK_OBJECT))
    left_half = np.full((HEIGHT, WIDTH), MASK_OBJECT)
    left_half[:, 80:] = MASK_BACKGROUND
    half = write_mask(tmp_path / "half.png", left_half)
    left_half[:, 80:] = MASK_IGNORE
    ignored = write_mask(tmp_path / "ignored.png", left_half)
    front, side = np.array([0.0, -3.0, 0.0]), np.array([-3.0, 0.0, 0.0])
    points = np.array([[-0.3, 0.0, 0.0], [0.3, 0.0, 0.0], [50.0, 0.0, 0.0]])
    cameras = [camera(front, half), camera(side, full)]
    assert inside_masks(points, cameras, 0).tolist() == [True, False, True]
    assert inside_masks(points, [camera(front, ignored)], 0).tolist() == [True, True, True]
    # 0.3 units are 15 px right of the mask's border.
    assert inside_masks(points, cameras, 14).tolist() == [True, False, True]
    assert inside_masks(points, cameras, 17).tolist() == [True, True, True]


def test_mask_culling_cuts_faces(tmp_path):
    mask = np.full((HEIGHT, WIDTH), MASK_OBJECT)
    mask[:, 80:] = MASK_BACKGROUND
    left = cull.cull_masked(ball(0.5), [camera(np.array([0.0, -3.0, 0.0]), write_mask(tmp_path / "m.png", mask))], 0)
    assert len(left.faces)
    assert left.vertices[:, 0].max() < 0.02


def test_ply_round_trip_and_independent_reader(tmp_path):
    rng = np.random.default_rng(0)
    mesh = ball(100.0, (35.0, -12.0, 620.0))
    mesh = Mesh(
        mesh.vertices,
        mesh.faces,
        ((mesh.vertices - [35.0, -12.0, 620.0]) / 100).astype(np.float32),
        rng.integers(0, 256, mesh.vertices.shape).astype(np.uint8),
    )
    write_ply(tmp_path / "deep" / "m.ply", mesh)
    assert os.listdir(tmp_path / "deep") == ["m.ply"]
    back = read_mesh(tmp_path / "deep" / "m.ply")
    assert np.array_equal(back.vertices, mesh.vertices)
    assert np.array_equal(back.faces, mesh.faces)
    assert np.array_equal(back.colours, mesh.colours)
    import open3d as o3d

    other = o3d.io.read_triangle_mesh(str(tmp_path / "deep" / "m.ply"))
    np.testing.assert_allclose(np.asarray(other.vertices), mesh.vertices, atol=1e-9)
    np.testing.assert_allclose(np.asarray(other.vertex_normals), mesh.normals, atol=1e-6)
    np.testing.assert_allclose(np.asarray(other.vertex_colors) * 255, mesh.colours, atol=1e-6)


def test_unreadable_meshes_are_named(tmp_path):
    with pytest.raises(DataError, match=r"none\.ply: no such mesh"):
        read_mesh(tmp_path / "none.ply")
    (tmp_path / "junk.ply").write_bytes(b"ply\nformat nonsense")
    with pytest.raises(DataError, match=r"junk\.ply"):
        read_mesh(tmp_path / "junk.ply")
    trimesh.PointCloud(np.eye(3)).export(tmp_path / "cloud.ply")
    with pytest.raises(DataError, match=r"cloud\.ply"):
        read_mesh(tmp_path / "cloud.ply")
    write_ply(tmp_path / "nan.ply", Mesh(np.full((3, 3), np.nan), np.array([[0, 1, 2]])))
    with pytest.raises(DataError, match=r"nan\.ply"):
        read_mesh(tmp_path / "nan.ply")
    whole = tmp_path / "whole.ply"
    write_ply(whole, ball(1.0))
    (tmp_path / "cut.ply").write_bytes(whole.read_bytes()[:-200])
    with pytest.raises(DataError, match=r"cut\.ply"):
        read_mesh(tmp_path / "cut.ply")
