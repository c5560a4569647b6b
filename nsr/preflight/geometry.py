"""Cameras and the region of interest in the unit frame: outline of the unit ball, coverage of its directions, look-at point."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from nsr.conventions import Array, camera_centres, project
from nsr.errors import DataError
from nsr.mesh.visibility import cameras_of, in_image
from nsr.scene.rays import angles_apart, nearest_point, optical_axes
from nsr.scene.scene import View

_OUTLINE = 256  # points of the ball's outline
# How much larger the squares of the cameras' ups along one axis sum up to than along any other, if it is a common up.
_COMMON_UP = 1.3
MAX_SLANT = 75.0  # degrees between a surface's normal and the direction to a camera that still sees it well


def ball_outline(K: Array, unit_w2c: Array) -> Array | None:
    """The unit ball's outline in a photograph: pixels (N, 2), closed; None from inside the ball or where a part lies behind.

    The rays that touch a ball of radius 1 from distance d meet it in a circle of radius sqrt(1 - 1/d^2) around the point at 1/d
    towards the camera.
    """
    centre = camera_centres(unit_w2c[None])[0]
    distance = float(np.linalg.norm(centre))
    if distance <= 1.0:
        return None
    towards = centre / distance
    side = np.cross(towards, np.eye(3)[np.argmin(np.abs(towards))])
    side /= np.linalg.norm(side)
    angle = np.linspace(0.0, 2.0 * np.pi, _OUTLINE, endpoint=False)[:, None]
    circle = np.cos(angle) * side + np.sin(angle) * np.cross(towards, side)
    pixels, depth = project(K, unit_w2c, towards / distance + np.sqrt(1.0 - distance**-2) * circle)
    return pixels if (depth > 0).all() else None


def in_ball(view: View, unit_w2c: Array, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Which pixels (h, w) of a view, reduced to a shape, have rays through the unit ball."""
    rows, columns = shape
    x, y = np.meshgrid((np.arange(columns) + 0.5) * view.width / columns, (np.arange(rows) + 0.5) * view.height / rows)
    rays = np.stack([x, y, np.ones_like(x)], axis=-1) @ np.linalg.inv(view.K).T
    rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
    centre = unit_w2c[:3, 3]  # of the ball, in the camera's frame
    along = rays @ centre
    near = centre @ centre - along**2 <= 1.0
    return np.asarray(near & ((along > 0) | (centre @ centre <= 1.0)))


def sphere_directions(count: int) -> Array:
    """Evenly spread unit vectors (count, 3): a Fibonacci lattice."""
    index = np.arange(count) + 0.5
    z = 1.0 - 2.0 * index / count
    turn = np.pi * (1.0 + np.sqrt(5.0)) * index
    return np.stack([np.sqrt(1 - z**2) * np.cos(turn), np.sqrt(1 - z**2) * np.sin(turn), z], axis=1)


def times_seen(directions: Array, views: Sequence[View], unit_w2c: Array) -> NDArray[np.int64]:
    """How many cameras see each patch of the unit ball, (P,) for normals (P, 3): within `MAX_SLANT` and in the photograph.

    A patch stands for surface that faces its way; what hides it from a camera is not known before training.
    """
    seen = np.zeros(len(directions), dtype=np.int64)
    surface = 0.5 * directions  # objects fill about half of their ball
    for camera, centre in zip(cameras_of(views, unit_w2c), camera_centres(unit_w2c), strict=True):
        to_camera = centre - surface
        cosine = (to_camera * directions).sum(axis=1) / np.maximum(np.linalg.norm(to_camera, axis=1), 1e-12)
        seen += in_image(camera, surface)[0] & (cosine > np.cos(np.radians(MAX_SLANT)))
    return seen


def look_at_point(unit_w2c: Array) -> Array | None:
    """Where the optical axes meet, (3,) unit frame; None where they are parallel."""
    try:
        return nearest_point(*optical_axes(unit_w2c))
    except DataError:
        return None


def neighbour_angles(unit_w2c: Array) -> Array:
    """Angle in degrees from each camera to its nearest other one, seen from the centre of the region, (V,)."""
    angles = angles_apart(unit_w2c)
    np.fill_diagonal(angles, 180.0)
    return np.asarray(angles.min(axis=1))


def distances_apart(unit_w2c: Array) -> Array:
    """Distance between every two cameras (V, 4, 4) in parts of the middle distance from the region's centre, (V, V)."""
    centres = camera_centres(unit_w2c)
    apart = np.linalg.norm(centres[:, None] - centres[None], axis=-1)
    return np.asarray(apart / max(float(np.median(np.linalg.norm(centres, axis=1))), 1e-12))


def same_places(unit_w2c: Array, tolerance: float = 1e-3) -> list[tuple[int, int]]:
    """Pairs of cameras (V, 4, 4) at the same place that look the same way: `distances_apart` and radians under the tolerance."""
    axes = unit_w2c[:, :3, :3].reshape(len(unit_w2c), 9)
    turned = np.linalg.norm(axes[:, None] - axes[None], axis=-1)
    first, second = np.nonzero(np.triu(distances_apart(unit_w2c) + turned < tolerance, k=1))
    return list(zip(first.tolist(), second.tolist(), strict=True))


def roll_angles(unit_w2c: Array) -> Array | None:
    """Angle in degrees (V,) between each camera's up in its photograph and the common up direction; None if there is none.

    Cameras that are turned by a quarter and go around an object have none: their ups point all around in a plane.
    """
    ups = -unit_w2c[:, 1, :3]
    up = ups.mean(axis=0)
    length = float(np.linalg.norm(up))
    _, second, first = np.linalg.eigvalsh(ups.T @ ups)
    if length < 0.3 or first < _COMMON_UP * second:
        return None
    up /= length
    image_up = np.einsum("vij,j->vi", unit_w2c[:, :3, :3], up)[:, :2]
    steep = np.linalg.norm(image_up, axis=1) < 0.3  # seen along it, up has no direction in the photograph
    return np.where(steep, 0.0, np.degrees(np.abs(np.arctan2(image_up[:, 0], -image_up[:, 1]))))
