"""Connected components, the region of interest, and facts about a mesh."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nsr.conventions import Array, Similarity
from nsr.errors import EmptyMesh
from nsr.mesh.surface import Mesh, pieces
from nsr.mesh.topology import topology_facts

if TYPE_CHECKING:
    import torch

Marks = NDArray[np.bool_]


@dataclass(frozen=True)
class Parts:
    """A mesh and its connected components: faces that share vertices belong together.

    Attributes:
        mesh: all of them. count: number of components. label: (T,) int32 component of each face.
    """

    mesh: Mesh
    count: int
    label: NDArray[np.int32]

    def keep(self, chosen: Marks) -> Parts:
        """The components marked in `chosen` (count,)."""
        if chosen.all():
            return self
        faces = chosen[self.label]
        number = (np.cumsum(chosen) - 1).astype(np.int32)
        return Parts(self.mesh.select(faces), int(chosen.sum()), number[self.label[faces]])

    def areas(self) -> Array:
        """Area (count,) of each component."""
        return np.bincount(self.label, weights=self.mesh.face_areas(), minlength=self.count).astype(np.float64)


def parts_of(mesh: Mesh, device: torch.device | str = "cpu") -> Parts:
    """The components, found on a GPU where there is one (seconds instead of minutes for tens of millions of faces)."""
    if not len(mesh.faces):
        return Parts(mesh, 0, np.zeros(0, dtype=np.int32))
    on_cpu = str(device).startswith("cpu")
    corner = _labels_by_graph(mesh) if on_cpu else _labels_by_propagation(mesh, device)
    face = corner[mesh.faces[:, 0]]
    present = np.zeros(len(mesh.vertices), dtype=bool)
    present[face] = True
    number = (np.cumsum(present) - 1).astype(np.int32)
    return Parts(mesh, int(present.sum()), number[face])


def _labels_by_graph(mesh: Mesh) -> NDArray[np.int32]:
    """A label (M,) of each vertex, below M."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    count = len(mesh.vertices)
    rows, columns = (mesh.faces[:, sides].reshape(-1).astype(np.int32) for sides in (slice(0, 2), slice(1, 3)))
    graph = coo_matrix((np.ones(len(rows), dtype=np.uint8), (rows, columns)), shape=(count, count))
    return np.asarray(connected_components(graph, directed=False)[1])


def _labels_by_propagation(mesh: Mesh, device: torch.device | str) -> NDArray[np.int32]:
    """As `_labels_by_graph`, by hooking trees to smaller roots and halving their depth (Shiloach and Vishkin 1982)."""
    import torch

    faces = torch.from_numpy(mesh.faces).to(device)
    root = torch.arange(len(mesh.vertices), device=device)
    while True:
        before, lowest = root, root[faces].amin(dim=1)
        for corner in faces.T:
            root = root.scatter_reduce(0, before[corner], lowest, "amin")
        while not torch.equal(shorter := root[root], root):
            root = shorter
        if torch.equal(root, before):
            return root.cpu().numpy()


def largest_parts(parts: Parts, count: int) -> Parts:
    """The `count` components with the largest area; 0 keeps all."""
    if count <= 0 or parts.count <= count:
        return parts
    best = np.argsort(-parts.areas(), kind="stable")[:count]
    return parts.keep(np.isin(np.arange(parts.count), best))


def without_fragments(parts: Parts, share: float) -> Parts:
    """Without the components whose area is under `share` of the largest one's: specks, and crumbs that culling leaves."""
    if parts.count <= 1:
        return parts
    area = parts.areas()
    return parts.keep(area >= share * area.max())


def rendered_parts(parts: Parts, occupied: Marks) -> Parts:
    """The components that reach into an occupied cell; the others, ghosts in space no ray was sampled in, no photograph supports.

    Args:
        parts: in the unit frame. occupied: (G, G, G) over [-1, 1]^3, indexed [x, y, z].
    """
    cells = occupied.shape[0]
    hit = np.zeros(parts.count, dtype=bool)
    inside = np.empty(len(parts.mesh.vertices), dtype=bool)
    for part in pieces(len(inside)):
        cell = np.floor((parts.mesh.vertices[part] + 1) * (0.5 * cells)).astype(np.int64).clip(0, cells - 1)
        inside[part] = occupied[tuple(cell.T)]
    for part in pieces(len(parts.label)):
        touches = inside[parts.mesh.faces[part]].any(axis=1)
        hit[parts.label[part][touches]] = True
    return parts.keep(hit)


def inside_region(mesh: Mesh, world: Similarity, box: Sequence[float], cap: float) -> Mesh:
    """Without faces that have a corner outside the region of interest, and without those that only close it.

    Args:
        mesh: unit frame. world: unit -> world. box: x, y, z lowest, then highest, world frame; empty: the unit ball alone.
        cap: a face whose corners all lie on the unit ball up to this distance is where the ball cuts through matter, no
            surface of the object; 0 keeps those.
    """
    good = np.empty(len(mesh.vertices), dtype=bool)
    on_ball = np.zeros(len(mesh.vertices), dtype=bool)
    for part in pieces(len(good)):
        points = mesh.vertices[part]
        radius = np.linalg.norm(points, axis=1)
        on_ball[part] = radius >= 1.0 - cap
        good[part] = radius <= 1.0 + 1e-6
        if len(box):
            moved = world.apply(points)
            good[part] &= (moved >= box[:3]).all(axis=1) & (moved <= box[3:]).all(axis=1)
    keep = np.empty(len(mesh.faces), dtype=bool)
    for part in pieces(len(keep)):
        faces = mesh.faces[part]
        keep[part] = good[faces].all(axis=1)
        if cap > 0:
            keep[part] &= ~on_ball[faces].all(axis=1)
    return mesh.select(keep)


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


def mesh_facts(mesh: Mesh, *, components: int | None = None) -> dict[str, Any]:
    """JSON-ready facts: counts, components (counted if not given), checks of the edges, bounds and area in the mesh's frame."""
    return {
        "vertices": len(mesh.vertices),
        "triangles": len(mesh.faces),
        "components": parts_of(mesh).count if components is None else components,
        **topology_facts(mesh),
        "bounds": [mesh.vertices.min(axis=0).tolist(), mesh.vertices.max(axis=0).tolist()],
        "area": float(mesh.face_areas().sum()),
    }
