"""Which point of the surface lies under each texel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nsr.mesh.surface import Mesh
from nsr.mesh.texture.atlas import Atlas
from nsr.mesh.visibility import raycasting_scene

BORDER = 2  # texels outside a chart's edge that get the colour of the edge: bilinear lookups of the chart reach them
_TEXELS_AT_ONCE = 1 << 20


@dataclass(frozen=True)
class Texels:
    """Texels that show the surface.

    Attributes:
        index: (P,) int64, row * size + column, rising. face: (P,) int64.
        weights: (P, 3) float32 barycentric coordinates, of the face's corners.
    """

    index: NDArray[np.int64]
    face: NDArray[np.int64]
    weights: NDArray[np.float32]


def rasterise(atlas: Atlas, size: int, threads: int = 0) -> Texels:
    """The texels whose centres lie in a chart, and those within `BORDER` texels, which show the nearest point of its edge.

    A texel is found by a ray through the flat charts, so that no face is too small or too thin.
    """
    flat = np.concatenate([atlas.uv * size, np.zeros((len(atlas.uv), 1))], axis=1)
    scene = raycasting_scene(flat, atlas.corners, np.zeros(3), threads)
    face = np.full(size * size, -1, dtype=np.int64)
    places = np.zeros((size * size, 2), dtype=np.float32)
    for start in range(0, size * size, _TEXELS_AT_ONCE):
        index = np.arange(start, min(start + _TEXELS_AT_ONCE, size * size))
        rays = np.zeros((len(index), 6), dtype=np.float32)
        rays[:, :2], rays[:, 2], rays[:, 5] = _centres(index, size), -1.0, 1.0
        found = scene.cast_rays(rays, nthreads=threads)
        hit = np.isfinite(found["t_hit"].numpy())
        face[index[hit]] = found["primitive_ids"].numpy()[hit]
        places[index[hit]] = found["primitive_uvs"].numpy()[hit]
    border = _border(face >= 0, size)
    for start in range(0, len(border), _TEXELS_AT_ONCE):
        index = border[start : start + _TEXELS_AT_ONCE]
        points = np.concatenate([_centres(index, size), np.zeros((len(index), 1), np.float32)], axis=1)
        found = scene.compute_closest_points(points, nthreads=threads)
        face[index], places[index] = found["primitive_ids"].numpy(), found["primitive_uvs"].numpy()
    index = np.flatnonzero(face >= 0)
    u, v = places[index].T
    return Texels(index, face[index], np.stack([1.0 - u - v, u, v], axis=1))


def _centres(index: NDArray[np.int64], size: int) -> NDArray[np.float32]:
    return (np.stack([index % size, index // size], axis=1) + 0.5).astype(np.float32)


def _border(covered: NDArray[np.bool_], size: int) -> NDArray[np.int64]:
    from scipy.ndimage import binary_dilation

    plane = covered.reshape(size, size)
    grown = binary_dilation(plane, structure=np.ones((2 * BORDER + 1,) * 2, dtype=bool))
    return np.flatnonzero(grown & ~plane)


def on_surface(mesh: Mesh, texels: Texels, values: NDArray[np.floating]) -> NDArray[np.float32]:
    """Values (M, C) of the vertices interpolated at the texels, (P, C) float32."""
    corner = mesh.faces[texels.face]
    out = np.zeros((len(texels.face), values.shape[1]), dtype=np.float32)
    for k in range(3):
        out += texels.weights[:, k, None] * values[corner[:, k]].astype(np.float32)
    return out
