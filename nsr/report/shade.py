"""Pictures of a mesh from a scene's camera by ray casting on the CPU: head-light shading, and errors as colours.

Everything here is in the unit frame, where float32 rays keep their precision whatever the world's unit is.
Reference of the shading: the light sits in the camera, so brightness is the cosine between normal and viewing ray.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nsr.conventions import PIXEL_CENTRE, Array, pixel_rays

SUPERSAMPLING = 2  # rays per pixel and axis
FRONT = (0.80, 0.79, 0.77)
BACK = (0.42, 0.47, 0.66)  # inner sides, seen through a hole or on a surface turned inside out
UNCOUNTED = (0.62, 0.62, 0.64)  # surface that the evaluation left out
COLOUR_MAP = "YlOrRd"
_REACH = 4.0  # a surface point belongs to an evaluated sample nearer than this many typical sample spacings


@dataclass(frozen=True)
class Camera:
    """A pinhole camera. Attributes: K (3, 3) pixels; w2c (4, 4) unit frame to camera; width, height in pixels."""

    K: Array
    w2c: Array
    width: int
    height: int

    def resized(self, width: int) -> Camera:
        """The same camera with another image width, height to match (rounded)."""
        height = max(1, round(self.height * width / self.width))
        factors = np.array([width / self.width, height / self.height, 1.0])
        return Camera(self.K * factors[:, None], self.w2c, width, height)


@dataclass(frozen=True)
class Hits:
    """What each ray of a picture met, `SUPERSAMPLING` rays per pixel and axis.

    Attributes:
        hit: (H', W') bool. points: (H', W', 3) unit frame, zero without a hit.
        cosine: (H', W') between the outward normal and the way to the camera, negative on inner sides.
    """

    hit: NDArray[np.bool_]
    points: Array
    cosine: Array


def cast(vertices: Array, faces: NDArray[np.integer], camera: Camera) -> Hits:
    """First hits of a camera's rays on a mesh.

    Args:
        vertices: (M, 3) unit frame. faces: (T, 3) counter-clockwise seen from outside. camera: of the picture.

    Returns:
        Hits of `SUPERSAMPLING` times the camera's height and width.
    """
    import open3d as o3d

    fine = camera.resized(camera.width * SUPERSAMPLING)
    height, width = fine.height, fine.width
    scene = o3d.t.geometry.RaycastingScene()
    scene.add_triangles(
        o3d.core.Tensor(np.ascontiguousarray(vertices, dtype=np.float32)),
        o3d.core.Tensor(np.ascontiguousarray(faces, dtype=np.uint32)),
    )
    rows, columns = np.mgrid[:height, :width]
    pixels = np.stack([columns + PIXEL_CENTRE, rows + PIXEL_CENTRE], axis=-1).reshape(-1, 2)
    origin, direction = pixel_rays(fine.K, camera.w2c, pixels)
    answer = scene.cast_rays(o3d.core.Tensor(np.concatenate([origin, direction], axis=1).astype(np.float32)))
    distance = answer["t_hit"].numpy().astype(np.float64)
    hit = np.isfinite(distance)
    points = np.where(hit[:, None], origin + np.where(hit, distance, 0.0)[:, None] * direction, 0.0)
    cosine = -np.einsum("ij,ij->i", answer["primitive_normals"].numpy().astype(np.float64), direction)
    return Hits(hit.reshape(height, width), points.reshape(height, width, 3), np.where(hit, cosine, 0.0).reshape(height, width))


def shaded(hits: Hits) -> NDArray[np.uint8]:
    """Head-light picture (H, W, 4) RGBA; transparent where the mesh is not; inner sides in another hue."""
    colour = np.where((hits.cosine < 0)[..., None], BACK, FRONT)
    brightness = 0.12 + 0.88 * np.abs(hits.cosine)
    return _downscale(colour * brightness[..., None], hits.hit)


def error_values(hits: Hits, samples: Array, errors: Array) -> Array:
    """Error at each hit: that of the nearest evaluated sample.

    Args:
        hits: of `cast`. samples: (P, 3) evaluated surface points, unit frame. errors: (P,) any unit.

    Returns:
        (H', W') in the unit of `errors`; NaN without a hit and where no evaluated sample is near (left out of the evaluation).
    """
    values = np.full(hits.hit.shape, np.nan)
    values[hits.hit] = sample_errors(hits.points[hits.hit], samples, errors)
    return values


def sample_errors(points: Array, samples: Array, errors: Array) -> Array:
    """Error (P,) at points (P, 3) of a surface: that of the nearest evaluated sample, NaN where none is near."""
    from scipy.spatial import cKDTree

    if len(samples) < 2 or not len(points):
        return np.full(len(points), np.nan)
    tree = cKDTree(samples)
    probe = samples[:: max(1, len(samples) // 2000)]
    spacing = float(np.median(tree.query(probe, k=2)[0][:, 1]))
    distance, index = tree.query(points, distance_upper_bound=max(_REACH * spacing, 1e-9))
    found = np.isfinite(distance)
    return np.where(found, errors[np.where(found, index, 0)], np.nan)


def error_coloured(hits: Hits, values: Array, largest: float) -> NDArray[np.uint8]:
    """Error picture (H, W, 4) RGBA, lightly shaded: 0 pale yellow to `largest` and above dark red, NaN grey.

    Args:
        hits: of `cast`. values: (H', W') of `error_values`. largest: value of the colour map's end, > 0.
    """
    from matplotlib import colormaps

    share = np.clip(np.nan_to_num(values) / largest, 0.0, 1.0)
    colour = np.where(np.isnan(values)[..., None], UNCOUNTED, colormaps[COLOUR_MAP](share)[..., :3])
    brightness = 0.55 + 0.45 * np.abs(hits.cosine)
    return _downscale(colour * brightness[..., None], hits.hit)


def colour_stops(count: int = 9) -> list[str]:
    """Hex colours of the error colour map at `count` equal steps from 0 to its end."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    return [to_hex(colormaps[COLOUR_MAP](i / (count - 1))) for i in range(count)]


def _downscale(colour: Array, hit: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Box average of blocks, colours weighted by coverage so that no background bleeds into the edge."""
    s = SUPERSAMPLING
    height, width = hit.shape[0] // s, hit.shape[1] // s
    alpha = hit.reshape(height, s, width, s).mean(axis=(1, 3))
    total = (colour * hit[..., None]).reshape(height, s, width, s, 3).mean(axis=(1, 3))
    rgb = total / np.maximum(alpha, 1e-9)[..., None]
    return (np.concatenate([rgb, alpha[..., None]], axis=-1).clip(0, 1) * 255 + 0.5).astype(np.uint8)
