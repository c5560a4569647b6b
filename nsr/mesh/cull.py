"""Removal of faces that no camera sees or that lie outside the silhouettes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nsr.conventions import Array
from nsr.mesh.surface import Mesh, pieces
from nsr.mesh.visibility import Camera, inside_masks, times_seen

MAX_ORDER = 32  # a large face is looked at on a lattice of at most this many steps along its edges
_FACES_AT_ONCE = 1 << 19
_POINTS_PER_FACE, _POINTS_FREE = 2, 200_000  # the lattices of all faces together have at most about this many points


def cull_masked(mesh: Mesh, cameras: Sequence[Camera], radius: int) -> Mesh:
    """Keep the faces whose corners all lie inside the masks dilated by `radius` pixels, in every view that shows them."""
    return mesh.select(_faces_with(np.all, mesh, inside_masks(mesh.vertices, cameras, radius)))


def cull_unseen(mesh: Mesh, cameras: Sequence[Camera], min_views: int, threads: int = 0, *, hiding: Mesh | None = None) -> Mesh:
    """Keep the faces of which at least `min_views` cameras see some point.

    Looked at are the vertices and, on faces with no seen vertex, a lattice of points: about one pixel apart, wider on
    meshes of many faces, where that would be hundreds of millions of rays.

    Args:
        hiding: what hides that which lies behind it, a mesh of which this one is a part; None: the mesh itself.
    """
    if min_views <= 0 or not len(mesh.faces):
        return mesh
    hiding = mesh if hiding is None else hiding
    surface = (hiding.vertices, hiding.faces)
    seen = times_seen(surface, mesh.vertices, cameras, min_views, threads) >= min_views
    keep = _faces_with(np.any, mesh, seen)
    hidden = np.flatnonzero(~keep)
    footprint = affordable_spacing(mesh, hidden, pixel_footprint(mesh, cameras))
    for start in range(0, len(hidden), _FACES_AT_ONCE):
        face, points = lattice(mesh, hidden[start : start + _FACES_AT_ONCE], footprint)
        again = times_seen(surface, points, cameras, min_views, threads) >= min_views
        keep[face[again]] = True
    return mesh.select(keep)


def _faces_with(rule: Callable[..., Any], mesh: Mesh, marks: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Faces (T,) of which all (`np.all`) or any (`np.any`) corners are marked (M,)."""
    keep = np.empty(len(mesh.faces), dtype=bool)
    for part in pieces(len(keep)):
        keep[part] = rule(marks[mesh.faces[part]], axis=1)
    return keep


def pixel_footprint(mesh: Mesh, cameras: Sequence[Camera]) -> float:
    """Smallest length on the mesh that a pixel covers: nearest vertex depth over focal length, over all cameras."""
    sizes = []
    for camera in cameras:
        depth = mesh.vertices @ camera.w2c[2, :3] + camera.w2c[2, 3]
        depth = depth[depth > 0]
        if len(depth):
            sizes.append(float(depth.min()) / float(camera.K[0, 0]))
    return min(sizes, default=np.inf)


def affordable_spacing(mesh: Mesh, faces: NDArray[np.int64], spacing: float) -> float:
    """`spacing`, or the multiple of it at which the lattices of the given faces (K,) have an affordable number of points."""
    budget = _POINTS_PER_FACE * len(faces) + _POINTS_FREE
    longest = np.empty(len(faces))
    for part in pieces(len(faces)):
        longest[part] = _longest_edge(mesh.vertices[mesh.faces[faces[part]]])
    while spacing < longest.max(initial=0.0) and _lattice_points(_order(longest, spacing)).sum() > budget:
        spacing *= 1.5
    return spacing


def _longest_edge(corners: Array) -> Array:
    return np.asarray(np.linalg.norm(corners - np.roll(corners, -1, axis=1), axis=2).max(axis=1, initial=0.0))


def _order(longest: Array, spacing: float) -> NDArray[np.int64]:
    return np.clip(np.ceil(longest / spacing).astype(np.int64) + 2, 3, MAX_ORDER)


def _lattice_points(order: NDArray[np.int64]) -> NDArray[np.int64]:
    return (order - 1) * (order - 2) // 2


def lattice(mesh: Mesh, faces: NDArray[np.int64], spacing: float) -> tuple[NDArray[np.int64], Array]:
    """Inner points of the given faces (K,), about `spacing` apart: the face of each point (P,) and the points (P, 3).

    A face whose longest edge is n spacings long gets the inner nodes of its barycentric lattice of order n + 2, one
    point (its centre) when it is small.
    """
    corners = mesh.vertices[mesh.faces[faces]]
    order = _order(_longest_edge(corners), spacing)
    owner, points = [np.zeros(0, dtype=np.int64)], [np.zeros((0, 3))]
    for n in np.unique(order):
        i, j = (index.reshape(-1) for index in np.mgrid[1:n, 1:n])
        i, j = i[i + j < n], j[i + j < n]
        weights = np.stack([i, j, n - i - j], axis=1) / n
        chosen = np.flatnonzero(order == n)
        owner.append(np.repeat(faces[chosen], len(weights)))
        points.append(np.einsum("wk,fkx->fwx", weights, corners[chosen]).reshape(-1, 3))
    return np.concatenate(owner), np.concatenate(points)
