"""Depth of rendered views against that of a ground-truth mesh."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nsr.conventions import Array, Similarity, pixel_rays
from nsr.data.arrays import read_npz
from nsr.errors import DataError
from nsr.evaluate.surface import object_radius
from nsr.mesh.surface import Mesh
from nsr.mesh.visibility import raycasting_scene

DepthImage = NDArray[np.float32]


class TrueDepth:
    """Depth pictures of a ground-truth mesh from the cameras of a scene.

    Attributes:
        percent: length of one percent of the object radius, ground-truth world.
    """

    def __init__(self, truth: Mesh, to_truth: Similarity) -> None:
        """`to_truth` maps the scene's world frame to the mesh's."""
        self.percent = object_radius(truth)[1] / 100.0
        self._to_truth, self._origin = to_truth, truth.vertices.mean(axis=0)
        self._scene = raycasting_scene(truth.vertices, truth.faces, self._origin)

    def compare(self, depth: DepthImage, K: Array, w2c: Array, pixels: NDArray[np.bool_]) -> dict[str, float | None]:
        """`depth_metrics` in percent of the object radius.

        Args:
            depth: (H, W) along z, scene world units, 0 where there is none. K: (3, 3) pixels of that picture.
            w2c: (4, 4), scene world. pixels: (H, W) that count.
        """
        camera = self._to_truth.inverse().camera_to_unit(w2c)  # its lengths are the ground truth's
        truth = self.picture(K, camera, depth.shape[1], depth.shape[0])
        scale = self._to_truth.scale
        return depth_metrics(depth * scale / self.percent, truth / self.percent, pixels)

    def picture(self, K: Array, w2c: Array, width: int, height: int) -> DepthImage:
        """Depth (H, W) of the mesh along z, 0 where nothing is, of a camera in the ground truth's frame."""
        column, row = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
        origins, directions = pixel_rays(K, w2c, np.stack([column, row], axis=-1).reshape(-1, 2))
        rays = np.concatenate([origins - self._origin, directions], axis=1).astype(np.float32)
        hit = self._scene.cast_rays(rays)["t_hit"].numpy()
        along = hit * (directions @ w2c[2, :3]).astype(np.float32)
        return np.where(np.isfinite(hit), along, 0).reshape(height, width).astype(np.float32)


def depth_metrics(depth: NDArray[np.floating], truth: NDArray[np.floating], pixels: NDArray[np.bool_]) -> dict[str, float | None]:
    """Differences of two depth pictures (H, W), 0 where there is none, over the marked pixels.

    depth_error, depth_median  mean and median absolute difference where both have depth, in their unit; None without any
    depth_missing  share of the pixels with true depth that have none; None without any
    """
    known = pixels & (truth > 0)
    both = known & (depth > 0)
    if not known.any():
        return {"depth_error": None, "depth_median": None, "depth_missing": None}
    error = np.abs(np.asarray(depth, dtype=np.float64) - truth)[both]
    found = (float(error.mean()), float(np.median(error))) if len(error) else (None, None)
    return {"depth_error": found[0], "depth_median": found[1], "depth_missing": 1.0 - float(both.sum() / known.sum())}


def read_depth(path: Path) -> DepthImage:
    """The depth (H, W) that the render stage wrote, world units.

    Raises:
        DataError: missing, or no such file.
    """
    try:
        return np.asarray(read_npz(path)["depth"], dtype=np.float32)
    except Exception as error:  # numpy's reader fails in many ways on a damaged file
        raise DataError(f"{path}: no rendered depth ({type(error).__name__}); run render again") from error
