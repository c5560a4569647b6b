"""Checks and small conversions that all readers share; every error names the view or file and says what to change."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike

from nsr.conventions import OPENGL_TO_OPENCV, Array, camera_centres
from nsr.data.files import read_header
from nsr.data.raw import RawCamera, RawView
from nsr.errors import DataError

ROTATION_TOLERANCE = 0.01  # largest entry of R R^T - 1 that still counts as rounding
MIN_VIEWS = 2


class PinholeView(Protocol):
    """A view without distortion, as a prepared scene has them."""

    @property
    def name(self) -> str:
        """Unique in its scene."""
        ...

    @property
    def width(self) -> int:
        """Pixels."""
        ...

    @property
    def height(self) -> int:
        """Pixels."""
        ...

    @property
    def K(self) -> Array:
        """(3, 3) in pixels."""
        ...

    @property
    def w2c(self) -> Array:
        """(4, 4) world to camera."""
        ...


def pinhole(fx: float, fy: float, cx: float, cy: float) -> Array:
    """Intrinsic matrix (3, 3) in pixels from focal lengths and principal point in pixels."""
    return np.array([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]])


def number_matrix(value: object, shapes: Sequence[tuple[int, int]], where: str) -> Array:
    """A finite matrix of one of the given shapes, float64.

    Raises:
        DataError: not numbers, another shape, or not finite.
    """
    try:
        matrix = np.asarray(value, dtype=np.float64)
    except (ValueError, TypeError) as error:
        raise DataError(f"{where}: not a matrix of numbers; fix or remove this view") from error
    if matrix.shape not in shapes:
        wanted = " or ".join("x".join(map(str, shape)) for shape in shapes)
        raise DataError(f"{where}: shape {'x'.join(map(str, matrix.shape))} instead of {wanted}; fix or remove this view")
    if not np.isfinite(matrix).all():
        raise DataError(f"{where}: holds NaN or infinite numbers; fix or remove this view")
    return matrix


def nearest_rotation(matrix: ArrayLike, where: str) -> Array:
    """The rotation (3, 3) nearest to a matrix that is one up to rounding.

    Raises:
        DataError: mirrored, scaled or sheared beyond rounding.
    """
    matrix = np.asarray(matrix, dtype=np.float64)
    if np.linalg.det(matrix) < 0:
        raise DataError(f"{where}: its rotation is mirrored (determinant < 0); check the axes convention of the export")
    if np.abs(matrix @ matrix.T - np.eye(3)).max() > ROTATION_TOLERANCE:
        raise DataError(f"{where}: its 3x3 part is no rotation (scaled or sheared); export poses without scale")
    u, _, vt = np.linalg.svd(matrix)
    return np.asarray(u @ vt)


def w2c_from_opengl(camera_to_world: object, where: str) -> Array:
    """World-to-camera (4, 4), OpenCV axes, of a camera-to-world (4, 4) or (3, 4) matrix with OpenGL axes.

    Raises:
        DataError: wrong shape, not finite, or no rotation in it.
    """
    c2w = number_matrix(camera_to_world, ((4, 4), (3, 4)), where)
    rotation = nearest_rotation(c2w[:3, :3], where) @ OPENGL_TO_OPENCV[:3, :3]
    out = np.eye(4)
    out[:3, :3] = rotation.T
    out[:3, 3] = -rotation.T @ c2w[:3, 3]
    return out


def check_views(views: Sequence[RawView], source: Path) -> None:
    """Refuse a set of views that no later stage could use.

    Raises:
        DataError: fewer than two views, a name used twice, a broken pose or camera, an image or mask file that is
            missing, unreadable, or not of the size its camera states.
    """
    if len(views) < MIN_VIEWS:
        raise DataError(f"{source}: {len(views)} usable view(s); at least {MIN_VIEWS} are needed, 30 or more advised")
    seen: set[str] = set()
    for view in views:
        if view.name in seen:
            raise DataError(f"{source}: two images are called '{view.name}'; rename one")
        seen.add(view.name)
        _check_pose(view, source)
        _check_camera(view.camera, f"{source}: camera of view '{view.name}'")
        for path, what in ((view.image, "image"), (view.mask, "mask")):
            if path is not None:
                _check_size(path, what, view.camera)


def check_facing(views: Sequence[RawView | PinholeView], centre: ArrayLike, radius: float) -> None:
    """Refuse views that cannot see the region of interest, a ball in the world frame.

    A view faces the ball if the ball reaches into the cone around its optical axis that holds the whole image. A view
    inside the ball always does. Distorted cameras are judged by their focal length alone.

    Args:
        centre: (3,) world. radius: > 0, world.

    Raises:
        DataError: names up to three views that look away; if more than half do, region and camera convention are blamed instead.
    """
    away = [view.name for view in views if not _faces(view, np.asarray(centre, dtype=np.float64), float(radius))]
    if len(away) * 2 > len(views):
        raise DataError(
            f"{len(away)} of {len(views)} views look away from the region of interest; the region is wrong (set it by hand), or the cameras "
            "follow another convention than their format's (axes, or camera to world for world to camera)"
        )
    if away:
        more = f" and {len(away) - 3} more" if len(away) > 3 else ""
        named = ", ".join(f"'{name}'" for name in away[:3])
        few = len(away) == 1 or 10 * len(away) <= len(views)
        change = "fix its pose or remove the view" if few else "fix the poses, or check the camera convention"
        raise DataError(f"view {named}{more}: the camera looks away from the region of interest; {change}")


def _faces(view: RawView | PinholeView, centre: Array, radius: float) -> bool:
    half_field = _half_field(view)
    towards = view.w2c[:3, :3] @ (centre - camera_centres(view.w2c[None])[0])
    distance = float(np.linalg.norm(towards))
    if distance <= radius:
        return True
    angle = np.arccos(np.clip(towards[2] / distance, -1.0, 1.0))
    return bool(angle - np.arcsin(radius / distance) < half_field)


def _half_field(view: RawView | PinholeView) -> float:
    """Largest angle in radians between the optical axis and a ray through the image."""
    if isinstance(view, RawView):
        camera = view.camera
        width, height, K = camera.width, camera.height, camera.K
        if K is None:
            reach = np.hypot(width, height) / 2 / camera.params[0]
            return float(reach) if "FISHEYE" in str(camera.model) else float(np.arctan(reach))
    else:
        width, height, K = view.width, view.height, view.K
    corners = np.array([[0, 0, 1], [width, 0, 1], [0, height, 1], [width, height, 1]], dtype=np.float64)
    rays = corners @ np.linalg.inv(K).T
    return float(np.arctan(np.linalg.norm(rays[:, :2], axis=1).max()))


def _check_pose(view: RawView, source: Path) -> None:
    where = f"{source}: pose of view '{view.name}'"
    w2c = number_matrix(view.w2c, ((4, 4),), where)
    nearest_rotation(w2c[:3, :3], where)
    if not np.allclose(w2c[3], (0, 0, 0, 1), atol=1e-9):
        raise DataError(f"{where}: its last row is not 0 0 0 1; fix or remove this view")


def _check_camera(camera: RawCamera, where: str) -> None:
    if camera.width <= 0 or camera.height <= 0:
        raise DataError(f"{where}: image size {camera.width}x{camera.height}; state the size in pixels")
    if camera.K is None:
        if camera.model is None or not camera.params:
            raise DataError(f"{where}: neither a matrix nor a camera model; state the focal length")
        if not np.isfinite(camera.params).all() or camera.params[0] <= 0:
            raise DataError(f"{where}: parameters {camera.params} must be finite, focal length > 0; fix the camera")
        return
    K = number_matrix(camera.K, ((3, 3),), where)
    if K[0, 0] <= 0 or K[1, 1] <= 0 or not np.allclose(K[2], (0, 0, 1), atol=1e-9):
        raise DataError(f"{where}: focal lengths {K[0, 0]:g}, {K[1, 1]:g} must be > 0 and the last row 0 0 1; fix the camera")


def _check_size(path: Path, what: str, camera: RawCamera) -> None:
    header = read_header(path)
    if (header.width, header.height) != (camera.width, camera.height):
        raise DataError(
            f"{path}: {what} is {header.width}x{header.height} px, its camera says {camera.width}x{camera.height};"
            f" give the {what}s at that size or rescale the intrinsics"
        )
