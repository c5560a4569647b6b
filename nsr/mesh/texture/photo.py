"""What one photograph says about points of a surface: which it sees, in which colour, and how well."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nsr.conventions import MASK_OBJECT, PIXEL_CENTRE, Array, camera_centres

DEPTH_BEND = 3.0  # pixel widths by which the depth may bend within three pixels before they count as an occlusion edge
DEPTH_SLACK = 2.0  # pixel widths by which a seen point may lie behind the photograph's depth
_PIXELS_AT_ONCE = 1 << 20

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Pinhole:
    """A camera in the frame of the surface: `K` (3, 3) pixels, `w2c` (4, 4), width and height in pixels."""

    K: Array
    w2c: Array
    width: int
    height: int


@dataclass(frozen=True)
class Photo:
    """A photograph prepared for lookups.

    Attributes:
        camera: its camera.
        layers: (H, W, 5) float32: red, green, blue in 0..255, inverse depth along z (0: nothing hit), and trust in [0, 1],
            0 at the photograph's border, outside the object's mask and at occlusion edges.
    """

    camera: Pinhole
    layers: Floats


@dataclass(frozen=True)
class Sight:
    """Points seen: `index` (Q,) into the points asked for, `quality` (Q,) > 0 and `colour` (Q, 3) in 0..255."""

    index: NDArray[np.int64]
    quality: Floats
    colour: Floats


def depth_map(scene: Any, camera: Pinhole, threads: int = 0) -> tuple[Floats, NDArray[np.int64], Floats]:
    """Depth along z (H, W), inf where nothing is hit, and the face (H, W) and the place on it (H, W, 2) that a pixel shows.

    Args:
        scene: open3d RaycastingScene in the camera's world. The place is the barycentric coordinates of corners 1 and 2.
    """
    count = camera.width * camera.height
    depth, face, place = np.empty(count, np.float32), np.empty(count, np.int64), np.empty((count, 2), np.float32)
    centre = camera_centres(camera.w2c[None])[0]
    turn = np.linalg.inv(camera.K).T @ camera.w2c[:3, :3]
    for start in range(0, count, _PIXELS_AT_ONCE):
        index = np.arange(start, min(start + _PIXELS_AT_ONCE, count))
        pixel = np.stack([index % camera.width, index // camera.width], axis=1) + PIXEL_CENTRE
        # Directions of length 1 along z: the hit parameter is the depth.
        rays = np.empty((len(index), 6), dtype=np.float32)
        rays[:, :3], rays[:, 3:] = centre, np.concatenate([pixel, np.ones((len(pixel), 1))], axis=1) @ turn
        found = scene.cast_rays(rays, nthreads=threads)
        depth[index], face[index] = found["t_hit"].numpy(), found["primitive_ids"].numpy()
        place[index] = found["primitive_uvs"].numpy()
    shape = (camera.height, camera.width)
    return depth.reshape(shape), face.reshape(shape), place.reshape(*shape, 2)


def occlusion_edges(depth: Floats, focal: float) -> NDArray[np.bool_]:
    """Pixels (H, W) at which the depth jumps or that show no surface: there a photograph mixes two surfaces.

    A plane has no second difference, whatever its slope; a jump has one on both of its sides.
    """
    edge = ~np.isfinite(depth)
    limit = DEPTH_BEND * depth / focal
    for axis in (0, 1):
        inner = np.moveaxis(depth, axis, 0)
        with np.errstate(invalid="ignore"):
            bend = np.abs(inner[2:] - 2.0 * inner[1:-1] + inner[:-2])
            flat = bend <= np.moveaxis(limit, axis, 0)[1:-1]  # infinity and NaN are not
        np.moveaxis(edge, axis, 0)[1:-1] |= ~flat
    return edge


def prepare_photo(
    image: NDArray[np.uint8], mask: NDArray[np.uint8] | None, depth: Floats, camera: Pinhole, feather: float
) -> Photo:
    """A photograph for lookups; trust rises from 0 at an edge to 1 within `feather` pixels (> 0)."""
    from scipy.ndimage import distance_transform_edt

    focal = float(camera.K[0, 0])
    good = ~occlusion_edges(depth, focal)
    if mask is not None:
        good &= mask == MASK_OBJECT
    inside = distance_transform_edt(np.pad(good, 1))[1:-1, 1:-1]
    ramp = np.clip(inside / feather, 0.0, 1.0)
    layers = np.empty((*depth.shape, 5), dtype=np.float32)
    layers[..., :3], layers[..., 3] = image, 1.0 / depth
    layers[..., 4] = ramp * ramp * (3.0 - 2.0 * ramp)
    return Photo(camera, layers)


def look(photo: Photo, points: Floats, normals: Floats, max_angle: float) -> Sight:
    """Which of the points (P, 3) with normals (P, 3) the photograph sees, with colours by bilinear interpolation.

    The quality is the number of pixels per area of the surface (the cosine of the angle over the squared pixel width, after
    Waechter et al. 2014), falling to 0 at `max_angle` degrees, times the trust.
    """
    camera = photo.camera
    limit = float(np.cos(np.deg2rad(max_angle)))
    towards = camera_centres(camera.w2c[None])[0].astype(np.float32) - points
    length = np.sqrt(np.einsum("px,px->p", towards, towards))
    index = np.flatnonzero(np.einsum("px,px->p", towards, normals) > limit * length)
    local = points[index] @ camera.w2c[:3, :3].T.astype(np.float32) + camera.w2c[:3, 3].astype(np.float32)
    front = local[:, 2] > 0
    index, local = index[front], local[front]
    pixel = local @ camera.K.T.astype(np.float32)
    pixel = pixel[:, :2] / pixel[:, 2:] - PIXEL_CENTRE
    inside = (pixel >= 0).all(axis=1) & (pixel[:, 0] < camera.width - 1) & (pixel[:, 1] < camera.height - 1)
    index, depth = index[inside], local[inside, 2]
    values = bilinear(photo.layers, pixel[inside])
    width = 1.0 / np.float32(camera.K[0, 0])  # of a pixel, per depth
    seen = (values[:, 4] > 0) & (depth * values[:, 3] <= 1.0 + DEPTH_SLACK * width)
    index, values, depth = index[seen], values[seen], depth[seen]
    cosine = np.einsum("px,px->p", towards[index], normals[index]) / length[index]
    quality = (cosine - limit) / (1.0 - limit) / (depth * width) ** 2 * values[:, 4]
    good = quality > 0
    return Sight(index[good], quality[good], values[good, :3])


def bilinear(layers: NDArray[np.floating] | NDArray[np.uint8], place: Floats) -> Floats:
    """Values (P, C) of an image (H, W, C) at places (P, 2), x and y in pixels from the first pixel's centre, held at the border."""
    height, width, channels = layers.shape
    corner = np.clip(np.floor(place).astype(np.int64), 0, [max(width - 2, 0), max(height - 2, 0)])
    part = np.clip(place - corner, 0.0, 1.0).astype(np.float32)
    flat = layers.reshape(-1, channels)
    first = corner[:, 1] * width + corner[:, 0]
    right, down = int(width > 1), width * int(height > 1)
    x, y = part[:, :1], part[:, 1:]
    upper = flat[first] * (1.0 - x) + flat[first + right] * x
    lower = flat[first + down] * (1.0 - x) + flat[first + down + right] * x
    return np.asarray(upper * (1.0 - y) + lower * y, dtype=np.float32)
