"""Seeded points on a triangle mesh, and the size of an object."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nsr.conventions import Array
from nsr.errors import EvaluationError
from nsr.mesh.surface import Mesh


def sample_surface(mesh: Mesh, count: int, seed: int) -> Array:
    """`count` points (count, 3), uniform over the mesh's area; the same for the same mesh and seed. See `sample_faces`."""
    return sample_faces(mesh, count, seed)[0]


def sample_faces(mesh: Mesh, count: int, seed: int) -> tuple[Array, NDArray[np.int64]]:
    """Points (count, 3) uniform over the mesh's area, and the face (count,) of each; the same for the same mesh and seed.

    A face is drawn with probability proportional to its area, the point in it by folding the unit square along its
    diagonal.

    Raises:
        EvaluationError: the mesh has no area.
    """
    total = np.cumsum(mesh.face_areas())
    if not len(total) or not total[-1] > 0:
        raise EvaluationError("a mesh without area cannot be sampled")
    generator = np.random.default_rng(seed)
    face = np.searchsorted(total, generator.random(count) * total[-1], side="right").clip(max=len(total) - 1)
    u, v = generator.random((2, count))
    fold = u + v > 1.0
    u[fold], v[fold] = 1.0 - u[fold], 1.0 - v[fold]
    a, b, c = (mesh.vertices[mesh.faces[:, k]] for k in range(3))
    points = (b - a)[face]
    points *= u[:, None]
    points += a[face]
    points += v[:, None] * (c - a)[face]
    return points, face


def object_radius(mesh: Mesh) -> tuple[Array, float]:
    """Centre (3,) of the vertices' bounding box and the largest distance of a vertex from it: the object's size."""
    centre = 0.5 * (mesh.vertices.min(axis=0) + mesh.vertices.max(axis=0))
    return centre, float(np.linalg.norm(mesh.vertices - centre, axis=1).max())
