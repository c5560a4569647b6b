"""Which points of a surface count in an evaluation: seen, inside the silhouettes, above the floor."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nsr.conventions import Array
from nsr.errors import ConfigError
from nsr.mesh.surface import Mesh
from nsr.mesh.visibility import Camera, dilated_mask, in_image, inside_masks, times_seen


def seen_by(mesh: Mesh, points: Array, cameras: Sequence[Camera], min_views: int, threads: int = 0) -> NDArray[np.bool_]:
    """Which points (P, 3) of the mesh at least `min_views` cameras see past the mesh itself; 0 asks for none."""
    if min_views <= 0:
        return np.ones(len(points), dtype=bool)
    return np.asarray(times_seen((mesh.vertices, mesh.faces), points, cameras, min_views, threads) >= min_views)


def in_silhouettes(points: Array, cameras: Sequence[Camera], dilation: int) -> NDArray[np.bool_]:
    """Which points (P, 3) lie inside the dilated mask of every view that shows them; all without masks or with -1."""
    if dilation < 0 or any(camera.mask is None for camera in cameras):
        return np.ones(len(points), dtype=bool)
    return inside_masks(points, cameras, dilation)


def mask_margins(points: Array, cameras: Sequence[Camera]) -> Array:
    """How many pixels every mask must grow by until each of the points (P, 3) lies inside all of them that show it, (P,).

    0 inside, and for a point that no image shows; infinite where a mask is empty. Growing is by a disk, so that
    `mask_margins <= radius` is `inside_masks(radius)` for all radii at the cost of one.

    Raises:
        DataError: a mask is missing or unreadable.
    """
    from scipy.ndimage import distance_transform_edt

    margin = np.zeros(len(points))
    for camera in cameras:
        mask = dilated_mask(camera, 0)
        outside = distance_transform_edt(~mask) if mask.any() else np.full(mask.shape, np.inf)
        inside, column, row = in_image(camera, points)
        margin[inside] = np.maximum(margin[inside], outside[row, column])
    return margin


def above_floor(points: Array, up: ArrayLike, level: float) -> NDArray[np.bool_]:
    """Which points (P, 3) lie higher than `level` along the direction `up` (3,)."""
    return np.asarray(points @ unit_direction(up) > level)


def unit_direction(up: ArrayLike) -> Array:
    """`up` with length 1.

    Raises:
        ConfigError: not three finite numbers, or all zero.
    """
    direction = np.asarray(up, dtype=np.float64).reshape(-1)
    length = float(np.linalg.norm(direction))
    if direction.shape != (3,) or not np.isfinite(length) or length == 0:
        raise ConfigError(f"evaluate.up: {list(direction)} is not a direction of three numbers")
    return direction / length
