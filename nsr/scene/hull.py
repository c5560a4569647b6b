"""The ball around the visual hull of a set of masks (voxel carving; Laurentini 1994 defines the visual hull)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nsr.conventions import MASK_IGNORE, MASK_OBJECT, Array, pixel_rays, project
from nsr.errors import DataError
from nsr.scene.rays import nearest_point
from nsr.scene.scene import View

_BACKGROUND, _IGNORE, _OBJECT = 0, 1, 2
_MAP_SIZE = 512  # px, longest side of the reduced masks
_COARSE, _FINE = 48, 128  # cells along the longest side of the box
_STEPS = 4  # the first grid is coarser by this power of two
_COARSE_MISSES, _FINE_MISSES = 0.1, 0.05  # share of the views that may call a cell background and not carve it
_MIN_SEEN = 0.75  # share of the views that must look at a cell: one that few photos show is carved by few
_BAD_COVERAGE = 0.5  # a mask that holds less than this share of what the others agree on is left out
_MIN_COMPONENT = 0.01  # of all hull cells
_MIN_MASKS = 3
_DISAGREE = "the masks agree on no object; check the poses and that masks belong to their photos, or give region as x,y,z,radius"


@dataclass(frozen=True)
class _Silhouette:
    """A view with its reduced mask: `votes` (h, w) uint8, one cell per `step` x `step` pixels."""

    view: View
    votes: NDArray[np.uint8]
    step: int


def hull_ball(views: Sequence[View], masks: Sequence[NDArray[np.uint8]]) -> tuple[Array, float, tuple[str, ...]]:
    """Smallest ball around the visual hull; a few wrong masks are found and left out.

    Args:
        views: cameras. masks: one per view, (H, W) uint8 with the values of `nsr.conventions`; empty ones are skipped.

    Returns:
        centre (3,) and radius in the views' world frame, and notes that name the masks left out.

    Raises:
        DataError: fewer than three masks with an object, or no region that the masks agree on.
    """
    shapes = [_silhouette(v, m) for v, m in zip(views, masks, strict=True) if (m == MASK_OBJECT).any()]
    if len(shapes) < _MIN_MASKS:
        raise DataError(
            f"{len(shapes)} masks show the object, {_MIN_MASKS} are needed to find the region; give region as x,y,z,radius"
        )
    low, high = _start_box(shapes)
    for _ in range(4):
        cell, cells = _carve_box(shapes, low, high, count=_COARSE, misses=int(_COARSE_MISSES * len(shapes)), hollow=False)
        if not len(cells):
            raise DataError(_DISAGREE)
        touches = ((cells.min(axis=0) < low + cell) | (cells.max(axis=0) > high - cell)).any()
        if not touches:
            break
        middle = (low + high) / 2
        low, high = middle - (high - low), middle + (high - low)
    good = [shape for shape in shapes if _coverage(shape, cells) >= _BAD_COVERAGE]
    left_out = [shape.view.name for shape in shapes if _coverage(shape, cells) < _BAD_COVERAGE]
    if len(good) < _MIN_MASKS:
        raise DataError("most masks contradict each other; check the poses and that masks belong to their photos")
    pad = 2 * cell
    low, high = cells.min(axis=0) - pad, cells.max(axis=0) + pad
    _, cells = _carve_box(good, low, high, count=_FINE, misses=int(_FINE_MISSES * len(good)), hollow=True)
    if not len(cells):
        raise DataError(_DISAGREE)
    centre, radius = enclosing_ball(cells)
    notes = (f"masks that contradict the others, not used for the region: {', '.join(left_out)}",) if left_out else ()
    return centre, radius, notes


def enclosing_ball(points: Array) -> tuple[Array, float]:
    """Smallest ball around points (P, 3), to about 0.1 % of its radius (Badoiu and Clarkson 2003); centre (3,), radius."""
    from scipy.spatial import ConvexHull, QhullError

    with suppress(QhullError, ValueError):  # flat or few points: no hull to shorten the list with
        points = points[ConvexHull(points).vertices]
    centre = points.mean(axis=0)
    for step in range(1, 1000):
        far = points[np.argmax(((points - centre) ** 2).sum(axis=1))]
        centre = centre + (far - centre) / (step + 1)
    return centre, float(np.linalg.norm(points - centre, axis=1).max())


def _silhouette(view: View, mask: NDArray[np.uint8]) -> _Silhouette:
    """Reduce a mask: a cell is object if any of its pixels is, else ignored if any is, so that thin parts survive."""
    step = -(-max(mask.shape) // _MAP_SIZE)
    rank = np.where(mask == MASK_OBJECT, _OBJECT, np.where(mask == MASK_IGNORE, _IGNORE, _BACKGROUND)).astype(np.uint8)
    rank = np.pad(rank, [(0, -size % step) for size in rank.shape])
    rows, columns = rank.shape[0] // step, rank.shape[1] // step
    return _Silhouette(view, rank.reshape(rows, step, columns, step).max(axis=(1, 3)), step)


def _start_box(shapes: Sequence[_Silhouette]) -> tuple[Array, Array]:
    """A cube (two corners) that most likely holds the object: around the point where rays through mask centres meet."""
    centroids, origins, directions = [], [], []
    for shape in shapes:
        rows, columns = np.nonzero(shape.votes == _OBJECT)
        centroid = (np.array([columns.mean(), rows.mean()]) + 0.5) * shape.step
        origin, direction = pixel_rays(shape.view.K, shape.view.w2c, centroid[None])
        centroids.append(centroid)
        origins.append(origin[0])
        directions.append(direction[0])
    centre = nearest_point(origins, directions)
    radii = []
    for shape, centroid in zip(shapes, centroids, strict=True):
        depth = project(shape.view.K, shape.view.w2c, centre[None])[1][0]
        rows, columns = np.nonzero(shape.votes == _OBJECT)
        focal = np.array([shape.view.K[0, 0], shape.view.K[1, 1]])
        offset = ((np.stack([columns, rows], axis=1) + 0.5) * shape.step - centroid) / focal
        if depth > 0:
            radii.append(depth * np.sqrt((offset**2).sum(axis=1).max()))
    if 2 * len(radii) < len(shapes):
        raise DataError("most cameras look away from where their masks meet; check the poses and the camera convention")
    half = 2.0 * float(np.percentile(radii, 75))
    return centre - half, centre + half


def _carve_box(
    shapes: Sequence[_Silhouette], low: Array, high: Array, *, count: int, misses: int, hollow: bool
) -> tuple[float, Array]:
    """Cell size and centres (P, 3) of the cells of a box that at most `misses` silhouettes call background.

    `count` cells lie along the longest side. Cells are carved at a quarter of that resolution first, generously, and
    only what is left is divided again; if `hollow`, of that only its skin, which is all that a ball around it touches.
    """
    from scipy import ndimage

    size = float((high - low).max()) * _STEPS / count
    shape = np.maximum(np.ceil((high - low) / size - 1e-9), 1).astype(np.int64)
    index = np.stack(np.unravel_index(np.arange(np.prod(shape)), shape), axis=1)
    while True:
        last = size * count <= float((high - low).max()) * 1.001
        # Half a diagonal keeps every cell that touches the object, and thin parts joined; the result is cut closer.
        widen = 0.5 if last and hollow else 0.5 * np.sqrt(3)
        index = index[_survivors(shapes, low + (index + 0.5) * size, size * widen, misses)]
        if last or not len(index):
            break
        if hollow:
            full = _grid(index, shape)
            index = np.argwhere(full & ~ndimage.binary_erosion(full, np.ones((3, 3, 3)), border_value=1))
        index = (2 * index[:, None] + np.indices((2, 2, 2)).reshape(3, -1).T).reshape(-1, 3)
        shape, size = 2 * shape, size / 2
    # Thin parts come out in beads where masks are coarse: cells up to four apart count as joined.
    full = ndimage.binary_dilation(_grid(index, shape), np.ones((3, 3, 3)), iterations=2)
    component = ndimage.label(full, np.ones((3, 3, 3)))[0][tuple(index.T)]
    counts = np.bincount(component)
    return size, low + (index[counts[component] >= _MIN_COMPONENT * len(index)] + 0.5) * size


def _grid(index: NDArray[np.int64], shape: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Boolean grid of a shape (3,) that is true at cells (P, 3)."""
    full = np.zeros(shape, bool)
    full[tuple(index.T)] = True
    return full


def _survivors(shapes: Sequence[_Silhouette], points: Array, widen: float, misses: int) -> NDArray[np.int64]:
    """Indices of points (P, 3) that most views look at and at most `misses` silhouettes call background."""
    alive = np.arange(len(points))
    against, seen = np.zeros(len(points), np.int16), np.zeros(len(points), np.int16)
    # Neighbouring photos carve the same side: a golden-ratio order takes them from all around, so cells die early.
    for index in np.argsort(np.arange(len(shapes)) * 0.618034 % 1.0):
        votes = _votes(shapes[index], points[alive], widen)
        against[alive] += votes == _BACKGROUND
        seen[alive] += votes >= _BACKGROUND
        alive = alive[against[alive] <= misses]
    return alive[seen[alive] >= max(2, _MIN_SEEN * len(shapes))]


def _votes(shape: _Silhouette, points: Array, widen: float) -> NDArray[np.int8]:
    """Votes (P,) of one silhouette on cells: object, background, or -1 where it ignores or does not see the cell.

    The object is widened by `widen` (world lengths), so that parts thinner than a cell are not carved away.
    """
    from scipy import ndimage

    view = shape.view
    pixels, depth = project(view.K, view.w2c, points)
    out = np.full(len(points), -1, np.int8)
    front = depth > 0
    if not front.any():
        return out
    half = int(round(widen * max(view.K[0, 0], view.K[1, 1]) / float(np.median(depth[front])) / shape.step))
    grid = ndimage.maximum_filter(shape.votes, size=2 * half + 1) if half else shape.votes
    inside = front & (pixels >= 0).all(axis=1) & (pixels[:, 0] < view.width) & (pixels[:, 1] < view.height)
    column, row = (pixels[inside] / shape.step).astype(np.int64).T
    found = grid[row, column].astype(np.int8)
    out[inside] = np.where(found == _IGNORE, -1, found)
    return out


def _coverage(shape: _Silhouette, cells: Array) -> float:
    """Share of the cells that a silhouette sees and does not call background; 1 if it sees none."""
    votes = _votes(shape, cells, 0.0)
    seen = (votes >= _BACKGROUND).sum()
    return float((votes == _OBJECT).sum() / seen) if seen else 1.0
