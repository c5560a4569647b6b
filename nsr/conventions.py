"""Frames, units, letters and ranges: the one place that fixes them. Readers convert on entry, nothing converts later.

Camera   OpenCV axes (x right, y down, z forward). `w2c` (4, 4) maps world to camera, `K` (3, 3) maps camera to pixels.
         Pixel (column i, row j) covers [i, i+1) x [j, j+1); its centre is (i + 0.5, j + 0.5). No distortion after `prepare`.
World    the input's own frame and unit (mm for DTU, arbitrary for structure from motion). Meshes leave in this frame.
Unit     the region of interest is the unit ball. `x_world = scale * R @ x_unit + t` (class `Similarity`).
SDF      positive outside, in unit-frame lengths. Normals point outward, triangles are counter-clockwise seen from outside.
Colour   sRGB; [0, 1] as float, 0..255 as uint8.
Masks    uint8: `MASK_BACKGROUND`, `MASK_OBJECT`, `MASK_IGNORE` (pixel takes part in nothing).

Letters  R rays, S packed samples, N samples per ray, V views, P points, M vertices, T triangles, L levels, F features.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nsr.errors import DataError

PIXEL_CENTRE = 0.5
MASK_BACKGROUND = 0
MASK_IGNORE = 128
MASK_OBJECT = 255
# Axes of an OpenGL/Blender camera (x right, y up, z backward) in an OpenCV camera; its own inverse.
OPENGL_TO_OPENCV = np.diag([1.0, -1.0, -1.0, 1.0])

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Similarity:
    """`x_to = scale * R @ x_from + t`. Everywhere in a scene: from = unit frame, to = world frame.

    Attributes:
        scale: > 0, world lengths per unit-frame length.
        R: (3, 3) rotation, determinant +1.
        t: (3,) world coordinates of the unit frame's origin.

    Raises:
        DataError: not finite, scale <= 0, or R no rotation.
    """

    scale: float
    R: Array
    t: Array

    def __post_init__(self) -> None:
        object.__setattr__(self, "scale", float(self.scale))
        object.__setattr__(self, "R", np.asarray(self.R, dtype=np.float64).reshape(3, 3))
        object.__setattr__(self, "t", np.asarray(self.t, dtype=np.float64).reshape(3))
        finite = np.isfinite(self.scale) and np.isfinite(self.R).all() and np.isfinite(self.t).all()
        if not finite or self.scale <= 0:
            raise DataError(f"similarity: scale {self.scale} and its matrix must be finite, scale > 0")
        if not np.allclose(self.R @ self.R.T, np.eye(3), atol=1e-6) or np.linalg.det(self.R) < 0:
            raise DataError("similarity: R is not a rotation matrix")

    @classmethod
    def identity(cls) -> Similarity:
        """The map that changes nothing."""
        return cls(1.0, np.eye(3), np.zeros(3))

    def apply(self, points: ArrayLike) -> Array:
        """Map points (P, 3) from the `from` frame (unit) to the `to` frame (world), float64."""
        return self.scale * np.asarray(points, dtype=np.float64) @ self.R.T + self.t

    def inverse(self) -> Similarity:
        """The similarity of the opposite direction."""
        return Similarity(1.0 / self.scale, self.R.T, -self.R.T @ self.t / self.scale)

    def compose(self, first: Similarity) -> Similarity:
        """The similarity that applies `first`, then this one."""
        return Similarity(self.scale * first.scale, self.R @ first.R, self.apply(first.t[None])[0])

    def matrix(self) -> Array:
        """Homogeneous (4, 4) matrix with `scale * R` as its block."""
        out = np.eye(4)
        out[:3, :3] = self.scale * self.R
        out[:3, 3] = self.t
        return out

    def camera_to_unit(self, w2c: ArrayLike) -> Array:
        """World-to-camera (..., 4, 4) of a world camera -> unit-to-camera (..., 4, 4).

        The camera's own lengths become unit-frame lengths, so that the result is again a rigid motion and depths
        along a ray are in the unit frame.
        """
        w2c = np.asarray(w2c, dtype=np.float64)
        out = np.broadcast_to(np.eye(4), w2c.shape).copy()
        out[..., :3, :3] = w2c[..., :3, :3] @ self.R
        out[..., :3, 3] = (w2c[..., :3, :3] @ self.t + w2c[..., :3, 3]) / self.scale
        return out

    def to_dict(self) -> dict[str, object]:
        """JSON-ready form."""
        return {"scale": self.scale, "R": self.R.tolist(), "t": self.t.tolist()}

    @classmethod
    def from_dict(cls, data: dict) -> Similarity:
        """Inverse of `to_dict`."""
        return cls(data["scale"], np.asarray(data["R"]), np.asarray(data["t"]))

    def save(self, path: Path) -> None:
        """Write as JSON."""
        path.write_text(json.dumps(self.to_dict(), indent=1))


def camera_centres(w2c: ArrayLike) -> Array:
    """Centres (V, 3) of world-to-camera matrices (V, 4, 4), in the world frame."""
    w2c = np.asarray(w2c, dtype=np.float64)
    return -np.einsum("vji,vj->vi", w2c[:, :3, :3], w2c[:, :3, 3])


def pixel_rays(K: ArrayLike, w2c: ArrayLike, pixels: ArrayLike) -> tuple[Array, Array]:
    """World rays through continuous pixel positions of one camera.

    Args:
        K: (3, 3) intrinsics in pixels. w2c: (4, 4). pixels: (R, 2) x, y; a pixel's centre is its index + 0.5.

    Returns:
        origin (R, 3) and unit direction (R, 3), frame of `w2c`'s world.
    """
    w2c = np.asarray(w2c, dtype=np.float64)
    pixels = np.asarray(pixels, dtype=np.float64)
    homogeneous = np.concatenate([pixels, np.ones_like(pixels[:, :1])], axis=1)
    direction = homogeneous @ np.linalg.inv(np.asarray(K, dtype=np.float64)).T @ w2c[:3, :3]
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    return np.broadcast_to(camera_centres(w2c[None])[0], direction.shape).copy(), direction


def project(K: ArrayLike, w2c: ArrayLike, points: ArrayLike) -> tuple[Array, Array]:
    """Pixel positions (P, 2) and depths along z (P,) of world points (P, 3); positions of points with depth <= 0 mean nothing."""
    w2c = np.asarray(w2c, dtype=np.float64)
    camera = np.asarray(points, dtype=np.float64) @ w2c[:3, :3].T + w2c[:3, 3]
    image = camera @ np.asarray(K, dtype=np.float64).T
    with np.errstate(divide="ignore", invalid="ignore"):
        return image[:, :2] / image[:, 2:], camera[:, 2]
