"""Sparse points of a scene as samples of its surface: which ones, how exact, and how likely each is drawn."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nsr.conventions import MASK_BACKGROUND, Array, project
from nsr.errors import DataError
from nsr.log import get_logger
from nsr.scene.images import load_view_masks
from nsr.scene.scene import Scene, View

_LEAST_ERROR = 0.25  # px; a smaller reprojection error is luck
_USUAL_ERROR = 1.0  # px, where the source does not say


class SurfacePoints(NamedTuple):
    """P points of the surface, on the device.

    Attributes:
        table: (P, 5) float32: position, unit frame; standard error of the position, unit frame; weight in (0, 1].
        entries: (E,) int32, for each training view and each point it sees the point's row.
    """

    table: Tensor
    entries: Tensor

    def draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Position (count, 3), standard error (count,) and weight (count,) of random entries."""
        pick = torch.randint(len(self.entries), (count,), generator=generator, device=generator.device)
        drawn = self.table[self.entries[pick].long()]
        return drawn[:, :3], drawn[:, 3], drawn[:, 4]


def load_surface_points(scene: Scene, views: Sequence[View], masked: bool, device: torch.device) -> SurfacePoints | None:
    """The scene's points in the unit ball that at least two of the given views see; None if there are none.

    To draw an entry is to draw a view and then a point it sees, so a point counts by the length of its track. Its standard
    error is `reprojection error x depth / focal length / sqrt(track length - 1)`, and its weight the median of all such
    errors over it, at most 1. With masks, points go that most of their views say are background.

    Raises:
        DataError: the scene has no sparse points.
    """
    found = scene.points
    if found is None:
        raise DataError(
            f"{scene.root}: train.loss.points needs sparse points; run triangulate and give its points.npz as --points, "
            "or set train.loss.points=0"
        )
    owner, view = scene.sightings(views)
    position = scene.similarity.inverse().apply(found.xyz)
    pixel, spread = _sightings(position[owner], view, views, scene.unit_w2c(views))
    counts = np.bincount(owner, minlength=len(position))
    keep = (np.linalg.norm(position, axis=1) < 1) & (counts >= 2)
    if masked:
        background = np.bincount(owner, _on_background(pixel, view, views), len(position))
        keep &= background * 2 <= counts
    if not keep.any():
        get_logger().warning("%s: no sparse point is usable; train.loss.points has no effect", scene.name)
        return None
    error = np.maximum(np.where(np.isfinite(found.error), found.error, _USUAL_ERROR), _LEAST_ERROR)
    mean_spread = np.bincount(owner, spread, len(position)) / np.maximum(counts, 1)
    sigma = (error * mean_spread / np.sqrt(np.maximum(counts - 1, 1)))[keep]
    weight = np.minimum(1, np.median(sigma) / sigma)
    row = np.cumsum(keep) - 1
    table = np.column_stack([position[keep], sigma, weight]).astype(np.float32)
    get_logger().info("%d sparse points, median standard error %.2g of the region's radius", len(table), np.median(sigma))
    return SurfacePoints(
        torch.from_numpy(table).to(device), torch.from_numpy(row[owner[keep[owner]]].astype(np.int32)).to(device)
    )


def hash_points(points: SurfacePoints) -> str:
    """Hash of points and entries."""
    return hashlib.sha256(b"".join(part.cpu().numpy().tobytes() for part in points)).hexdigest()[:16]


def _sightings(position: Array, view: NDArray[np.int64], views: Sequence[View], w2c: Array) -> tuple[Array, Array]:
    """Pixels (O, 2) of positions (O, 3) in the views (O,) that see them, and what a pixel spans there (O,), unit frame."""
    pixel, spread = np.zeros((len(view), 2)), np.zeros(len(view))
    for number, item in enumerate(views):
        mine = np.flatnonzero(view == number)
        pixel[mine], depth = project(item.K, w2c[number], position[mine])
        spread[mine] = np.abs(depth) / np.sqrt(item.K[0, 0] * item.K[1, 1])
    return pixel, spread


def _on_background(pixel: Array, view: NDArray[np.int64], views: Sequence[View]) -> NDArray[np.bool_]:
    """Whether masks call pixels (O, 2) of views (O,) background."""
    out = np.zeros(len(view), dtype=bool)
    for number, (item, mask) in enumerate(zip(views, load_view_masks(views), strict=True)):
        mine = np.flatnonzero(view == number)
        column, line = np.clip(pixel[mine].astype(np.int64), 0, [item.width - 1, item.height - 1]).T
        out[mine] = mask[line, column] == MASK_BACKGROUND
    return out
