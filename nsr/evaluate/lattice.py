"""Points on a mesh at a given spacing, and their thinning: the sampling of the DTU evaluation, seeded and in bounded memory."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nsr.conventions import Array
from nsr.errors import EvaluationError
from nsr.mesh.surface import Mesh

MAX_POINTS = 100_000_000  # in the box; more is a mesh in another unit
_GRID_AT_ONCE = 1 << 22
_FIRST_BATCH, _LARGEST_BATCH = 1 << 16, 1 << 20

Box = tuple[Array, Array]


def lattice_points(mesh: Mesh, spacing: float, box: Box) -> tuple[Array, NDArray[np.int64]]:
    """Points on the faces, about `spacing` apart, as jzhangbs/DTUeval-python lays them out.

    With edges a and b of a face, its points are v0 + a (i + 1/2) / n_a + b (j + 1/2) / n_b inside the face, where
    n = floor(length / step) and step = spacing * sqrt(|a| |b| / |a x b|). A face too small for a point gets none: its
    vertices stand for it.

    Args:
        mesh: any frame. spacing: length of that frame. box: lower and upper corner (3,) beyond which points are dropped.

    Returns:
        points (P, 3) and the face of each (P,), in the order of the faces.

    Raises:
        EvaluationError: more than `MAX_POINTS` points.
    """
    corners = mesh.vertices[mesh.faces]
    a, b = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    length_a, length_b = np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1)
    area = np.linalg.norm(np.cross(a, b), axis=1)
    proper = area > 0
    step = spacing * np.sqrt(length_a * length_b / np.where(proper, area, 1.0))
    step = np.where(proper, step, np.inf)
    rows, columns = np.floor(length_a / step), np.floor(length_b / step)
    touched = (corners.max(axis=1) >= box[0]).all(axis=1) & (corners.min(axis=1) <= box[1]).all(axis=1)
    faces = np.flatnonzero((rows >= 1) & (columns >= 1) & touched)
    _require_affordable(float((rows[faces] * columns[faces]).sum()) / 2.0, spacing)
    rows, columns = rows.astype(np.int64), columns.astype(np.int64)
    points, owners, total = [np.zeros((0, 3))], [np.zeros(0, dtype=np.int64)], 0
    for part in _parts(faces, rows[faces] * columns[faces]):
        size = rows[part] * columns[part]
        face = np.repeat(part, size)
        index = np.arange(len(face)) - np.repeat(np.cumsum(size) - size, size)
        u = (index // columns[face] + 0.5) / rows[face]
        v = (index % columns[face] + 0.5) / columns[face]
        inner = u + v < 1
        face, u, v = face[inner], u[inner, None], v[inner, None]
        point = a[face] * u + b[face] * v + corners[face, 0]
        kept = ((point >= box[0]) & (point <= box[1])).all(axis=1)
        points.append(point[kept])
        owners.append(face[kept])
        total += len(points[-1])
        _require_affordable(total, spacing)
    return np.concatenate(points), np.concatenate(owners)


def thin(points: Array, radius: float, threads: int = 1) -> NDArray[np.int64]:
    """Indices (K,), rising, of the points (P, 3) that are left when each removes all later ones within `radius`.

    What a loop over the points does one after another, done for many at once: a batch of points loses those near points
    already kept, and of the rest round after round those stay that no earlier undecided one is near to. Memory: the
    neighbour pairs of one batch, which grow with the batch's density, not with that of all points.
    """
    from scipy.spatial import cKDTree

    kept = np.zeros(0, dtype=np.int64)
    start, size = 0, _FIRST_BATCH
    while start < len(points):
        batch = np.arange(start, min(start + size, len(points)))
        if len(kept):
            tree = cKDTree(points[kept], balanced_tree=False)
            bound = float(np.nextafter(radius, np.inf))  # scipy's bound is exclusive
            batch = batch[~np.isfinite(tree.query(points[batch], distance_upper_bound=bound, workers=threads)[0])]
        kept = np.concatenate([kept, batch[_first_come(points[batch], radius)]])
        start, size = start + size, min(2 * size, _LARGEST_BATCH)
    return kept


def _first_come(points: Array, radius: float) -> NDArray[np.bool_]:
    """Which points (P, 3) a greedy pass in their order keeps."""
    from scipy.spatial import cKDTree

    kept = np.zeros(len(points), dtype=bool)
    if not len(points):
        return kept
    pairs = cKDTree(points).query_pairs(radius, output_type="ndarray")  # first < second in each
    undecided = np.ones(len(points), dtype=bool)
    while undecided.any():
        winners = undecided.copy()
        winners[pairs[:, 1]] = False
        kept |= winners
        undecided &= ~winners
        undecided[pairs[winners[pairs[:, 0]], 1]] = False
        pairs = pairs[undecided[pairs].all(axis=1)]
    return kept


def _parts(faces: NDArray[np.int64], sizes: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """The faces in runs whose lattices have about `_GRID_AT_ONCE` nodes."""
    if not len(faces):
        return []
    run = np.cumsum(sizes) // _GRID_AT_ONCE
    return np.split(faces, np.flatnonzero(np.diff(run)) + 1)


def _require_affordable(count: float, spacing: float) -> None:
    if count > MAX_POINTS:
        raise EvaluationError(
            f"the mesh has more than {MAX_POINTS:.0e} points {spacing:g} apart; is it in the ground truth's unit (mm for DTU)?"
        )
