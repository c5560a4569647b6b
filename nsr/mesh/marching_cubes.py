"""The zero level of a signed distance as triangles (Lorensen and Cline 1987), one pass over one field: no seams."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nsr.conventions import Array
from nsr.errors import EmptyMesh
from nsr.mesh.grid import FloatArray, SdfFunction, sample_field
from nsr.mesh.surface import Mesh

_POINTS_AT_ONCE = 1 << 18


def extract(sdf: SdfFunction, resolution: int) -> Mesh:
    """Surface of a signed distance inside the unit ball, with normals from its gradient.

    Vertices are linear interpolations along grid edges: for a distance with curvature radius r their error is about
    h^2 / (8 r), h = 2 / resolution.

    Args:
        sdf: unit-frame points (P, 3) float32 -> signed distances (P,), positive outside.
        resolution: cells per side of the cube [-1, 1]^3.

    Returns:
        Mesh in the unit frame, closed unless it is empty space; triangles counter-clockwise seen from outside.

    Raises:
        EmptyMesh: the distance has one sign everywhere. ConfigError: resolution out of range.
    """
    field = sample_field(sdf, resolution)
    vertices, faces = surface_of(field)
    if not len(faces):
        sign = "outside" if field[tuple(np.array(field.shape) // 2)] > 0 else "inside"
        raise EmptyMesh(
            f"no surface: the signed distance is '{sign}' in the whole region of interest (smallest value {field.min():.3g}); "
            "look at the training curve, at the region (prepare.region) and at the loss weights"
        )
    vertices = vertices * (2.0 / resolution) - 1.0
    return Mesh(vertices, faces, normals=sdf_normals(sdf, vertices, 1.0 / resolution))


def surface_of(field: FloatArray) -> tuple[Array, NDArray[np.int64]]:
    """Zero level of a field (n, n, n): vertices (M, 3) in grid indices and faces (T, 3), counter-clockwise from the positive side."""
    import mcubes

    vertices, faces = mcubes.marching_cubes(np.ascontiguousarray(field), 0.0)
    # PyMCubes turns its triangles towards the negative side, which is our inside.
    return np.asarray(vertices, dtype=np.float64), faces.astype(np.int64)[:, ::-1].copy()


def sdf_normals(sdf: SdfFunction, points: Array, step: float) -> NDArray[np.float32]:
    """Outward unit normals (P, 3) by central differences over +-`step` (unit frame) in the signed distance."""
    normals = np.empty((len(points), 3), dtype=np.float32)
    for start in range(0, len(points), _POINTS_AT_ONCE):
        part = points[start : start + _POINTS_AT_ONCE]
        for axis in range(3):
            shift = np.zeros(3)
            shift[axis] = step
            ahead, behind = (np.asarray(sdf((part + sign * shift).astype(np.float32))).reshape(-1) for sign in (1.0, -1.0))
            normals[start : start + len(part), axis] = ahead - behind
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    return normals / np.maximum(length, 1e-20)
