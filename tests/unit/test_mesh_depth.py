"""Depth at the zero level of an analytic field, and the voxel size that the scene gives."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from nsr.config import TsdfConfig
from nsr.conventions import Similarity
from nsr.mesh import depth
from nsr.scene.scene import Scene, View
from tests.unit.look_at import look_at
from tests.unit.shapes import CENTRE, sphere, torched

RADIUS = 0.5
SDF = torched(lambda points: sphere(points, RADIUS) * (1 + 0.5 * np.sin(3 * points[:, 0])))  # bent, with the sphere's zero level


def exact(origin, direction):
    """Distance along rays (R, 3) to the sphere, NaN where they miss it."""
    offset = origin - CENTRE
    b = (offset * direction).sum(1)
    with np.errstate(invalid="ignore"):
        return -b - np.sqrt(b * b - (offset**2).sum(1) + RADIUS**2)


def rays(count=2000):
    rng = np.random.default_rng(0)
    origin = rng.normal(size=(count, 3))
    origin *= 2.5 / np.linalg.norm(origin, axis=1, keepdims=True)
    direction = CENTRE + rng.uniform(-0.3, 0.3, (count, 3)) - origin
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    origin, direction = origin.astype(np.float32).astype(np.float64), direction.astype(np.float32).astype(np.float64)
    hit = exact(origin, direction)
    good = np.isfinite(hit)
    return origin[good], direction[good], hit[good]


def found(origin, direction, expected, reach):
    tensors = (torch.from_numpy(values).float() for values in (origin, direction, expected))
    return depth.crossing_distance(SDF, *tensors, reach).double().numpy()


def test_crossing_is_exact_wherever_in_the_reach_the_expected_depth_lies():
    origin, direction, hit = rays()
    assert len(hit) > 1500
    for error in (-0.028, -0.01, 0.0, 0.013, 0.028):
        np.testing.assert_allclose(found(origin, direction, hit + error, 0.03), hit, atol=2e-5)


def test_no_crossing_nearby_is_no_depth():
    origin, direction, hit = rays()
    assert not found(origin, direction, hit - 0.1, 0.03).any()
    assert not found(origin, direction, hit + 0.1, 0.03).any(), "inside all the way"
    back = hit + 2 * ((CENTRE - origin) * direction).sum(1) - 2 * hit
    assert not found(origin, direction, back, 0.03).any(), "the far side is left there, not entered"
    assert not found(origin, -direction, hit, 0.03).any()


def scene(root, distance=3.0, focal=200.0, size=(160, 120)):
    K = np.array([[focal, 0.0, size[0] / 2], [0.0, focal, size[1] / 2], [0.0, 0.0, 1.0]])
    similarity = Similarity(10.0, np.eye(3), np.array([5.0, 6.0, 7.0]))
    positions = distance * np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.6, 0.0, 0.8]])
    views = []
    for k, position in enumerate(positions):
        w2c = np.eye(4)
        w2c[:3, :3] = look_at(position)[:3, :3]
        w2c[:3, 3] = -w2c[:3, :3] @ similarity.apply(position[None])[0]
        views.append(View(str(k), root / f"{k}.png", None, *size, K, w2c))
    return Scene(root, "test/three", tuple(views), similarity)


@pytest.mark.parametrize(("downscale", "voxel"), [(1, 3.0 / 200), (4, 3.0 / 50)])
def test_a_voxel_is_what_a_pixel_covers(tmp_path, downscale, voxel):
    assert depth.scene_voxel(scene(tmp_path), downscale) == pytest.approx(voxel)
    assert depth.scene_voxel(scene(tmp_path, focal=1e6), downscale) == depth.LEAST_VOXEL


@pytest.mark.parametrize("kind", ["crossing", "rendered"])
def test_frames_hold_the_depth_of_the_surface(tmp_path, monkeypatch, kind):
    """Rendered depth that is off and smeared over the rim: the crossing is exact, and has none where no surface is near."""
    bias, rng = 0.02, np.random.default_rng(0)

    def render(trained, K, w2c, width, height):
        column, row = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
        from nsr.conventions import pixel_rays

        origin, direction = pixel_rays(K, w2c, np.stack([column, row], -1).reshape(-1, 2))
        t = np.nan_to_num(exact(origin, direction) + bias, nan=2.7)
        z = (t * (direction @ w2c[2, :3])).reshape(height, width)
        opacity = (rng.random((height, width)) < 0.9).astype(np.float32)
        return SimpleNamespace(depth=z.astype(np.float32), opacity=opacity, colour=np.zeros((height, width, 3), np.float32))

    monkeypatch.setattr("nsr.rendering.render.render_view", render)
    model = SimpleNamespace(sharpness=lambda: torch.tensor(300.0))
    trained = SimpleNamespace(model=model, sdf=SDF, march_steps=1024, occupied=torch.ones(2, 2, 2))
    seen = [0, 0]
    frames = list(depth.depth_frames(trained, scene(tmp_path), TsdfConfig(downscale=2, depth=kind), seen))
    assert len(frames) == 3
    assert seen[0] == pytest.approx(0.9 * 3 * 80 * 60, rel=0.02)
    for frame in frames:
        assert frame.depth.shape == (60, 80)
        row, column = np.nonzero(frame.depth)
        point = (
            np.stack([column + 0.5, row + 0.5, np.ones(len(row))], 1) @ np.linalg.inv(frame.K).T * frame.depth[row, column, None]
        )
        unit = (point - frame.w2c[:3, 3]) @ frame.w2c[:3, :3]
        off = np.abs(sphere(unit, RADIUS))
        if kind == "crossing":
            assert 500 < len(row) < 0.5 * 60 * 80
            assert off.max() < 1e-4
        else:
            assert len(row) > 0.85 * 60 * 80
            assert np.median(off) > 0.01
    assert seen[1] == sum(int((frame.depth > 0).sum()) for frame in frames)
