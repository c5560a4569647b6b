"""Undistortion and resizing against formulas written out here."""

from __future__ import annotations

import numpy as np
import pytest

from nsr.data.raw import RawCamera
from nsr.errors import DataError
from nsr.scene.undistort import (
    Pinhole,
    fit_size,
    remap_image,
    remap_mask,
    resize_image,
    resize_mask,
    scale_intrinsics,
    to_pinhole,
)

WIDTH, HEIGHT = 160, 120


def radial(xy, k):
    """COLMAP SIMPLE_RADIAL: x (1 + k r^2)."""
    return xy * (1 + k * (xy**2).sum(-1, keepdims=True))


def fisheye(xy, k):
    """COLMAP SIMPLE_RADIAL_FISHEYE: direction at angle theta lands at theta (1 + k theta^2)."""
    r = np.linalg.norm(xy, axis=-1, keepdims=True)
    theta = np.arctan(r)
    return xy * theta * (1 + k * theta**2) / np.maximum(r, 1e-12)


MODELS = {
    "barrel": ("SIMPLE_RADIAL", (150.0, 82.0, 59.0, -0.2), lambda xy: radial(xy, -0.2)),
    "pincushion": ("SIMPLE_RADIAL", (150.0, 82.0, 59.0, 0.15), lambda xy: radial(xy, 0.15)),
    "fisheye": ("SIMPLE_RADIAL_FISHEYE", (120.0, 80.0, 61.0, 0.05), lambda xy: fisheye(xy, 0.05)),
}


def world_colour(xy):
    """A smooth picture (..., 3) on the plane z = 1."""
    x, y = xy[..., 0], xy[..., 1]
    return 128 + 100 * np.stack([np.sin(4 * x + y), np.cos(3 * y), np.sin(2 * x * y + 1)], axis=-1)


def invert(function, target):
    """Fixed-point solution of function(x) = target."""
    x = target.copy()
    for _ in range(200):
        x = x + 0.7 * (target - function(x))
    assert np.abs(function(x) - target).max() < 1e-9
    return x


def pixel_grid(width, height):
    return np.stack(np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5), axis=-1)


@pytest.mark.parametrize("kind", MODELS)
def test_undistorted_photo_shows_what_the_pinhole_camera_sees(kind):
    model, params, distort = MODELS[kind]
    seen = invert(distort, (pixel_grid(WIDTH, HEIGHT) - params[1:3]) / params[0])
    photo = np.rint(world_colour(seen)).astype(np.uint8)
    pinhole = to_pinhole(RawCamera(WIDTH, HEIGHT, model=model, params=params))
    assert pinhole.valid is not None and pinhole.valid.all()
    assert pinhole.width * pinhole.height > 0.6 * WIDTH * HEIGHT
    grid = pixel_grid(pinhole.width, pinhole.height)
    rays = np.concatenate([grid, np.ones_like(grid[..., :1])], -1) @ np.linalg.inv(pinhole.K).T
    got = remap_image(photo, pinhole).astype(float)
    assert got.shape == (pinhole.height, pinhole.width, 3)
    error = np.abs(got - world_colour(rays[..., :2]))
    assert error[1:-1, 1:-1].max() < 1.5  # rounding twice plus bilinear interpolation
    assert np.median(error) < 0.5
    mask = np.where(photo[..., 0] > 128, 255, 0).astype(np.uint8)
    sure = np.abs(world_colour(rays[..., :2])[..., 0] - 128) > 4
    assert np.array_equal(remap_mask(mask, pinhole)[sure], np.where(world_colour(rays[..., :2])[..., 0] > 128, 255, 0)[sure])


def test_undistorted_models_change_nothing():
    K = np.array([[150.0, 0.3, 82], [0, 151, 59], [0, 0, 1]])
    plain = to_pinhole(RawCamera(WIDTH, HEIGHT, K))
    assert plain.source is None and np.array_equal(plain.K, K)
    for model, params in (("PINHOLE", (150.0, 151.0, 82.0, 59.0)), ("OPENCV", (150.0, 151.0, 82.0, 59.0, 0, 0, 0, 0))):
        pinhole = to_pinhole(RawCamera(WIDTH, HEIGHT, model=model, params=params))
        assert pinhole.source is None
        assert np.array_equal(pinhole.K, [[150, 0, 82], [0, 151, 59], [0, 0, 1]])
        assert (pinhole.width, pinhole.height) == (WIDTH, HEIGHT)


def test_pixels_without_a_source_become_ignore():
    source = np.stack(np.meshgrid(np.arange(4) - 0.5, np.arange(3) + 0.5), -1).astype(np.float32)
    pinhole = Pinhole(np.eye(3), 4, 3, source, source[..., 0] >= 0)
    mask = np.array([[255, 0, 255], [0, 255, 0], [255, 255, 255]], np.uint8)
    assert remap_mask(mask, pinhole).tolist() == [[128, 255, 0, 255], [128, 0, 255, 0], [128, 255, 255, 255]]
    image = np.stack([mask] * 3, -1)
    assert remap_image(image, pinhole)[..., 0].tolist() == [[255, 255, 0, 255], [0, 0, 255, 0], [255, 255, 255, 255]]


def test_bad_models_are_one_line():
    for model, params, text in (
        ("NO_SUCH", (1.0,), "NO_SUCH: not known; use a COLMAP model name"),
        ("OPENCV", (150.0, 82.0), "OPENCV: 2 parameters do not fit"),
        ("SIMPLE_RADIAL", (150.0, 82.0, 59.0, float("nan")), "do not fit; check the calibration"),
        ("SIMPLE_RADIAL", (150.0, 82.0, 59.0, -50.0), "no usable image"),
    ):
        with pytest.raises(DataError, match=text):
            to_pinhole(RawCamera(WIDTH, HEIGHT, model=model, params=params))
    with pytest.raises(DataError, match="neither a matrix nor a model"):
        to_pinhole(RawCamera(WIDTH, HEIGHT))


def test_sizes_are_limited_and_never_enlarged():
    assert fit_size(1600, 1200, 800) == (800, 600)
    assert fit_size(1200, 1600, 801) == (601, 801)
    assert fit_size(640, 480, 800) == (640, 480)
    assert fit_size(640, 480, 0) == (640, 480)
    assert fit_size(5000, 1, 100) == (100, 1)


def test_resized_intrinsics_project_to_scaled_pixels_and_the_picture_agrees():
    K = np.array([[150.0, 2.0, 82], [0, 140, 59], [0, 0, 1]])
    small = scale_intrinsics(K, (160, 120), (53, 41))
    point = np.array([0.13, -0.21, 1.0])
    before, after = K @ point, small @ point
    np.testing.assert_allclose(after[:2], before[:2] * [53 / 160, 41 / 120], rtol=1e-14)
    # A ramp over x: its value at a continuous position scales with the position, so pixel centres must agree.
    ramp = np.repeat(np.rint(pixel_grid(160, 120)[..., :1]), 3, axis=2).astype(np.uint8)
    got = resize_image(ramp, (40, 30))[..., 0].astype(float)
    np.testing.assert_allclose(got, np.broadcast_to((np.arange(40) + 0.5) * 4, got.shape), atol=1.01)


def test_resized_mask_takes_the_majority():
    mask = np.array([[255, 255, 0, 0, 128, 128], [255, 0, 0, 255, 128, 0]], np.uint8)
    assert resize_mask(mask, (3, 1)).tolist() == [[255, 0, 128]]
