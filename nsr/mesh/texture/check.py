"""How well a textured mesh reproduces the photographs, and how visible its seams are."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nsr.conventions import Array
from nsr.mesh.texture.atlas import Atlas, TexturedMesh
from nsr.mesh.texture.photo import Floats, Pinhole, bilinear, depth_map

_SEAM_POINTS = (0.25, 0.5, 0.75)  # along an edge
_EDGE_PIXELS = 2  # rim of the object that a comparison leaves out: there a photograph mixes object and background


def texture_at(textured: TexturedMesh, uv: Array) -> Floats:
    """Colours (P, 3) in 0..255 of the texture at uv (P, 2), bilinear, as a viewer samples it."""
    return bilinear(textured.image, uv * textured.image.shape[0] - 0.5)


def draw(textured: TexturedMesh, scene: Any, camera: Pinhole, threads: int = 0) -> tuple[Floats, NDArray[np.bool_]]:
    """The textured mesh as a camera sees it, unlit: colours (H, W, 3) in 0..255, and where it is hit (H, W).

    Args:
        scene: open3d RaycastingScene of the mesh, in the camera's world.
    """
    depth, face, place = depth_map(scene, camera, threads)
    hit = np.isfinite(depth)
    corner = textured.atlas.uv[textured.atlas.corners[face[hit]]]
    u, v = place[hit].T.astype(np.float64)
    uv = corner[:, 0] * (1.0 - u - v)[:, None] + corner[:, 1] * u[:, None] + corner[:, 2] * v[:, None]
    colour = np.zeros((*hit.shape, 3), dtype=np.float32)
    colour[hit] = texture_at(textured, uv)
    return colour, hit


def psnr(drawn: Floats, image: NDArray[np.uint8], where: NDArray[np.bool_]) -> float | None:
    """Peak signal-to-noise ratio in dB over the pixels `where` (H, W), their rim left out; None where there are none."""
    from scipy.ndimage import binary_erosion

    inner = binary_erosion(where, iterations=_EDGE_PIXELS)
    if not inner.any():
        return None
    error = float(((drawn[inner] - image[inner]) ** 2).mean())
    return float(10.0 * np.log10(255.0**2 / max(error, 1e-6)))


def seam_edges(atlas: Atlas) -> tuple[Array, Array]:
    """Edges between two faces that lie apart in the texture: the uv of both ends (E, 2, 2), seen from either face."""
    start, end = atlas.mesh.faces.reshape(-1), np.roll(atlas.mesh.faces, -1, axis=1).reshape(-1)
    uv_start, uv_end = atlas.corners.reshape(-1), np.roll(atlas.corners, -1, axis=1).reshape(-1)
    turned = start > end
    key = np.where(turned, end, start) * len(atlas.mesh.vertices) + np.where(turned, start, end)
    ends = np.stack([np.where(turned, uv_end, uv_start), np.where(turned, uv_start, uv_end)], axis=1)
    order = np.argsort(key, kind="stable")
    _, first, count = np.unique(key[order], return_index=True, return_counts=True)
    one, other = order[first[count == 2]], order[first[count == 2] + 1]
    apart = (ends[one] != ends[other]).any(axis=1)
    return atlas.uv[ends[one[apart]]], atlas.uv[ends[other[apart]]]


def seam_error(textured: TexturedMesh) -> dict[str, Any]:
    """Differences of colour across the seams, 0..255: their number of edges, mean and 95th percentile over points of them."""
    one, other = seam_edges(textured.atlas)
    if not len(one):
        return {"edges": 0, "mean": 0.0, "p95": 0.0}
    steps = [
        np.abs(texture_at(textured, _along(one, part)) - texture_at(textured, _along(other, part))).mean(axis=1)
        for part in _SEAM_POINTS
    ]
    step = np.concatenate(steps)
    return {"edges": len(one), "mean": float(step.mean()), "p95": float(np.percentile(step, 95))}


def _along(ends: Array, part: float) -> Array:
    return np.asarray(ends[:, 0] * (1.0 - part) + ends[:, 1] * part)
