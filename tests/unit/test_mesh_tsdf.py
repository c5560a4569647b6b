"""Depth fusion on the exact depth of a sphere."""

from __future__ import annotations

import numpy as np
import pytest

from nsr.conventions import pixel_rays
from nsr.errors import ConfigError, EmptyMesh
from nsr.mesh.tsdf import DepthFrame, fuse
from tests.unit.look_at import look_at

CENTRE, RADIUS, VOXEL = np.array([0.1, -0.05, 0.07]), 0.5, 0.02


def frame(position, width=160, height=120):
    """Exact z depth of the sphere from a camera at `position`, colour = outward normal."""
    forward = -position / np.linalg.norm(position)
    w2c = look_at(position)
    K = np.array([[200.0, 0.0, width / 2], [0.0, 200.0, height / 2], [0.0, 0.0, 1.0]])
    rows, columns = np.mgrid[:height, :width] + 0.5
    origin, direction = pixel_rays(K, w2c, np.stack([columns.ravel(), rows.ravel()], axis=1))
    b = ((origin - CENTRE) * direction).sum(axis=1)
    root = b * b - ((origin - CENTRE) ** 2).sum(axis=1) + RADIUS**2
    t = -b - np.sqrt(np.maximum(root, 0))
    depth = np.where(root > 0, t * (direction @ forward), 0.0)
    colour = 0.5 + 0.5 * (origin + t[:, None] * direction - CENTRE) / RADIUS
    shape = (height, width)
    return DepthFrame(depth.reshape(shape).astype(np.float32), colour.reshape(*shape, 3).astype(np.float32), K, w2c)


@pytest.fixture(scope="module")
def fused():
    rng = np.random.default_rng(0)
    positions = rng.normal(size=(16, 3))
    return fuse((frame(2.5 * p / np.linalg.norm(p)) for p in positions), VOXEL, 4.0)


def test_sphere_is_found_with_less_than_a_voxel_of_error(fused):
    offset = fused.vertices - CENTRE
    error = np.linalg.norm(offset, axis=1) - RADIUS
    assert len(fused.faces) > 5000
    assert np.abs(error).max() < VOXEL
    assert abs(error.mean()) < 0.1 * VOXEL
    # A half-pixel disagreement about pixel centres would move the whole surface, here by 6 mm.
    assert np.linalg.norm(offset.mean(axis=0)) < 0.1 * VOXEL


def test_orientation_normals_and_colours(fused):
    offset = (fused.vertices - CENTRE) / RADIUS
    assert (np.einsum("tx,tx->t", fused.face_vectors(), offset[fused.faces[:, 0]]) > 0).mean() > 0.999
    assert np.median(np.einsum("mx,mx->m", fused.normals, offset)) > 0.98
    assert np.median(np.abs(fused.colours / 255.0 - (0.5 + 0.5 * offset))) < 0.02


def test_one_view_without_pixel_bias():
    """From one camera the error has no voting partner: half a pixel of offset would triple it."""
    mesh = fuse([frame(np.array([0.3, -2.4, 0.6]))], 0.01, 4.0)
    error = np.abs(np.linalg.norm(mesh.vertices - CENTRE, axis=1) - RADIUS)
    assert np.median(error) < 0.0018


def test_nothing_to_fuse_is_a_named_error():
    seen = frame(np.array([0.0, -2.5, 0.0]))
    blank = DepthFrame(np.zeros_like(seen.depth), seen.colour, seen.K, seen.w2c)
    with pytest.raises(EmptyMesh, match="no depth"):
        fuse([blank], VOXEL, 4.0)
    with pytest.raises(EmptyMesh, match="no depth"):
        fuse([], VOXEL, 4.0)
    with pytest.raises(ConfigError, match=r"tsdf\.truncation"):
        fuse([seen], VOXEL, 0.5)
