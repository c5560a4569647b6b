"""Distorted photographs -> pinhole photographs, with pycolmap's camera models; and exact resizing of both."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nsr.conventions import MASK_BACKGROUND, MASK_IGNORE, MASK_OBJECT, PIXEL_CENTRE, Array
from nsr.data.raw import RawCamera
from nsr.errors import DataError

# A source position may lie this far (px) outside the photo and still take the border's colour.
_BORDER = 0.5
_MIN_AREA = 0.1  # of the photo's pixels: less left over means parameters that no lens has


@dataclass(frozen=True)
class Pinhole:
    """An undistorted camera and where its pixels come from.

    Attributes:
        K: (3, 3) pixels. width, height: pixels.
        source: (H, W, 2) float32 x, y in the distorted photo of every pixel centre; None if the photo is kept as it is.
        valid: (H, W) bool, whether the source lies inside the photo; None together with `source`.
    """

    K: Array
    width: int
    height: int
    source: NDArray[np.float32] | None = None
    valid: NDArray[np.bool_] | None = None


def to_pinhole(camera: RawCamera) -> Pinhole:
    """The pinhole camera that replaces a source camera.

    The focal length is the model's, and the frame is cropped until every pixel has a source, as COLMAP does.

    Raises:
        DataError: unknown model, wrong number of parameters, or parameters that leave no usable image.
    """
    if camera.model is None:
        if camera.K is None:
            raise DataError("the camera has neither a matrix nor a model; check the source's calibration")
        return Pinhole(np.asarray(camera.K, dtype=np.float64), camera.width, camera.height)
    return _undistorted(camera.width, camera.height, camera.model, tuple(camera.params))


def remap_image(image: NDArray[np.uint8], pinhole: Pinhole) -> NDArray[np.uint8]:
    """Photo (H0, W0, C) uint8 -> undistorted (H, W, C) uint8, bilinear; pixels outside the photo take its border's colour."""
    from scipy import ndimage

    if pinhole.source is None:
        return image
    # map_coordinates counts from pixel centres, the map from pixel corners.
    where = [pinhole.source[..., 1] - PIXEL_CENTRE, pinhole.source[..., 0] - PIXEL_CENTRE]
    channels = [
        ndimage.map_coordinates(image[..., channel].astype(np.float32), where, order=1, mode="nearest")
        for channel in range(image.shape[2])
    ]
    return np.clip(np.rint(np.stack(channels, axis=-1)), 0, 255).astype(np.uint8)


def remap_mask(mask: NDArray[np.uint8], pinhole: Pinhole) -> NDArray[np.uint8]:
    """Mask (H0, W0) -> (H, W), nearest pixel; pixels without a source become ignore."""
    if pinhole.source is None or pinhole.valid is None:
        return mask
    column = np.clip(np.nan_to_num(pinhole.source[..., 0]).astype(np.int64), 0, mask.shape[1] - 1)
    row = np.clip(np.nan_to_num(pinhole.source[..., 1]).astype(np.int64), 0, mask.shape[0] - 1)
    return np.where(pinhole.valid, mask[row, column], np.uint8(MASK_IGNORE))


def fit_size(width: int, height: int, max_size: int) -> tuple[int, int]:
    """Size whose longest side is at most `max_size` px (0: no limit), aspect kept to the nearest pixel; never enlarges."""
    longest = max(width, height)
    if max_size <= 0 or longest <= max_size:
        return width, height
    return max(1, round(width * max_size / longest)), max(1, round(height * max_size / longest))


def scale_intrinsics(K: Array, size: tuple[int, int], new_size: tuple[int, int]) -> Array:
    """Intrinsics (3, 3) of an image resized from `size` to `new_size` (width, height): diag(sx, sy, 1) K.

    Exact because pixel coordinates are continuous, with centres at +0.5.
    """
    return np.diag([new_size[0] / size[0], new_size[1] / size[1], 1.0]) @ K


def resize_image(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Shrink a photo (H0, W0, 3) to `size` (width, height) by area averages."""
    return np.array(Image.fromarray(image).resize(size, Image.Resampling.BOX))


def resize_mask(mask: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Shrink a mask (H0, W0) to `size` (width, height): each pixel takes the value that covers most of its area."""
    values = (MASK_OBJECT, MASK_BACKGROUND, MASK_IGNORE)
    shares = [
        np.asarray(Image.fromarray((mask == value).astype(np.float32)).resize(size, Image.Resampling.BOX)) for value in values
    ]
    return np.array(values, dtype=np.uint8)[np.argmax(shares, axis=0)]


# The maps are large and mostly one camera serves all photos, so only a few are kept.
@lru_cache(maxsize=4)
def _undistorted(width: int, height: int, model: str, params: tuple[float, ...]) -> Pinhole:
    import pycolmap

    try:
        camera = pycolmap.Camera(model=model, width=width, height=height, params=list(params))
        sound = camera.verify_params() and np.isfinite(params).all()
    except (ValueError, RuntimeError) as error:
        raise DataError(f"camera model {model}: not known; use a COLMAP model name") from error
    if not sound:
        raise DataError(f"camera model {model}: {len(params)} parameters do not fit; check the calibration")
    if camera.is_undistorted():
        return Pinhole(np.asarray(camera.calibration_matrix(), dtype=np.float64), width, height)
    target = pycolmap.undistort_camera(pycolmap.UndistortCameraOptions(blank_pixels=0.0), camera)
    K = np.asarray(target.calibration_matrix(), dtype=np.float64)
    columns, rows = np.meshgrid(np.arange(target.width) + PIXEL_CENTRE, np.arange(target.height) + PIXEL_CENTRE)
    pixels = np.stack([columns, rows, np.ones_like(columns)], axis=-1).reshape(-1, 3)
    found = np.asarray(camera.img_from_cam(pixels @ np.linalg.inv(K).T)).reshape(target.height, target.width, 2)
    with np.errstate(invalid="ignore"):
        valid = np.asarray(((found >= -_BORDER) & (found <= np.array([width, height]) + _BORDER)).all(axis=-1) & _unfolded(found))
    return _cropped(K, found, valid, width * height, f"camera model {model}")


def _unfolded(found: Array) -> NDArray[np.bool_]:
    """Where a map (H, W, 2) keeps its orientation: beyond the reach of its polynomial a lens model folds back."""
    if min(found.shape[:2]) < 2:
        return np.zeros(found.shape[:2], bool)
    down, right = np.gradient(found, axis=0), np.gradient(found, axis=1)
    return np.asarray(right[..., 0] * down[..., 1] - right[..., 1] * down[..., 0] > 0)


def _cropped(K: Array, found: Array, valid: NDArray[np.bool_], area: int, name: str) -> Pinhole:
    """Cut border rows and columns until every pixel is valid, the worst first; `area` is the photo's, in pixels."""
    top, bottom, left, right = 0, valid.shape[0], 0, valid.shape[1]
    while bottom - top > 1 and right - left > 1:
        window = valid[top:bottom, left:right]
        share = [1 - side.mean() for side in (window[0], window[-1], window[:, 0], window[:, -1])]
        worst = int(np.argmax(share))
        if share[worst] == 0:
            break
        top, bottom = top + (worst == 0), bottom - (worst == 1)
        left, right = left + (worst == 2), right - (worst == 3)
    window = valid[top:bottom, left:right]
    if window.size * 4 < valid.size or window.size < _MIN_AREA * area or not window.all():
        raise DataError(f"{name}: its distortion leaves no usable image; calibrate again or choose a simpler model")
    K = K.copy()
    K[:2, 2] -= [left, top]
    source = found[top:bottom, left:right].astype(np.float32)
    return Pinhole(K, right - left, bottom - top, np.ascontiguousarray(source), window.copy())
