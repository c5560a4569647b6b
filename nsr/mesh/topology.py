"""What the edges of a mesh say: closed, manifold, consistently oriented, and where the holes are."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nsr.conventions import Array
from nsr.mesh.surface import Mesh

Indices = NDArray[np.int64]
_LARGEST_HOLES = 10


class Edges(NamedTuple):
    """Undirected edges of a mesh by how faces meet at them.

    Attributes:
        total: number of edges. border: (H, 2) vertices of the edges of a single face, in its direction.
        crowded: edges of more than two faces. clashing: edges of two faces that disagree about the outside.
    """

    total: int
    border: Indices
    crowded: int
    clashing: int


def edges_of(faces: Indices, vertices: int) -> Edges:
    """Sort and count the edges of faces (T, 3) over a number of vertices; 8 bytes for each of 3 T directed edges, and some."""
    keys = _sorted_keys(faces, vertices)
    if not len(keys):
        return Edges(0, np.zeros((0, 2), dtype=np.int64), 0, 0)
    first = np.flatnonzero(np.concatenate([[True], (keys[1:] >> 1) != (keys[:-1] >> 1)]))
    number = np.diff(first, append=len(keys))
    pair = first[number == 2]
    clashing = int(((keys[pair] & 1) == (keys[pair + 1] & 1)).sum())
    alone = keys[first[number == 1]]
    low, high, turned = (alone >> 1) // vertices, (alone >> 1) % vertices, (alone & 1).astype(bool)
    border = np.stack([np.where(turned, high, low), np.where(turned, low, high)], axis=1)
    return Edges(len(first), border, int((number > 2).sum()), clashing)


def _sorted_keys(faces: Indices, vertices: int) -> Indices:
    """Directed edges (3 T,) as 2 (low vertices + high) + (1 if it runs from high to low), sorted."""
    keys = np.empty(3 * len(faces), dtype=np.int64)
    for side, part in enumerate(np.split(keys, 3)):
        start, end = faces[:, side], faces[:, (side + 1) % 3]
        np.multiply(np.minimum(start, end), vertices, out=part)
        part += np.maximum(start, end)
        part *= 2
        part += start > end
    keys.sort()
    return keys


def is_watertight(mesh: Mesh) -> bool:
    """Whether every edge belongs to exactly two faces that run along it in opposite directions."""
    edges = edges_of(mesh.faces, len(mesh.vertices))
    return edges.total > 0 and not (len(edges.border) or edges.crowded or edges.clashing)


def topology_facts(mesh: Mesh) -> dict[str, Any]:
    """JSON-ready checks.

    `manifold` means that no edge has more than two faces and no vertex joins two borders; `oriented`, that faces agree
    along every edge of two; `watertight`, that no edge has a single face, besides. `outward` says of a watertight mesh
    whether its volume is positive, that is its triangles are counter-clockwise seen from outside; None for others.
    """
    edges = edges_of(mesh.faces, len(mesh.vertices))
    pinched = int((np.bincount(edges.border[:, 0], minlength=1) > 1).sum())
    watertight = edges.total > 0 and not (len(edges.border) or edges.crowded or edges.clashing)
    return {
        "watertight": watertight,
        "manifold": not edges.crowded and not pinched,
        "oriented": not edges.clashing,
        "outward": mesh.volume() > 0 if watertight else None,
        "border_edges": len(edges.border),
        "edges_of_many_faces": edges.crowded,
        "clashing_edges": edges.clashing,
        "pinched_vertices": pinched,
        "euler_characteristic": len(mesh.vertices) - edges.total + len(mesh.faces),
    }


def hole_report(mesh: Mesh) -> dict[str, Any]:
    """Holes (connected pieces of the border) by length: their number, total length, and the largest with their centres.

    Lengths and centres are in the mesh's frame. The outer border of an open surface counts as a hole.
    """
    border = edges_of(mesh.faces, len(mesh.vertices)).border
    if not len(border):
        return {"count": 0, "length": 0.0, "largest": []}
    count, label, length = _border_pieces(mesh.vertices, border)
    total = np.bincount(label, weights=length, minlength=count)
    edges = np.bincount(label, minlength=count)
    middle = mesh.vertices[border].mean(axis=1) * length[:, None]
    centre = np.stack([np.bincount(label, weights=column, minlength=count) for column in middle.T], axis=1) / total[:, None]
    largest = [
        {"edges": int(edges[k]), "length": float(total[k]), "centre": centre[k].tolist()}
        for k in np.argsort(-total, kind="stable")[:_LARGEST_HOLES]
    ]
    return {"count": count, "length": float(total.sum()), "largest": largest}


def _border_pieces(vertices: Array, border: Indices) -> tuple[int, NDArray[np.int32], Array]:
    """Number of connected pieces of border edges (H, 2), and the piece (H,) and length (H,) of each edge."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    used, index = np.unique(border, return_inverse=True)
    start, end = index.reshape(-1, 2).T
    graph = coo_matrix((np.ones(len(border), dtype=np.uint8), (start, end)), shape=(len(used), len(used)))
    count, label = connected_components(graph, directed=False)
    length = np.maximum(np.linalg.norm(vertices[border[:, 1]] - vertices[border[:, 0]], axis=1), np.finfo(float).tiny)
    return int(count), label[start], length
