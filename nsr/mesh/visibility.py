"""Which points of a surface the cameras see, and which lie inside the masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nsr.conventions import MASK_BACKGROUND, Array, camera_centres, project
from nsr.errors import DataError
from nsr.scene.scene import View

RELATIVE_TOLERANCE = 1e-3  # of the distance to the camera: a hit this little before a point is the point itself
_RAYS_AT_ONCE = 1 << 20


@dataclass(frozen=True)
class Camera:
    """One camera and its mask in the frame of the surface in question.

    Attributes:
        width, height: pixels. K: (3, 3) pixels. w2c: (4, 4).
        mask: file of the view's mask, None if there is none.
    """

    width: int
    height: int
    K: Array
    w2c: Array
    mask: Path | None = None


def cameras_of(views: Sequence[View], w2c: Array) -> list[Camera]:
    """The views' cameras with other matrices `w2c` (V, 4, 4), those of the surface's frame."""
    return [Camera(view.width, view.height, view.K, matrix, view.mask) for view, matrix in zip(views, w2c, strict=True)]


def raycasting_scene(vertices: Array, faces: NDArray[np.int64], origin: Array, threads: int = 0) -> Any:
    """An open3d RaycastingScene of the mesh moved by -`origin` (single precision wants small coordinates)."""
    import open3d as o3d

    scene = o3d.t.geometry.RaycastingScene(nthreads=threads)
    near = np.empty(vertices.shape, dtype=np.float32)
    np.subtract(vertices, origin, out=near, casting="same_kind")
    scene.add_triangles(near, faces.astype(np.uint32))
    return scene


def in_image(camera: Camera, points: Array) -> tuple[NDArray[np.bool_], NDArray[np.int64], NDArray[np.int64]]:
    """Which points (P, 3) fall into the camera's image (P,), and the columns and rows of those that do."""
    pixel, depth = project(camera.K, camera.w2c, points)
    with np.errstate(invalid="ignore"):
        inside = (depth > 0) & (pixel >= 0).all(axis=1) & (pixel[:, 0] < camera.width) & (pixel[:, 1] < camera.height)
    column, row = pixel[inside].astype(np.int64).T
    return inside, column, row


def times_seen(
    surface: tuple[Array, NDArray[np.int64]], points: Array, cameras: Sequence[Camera], enough: int, threads: int = 0
) -> NDArray[np.int32]:
    """How many cameras see each of the points (P, 3), which lie on the surface (vertices, faces) that may hide them.

    A camera sees a point that projects into its image when the surface is not hit before it, up to `RELATIVE_TOLERANCE`
    of the distance. Counting stops at `enough`, so that a return value equal to it means "at least".
    """
    count = np.zeros(len(points), dtype=np.int32)
    if not len(points) or enough <= 0:
        return count
    origin = surface[0].mean(axis=0)
    scene = raycasting_scene(*surface, origin, threads)
    for camera in _spread(cameras):
        todo = np.flatnonzero(count < enough)
        for start in range(0, len(todo), _RAYS_AT_ONCE):
            part = todo[start : start + _RAYS_AT_ONCE]
            part = part[in_image(camera, points[part])[0]]
            count[part] += _reached(scene, camera_centres(camera.w2c[None])[0] - origin, points[part] - origin, threads)
    return count


def _reached(scene: Any, centre: Array, points: Array, threads: int) -> NDArray[np.bool_]:
    rays = np.empty((len(points), 6), dtype=np.float32)
    # Directions as long as the distance: the hit parameter is 1 at the point itself.
    rays[:, :3], rays[:, 3:] = centre, points - centre
    hit = scene.cast_rays(rays, nthreads=threads)["t_hit"].numpy()
    # Not |hit - 1| < tolerance: a ray aimed exactly at a vertex may slip between its faces and hit farther behind.
    return np.asarray(hit > 1.0 - RELATIVE_TOLERANCE)


def _spread(cameras: Sequence[Camera]) -> list[Camera]:
    """All cameras in an order in which successive ones look from different sides, so that counts fill up early."""
    if not cameras:
        return []
    centres = camera_centres(np.stack([camera.w2c for camera in cameras]))
    order, distance = [0], np.linalg.norm(centres - centres[0], axis=1)
    while len(order) < len(cameras):
        distance[order[-1]] = -1.0
        order.append(int(distance.argmax()))
        distance = np.minimum(distance, np.linalg.norm(centres - centres[order[-1]], axis=1))
    return [cameras[k] for k in order]


def dilated_mask(camera: Camera, radius: int) -> NDArray[np.bool_]:
    """The camera's mask grown by a disk of `radius` pixels; pixels to ignore count as object, they refute nothing.

    Raises:
        DataError: mask missing, unreadable or of another size than the view.
    """
    from PIL import Image
    from scipy.ndimage import distance_transform_edt

    if camera.mask is None:
        raise DataError("a view has no mask; set the mask dilation to -1 or prepare the scene with masks")
    try:
        with Image.open(camera.mask) as image:
            mask = np.asarray(image.convert("L")) != MASK_BACKGROUND
    except Exception as error:  # Pillow's decoders fail in many ways on a damaged file
        raise DataError(f"{camera.mask}: mask cannot be read ({error}); run prepare again") from error
    if mask.shape != (camera.height, camera.width):
        raise DataError(
            f"{camera.mask}: mask is {mask.shape[1]}x{mask.shape[0]}, its view {camera.width}x{camera.height}; run prepare again"
        )
    if radius <= 0 or mask.all() or not mask.any():
        return mask
    return np.asarray(distance_transform_edt(~mask) <= radius)


def inside_masks(points: Array, cameras: Sequence[Camera], radius: int) -> NDArray[np.bool_]:
    """Whether each point (P, 3) lies inside the dilated mask of every view into whose image it falls, (P,)."""
    keep = np.ones(len(points), dtype=bool)
    for camera in cameras:
        mask = dilated_mask(camera, radius)
        todo = np.flatnonzero(keep)
        for start in range(0, len(todo), _RAYS_AT_ONCE):
            part = todo[start : start + _RAYS_AT_ONCE]
            inside, column, row = in_image(camera, points[part])
            keep[part[inside]] = mask[row, column]
    return keep
