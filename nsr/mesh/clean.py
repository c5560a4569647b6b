"""Connected components, and facts about a mesh."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nsr.errors import EmptyMesh
from nsr.mesh.surface import Mesh


def face_components(mesh: Mesh) -> tuple[int, NDArray[np.int32]]:
    """Number of components (faces that share vertices belong together) and the component (T,) of each face."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    count = len(mesh.vertices)
    if not len(mesh.faces):
        return 0, np.zeros(0, dtype=np.int32)
    rows, columns = mesh.faces[:, :2].reshape(-1), mesh.faces[:, 1:].reshape(-1)
    graph = coo_matrix((np.ones(len(rows), dtype=np.uint8), (rows, columns)), shape=(count, count))
    labels = connected_components(graph, directed=False)[1]
    unique, of_face = np.unique(labels[mesh.faces[:, 0]], return_inverse=True)
    return len(unique), of_face.astype(np.int32)


def largest_components(mesh: Mesh, count: int) -> Mesh:
    """The `count` components with the largest area; 0 keeps all."""
    found, label = face_components(mesh)
    if count <= 0 or found <= count:
        return mesh
    area = np.bincount(label, weights=mesh.face_areas(), minlength=found)
    best = np.argsort(-area, kind="stable")[:count]
    return mesh.select(np.isin(label, best))


def drop_fragments(mesh: Mesh, share: float) -> Mesh:
    """Without the components whose area is under `share` of the largest one's: crumbs that culling leaves at its borders."""
    found, label = face_components(mesh)
    if found <= 1:
        return mesh
    area = np.bincount(label, weights=mesh.face_areas(), minlength=found)
    return mesh.select((area >= share * area.max())[label])


def drop_degenerate(mesh: Mesh) -> Mesh:
    """Without faces that use a vertex twice and without vertices that no face uses."""
    a, b, c = mesh.faces.T
    return mesh.select((a != b) & (b != c) & (c != a))


def require_faces(mesh: Mesh, step: str, remedy: str) -> Mesh:
    """The mesh itself.

    Raises:
        EmptyMesh: it has no face; the message names the `step` that removed the last ones and the `remedy`.
    """
    if not len(mesh.faces):
        raise EmptyMesh(f"{step} left no surface; {remedy}")
    return mesh


def is_watertight(mesh: Mesh) -> bool:
    """Whether every edge belongs to exactly two faces that run along it in opposite directions."""
    if not len(mesh.faces):
        return False
    start = mesh.faces.reshape(-1)
    end = np.roll(mesh.faces, -1, axis=1).reshape(-1)
    forward = start * len(mesh.vertices) + end
    backward = end * len(mesh.vertices) + start
    unique = np.unique(forward)
    return len(unique) == len(forward) and np.array_equal(unique, np.unique(backward))


def mesh_facts(mesh: Mesh) -> dict[str, Any]:
    """JSON-ready facts: counts, components, watertightness, bounds and area in the mesh's frame."""
    return {
        "vertices": len(mesh.vertices),
        "triangles": len(mesh.faces),
        "components": face_components(mesh)[0],
        "watertight": is_watertight(mesh),
        "bounds": [mesh.vertices.min(axis=0).tolist(), mesh.vertices.max(axis=0).tolist()],
        "area": float(mesh.face_areas().sum()),
    }
