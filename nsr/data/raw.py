"""What every reader returns: views with their source files, cameras as the source states them, optional points and region."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nsr.conventions import Array, Similarity


@dataclass(frozen=True)
class RawCamera:
    """Intrinsics of one view.

    Attributes:
        width, height: image size in pixels that the intrinsics belong to.
        K: (3, 3) pinhole matrix in pixels, pixel centres at +0.5; None if `model` states the camera instead.
        model: COLMAP model name (`SIMPLE_RADIAL`, `OPENCV`, `OPENCV_FISHEYE`, ...), None if the image is undistorted.
        params: the model's parameters in COLMAP's order.
    """

    width: int
    height: int
    K: Array | None = None
    model: str | None = None
    params: tuple[float, ...] = ()


@dataclass(frozen=True)
class RawView:
    """One photograph before preparation.

    Attributes:
        name: unique in its scene; becomes the stem of the prepared files.
        image: source photograph.
        camera: its intrinsics.
        w2c: (4, 4) world to camera, OpenCV axes.
        mask: source mask image (white object on black), None if there is none.
        alpha_mask: the photograph's alpha channel is the mask.
    """

    name: str
    image: Path
    camera: RawCamera
    w2c: Array
    mask: Path | None = None
    alpha_mask: bool = False


@dataclass(frozen=True)
class Points:
    """Sparse points with the views that see them.

    Attributes:
        xyz: (P, 3) world. rgb: (P, 3) uint8. error: (P,) mean reprojection error in pixels, NaN if unknown.
        offsets: (P + 1,) int64; point p is seen by `views[offsets[p] : offsets[p + 1]]`.
        views: (sum of track lengths,) int32 indices into the scene's list of views.
    """

    xyz: Array
    rgb: NDArray[np.uint8]
    error: Array
    offsets: NDArray[np.int64]
    views: NDArray[np.int32]


@dataclass(frozen=True)
class RawScene:
    """A source read into memory, files still where they were.

    Attributes:
        views: in name order.
        points: sparse points, None if the source has none.
        region: unit-to-world similarity that the format itself states (NeuS `scale_mat`), None otherwise.
        unit: name of the world unit ("mm", "m", "unknown").
        skipped: one line for each frame left out, with the reason.
    """

    views: tuple[RawView, ...]
    points: Points | None = None
    region: Similarity | None = None
    unit: str = "unknown"
    skipped: tuple[str, ...] = field(default=())
