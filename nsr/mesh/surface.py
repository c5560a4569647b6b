"""The triangle mesh that all mesh stages hand on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nsr.conventions import Array, Similarity

AT_ONCE = 1 << 19  # vertices or faces worked on at once: what a step needs beside the mesh is bounded by this


@dataclass(frozen=True)
class Mesh:
    """Triangles with optional normals and colours per vertex.

    Attributes:
        vertices: (M, 3) float64, frame as stated by the function that made it.
        faces: (T, 3) int64 indices, counter-clockwise seen from outside.
        normals: (M, 3) float32, unit length, outward; None if unknown.
        colours: (M, 3) uint8 sRGB; None if unknown.
    """

    vertices: Array
    faces: NDArray[np.int64]
    normals: NDArray[np.float32] | None = None
    colours: NDArray[np.uint8] | None = None

    def select(self, keep: NDArray[np.bool_]) -> Mesh:
        """The mesh of the faces marked in `keep` (T,), without the vertices that no face uses any more."""
        faces = self.faces[keep]
        used = np.zeros(len(self.vertices), dtype=bool)
        used[faces] = True
        if used.all() and len(faces) == len(self.faces):
            return self
        index = np.cumsum(used) - 1
        for part in pieces(len(faces)):
            faces[part] = index[faces[part]]
        return Mesh(
            vertices=self.vertices[used],
            faces=faces,
            normals=None if self.normals is None else self.normals[used],
            colours=None if self.colours is None else self.colours[used],
        )

    def moved(self, similarity: Similarity) -> Mesh:
        """The mesh in the `to` frame of a similarity (unit -> world on export); normals turn, orientation stays."""
        normals = None if self.normals is None else (self.normals @ similarity.R.T).astype(np.float32)
        return Mesh(similarity.apply(self.vertices), self.faces, normals, self.colours)

    def face_vectors(self, part: slice = slice(None)) -> Array:
        """Cross products (T, 3) of the edges of all or some faces: outward, with twice the face's area as length."""
        a, b, c = (self.vertices[self.faces[part, k]] for k in range(3))
        return np.cross(b - a, c - a)

    def face_areas(self) -> Array:
        """Areas (T,) of the faces, in squared lengths of the vertices' frame."""
        areas = np.empty(len(self.faces))
        for part in pieces(len(areas)):
            areas[part] = 0.5 * np.linalg.norm(self.face_vectors(part), axis=1)
        return areas

    def volume(self) -> float:
        """Enclosed volume, cubed lengths of the vertices' frame; negative if triangles face inward. Of closed meshes only."""
        centre = self.vertices.mean(axis=0)
        parts = pieces(len(self.faces))
        return sum(
            float(np.einsum("tx,tx->", self.vertices[self.faces[part, 0]] - centre, self.face_vectors(part))) / 6
            for part in parts
        )


def pieces(count: int) -> list[slice]:
    """Ranges that cut `count` vertices or faces into parts of a bounded size."""
    return [slice(start, start + AT_ONCE) for start in range(0, count, AT_ONCE)]


def vertex_normals(mesh: Mesh) -> NDArray[np.float32]:
    """Area-weighted vertex normals (M, 3) of the faces' orientation; zero where a vertex has no proper face."""
    weighted = mesh.face_vectors()
    total = np.stack(
        [
            np.bincount(mesh.faces.reshape(-1), weights=np.repeat(weighted[:, axis], 3), minlength=len(mesh.vertices))
            for axis in range(3)
        ],
        axis=1,
    )
    length = np.linalg.norm(total, axis=1, keepdims=True)
    return (total / np.where(length > 0, length, 1.0)).astype(np.float32)
