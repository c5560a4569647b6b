"""Where a set of viewing rays meets: the point that cameras look at."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from nsr.conventions import Array, camera_centres
from nsr.errors import DataError

_ROUNDS = 30
# Smallest mean squared sine between the rays and their common direction: 1e-4 is about half a degree.
_MIN_SPREAD = 1e-4


def nearest_point(origins: ArrayLike, directions: ArrayLike) -> Array:
    """Point (3,) with the smallest sum of distances to rays, so that a few stray rays do not move it.

    Weiszfeld's iteration on the least-squares problem sum_i w_i |(I - d_i d_i^T)(x - o_i)|^2 with w_i = 1 / distance.

    Args:
        origins: (R, 3). directions: (R, 3) unit length.

    Raises:
        DataError: fewer than two rays, or all (nearly) parallel.
    """
    origins, directions = np.asarray(origins, dtype=np.float64), np.asarray(directions, dtype=np.float64)
    across = np.eye(3) - directions[:, :, None] * directions[:, None, :]
    if len(origins) < 2 or np.linalg.eigvalsh(across.mean(axis=0))[0] < _MIN_SPREAD:
        raise DataError("the cameras look in one direction only, so what they look at is unknown; give region as x,y,z,radius")
    weights = np.ones(len(origins))
    for _ in range(_ROUNDS):
        system = np.einsum("r,rij->ij", weights, across)
        point = np.linalg.solve(system, np.einsum("r,rij,rj->i", weights, across, origins))
        distance = np.linalg.norm(np.einsum("rij,rj->ri", across, point - origins), axis=1)
        weights = 1.0 / np.maximum(distance, 1e-3 * np.median(distance) + 1e-12)
    return point


def angles_apart(unit_w2c: Array) -> Array:
    """Angle (V, V) in degrees between every two cameras (V, 4, 4), unit frame, seen from the region's centre."""
    towards = camera_centres(unit_w2c)
    towards = towards / np.maximum(np.linalg.norm(towards, axis=1, keepdims=True), 1e-12)
    return np.degrees(np.arccos(np.clip(towards @ towards.T, -1, 1)))


def optical_axes(w2c: ArrayLike) -> tuple[Array, Array]:
    """Centres (V, 3) and unit viewing directions (V, 3) in the world frame of cameras (V, 4, 4)."""
    w2c = np.asarray(w2c, dtype=np.float64)
    return camera_centres(w2c), w2c[:, 2, :3].copy()
