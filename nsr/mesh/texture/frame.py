"""The frame a textured mesh leaves in: that of the mesh, or glTF's with y up and metres."""

from __future__ import annotations

from typing import Literal

import numpy as np

from nsr.config import TextureConfig
from nsr.conventions import Array, Similarity
from nsr.mesh.metric import Metric
from nsr.scene.scene import Scene

Frame = Literal["world", "gltf"]

METRES = {"m": 1.0, "metre": 1.0, "meter": 1.0, "cm": 0.01, "mm": 0.001}
_SNAP = 20.0  # degrees within which the cameras' mean up direction means an axis of the world


def file_frame(scene: Scene, config: TextureConfig, metric: Metric | None = None) -> tuple[Metric, list[str]]:
    """The similarity world -> file with the file's unit, and notes about what had to be assumed.

    `frame: world` is the frame of the mesh: the metric one where the mesh was given real units, else the scene's world.
    `frame: gltf` turns that frame's up direction to +y by the smallest rotation (z up: x, y, z become x, z, -y) and scales to
    metres.

    Args:
        metric: the metric frame that the mesh's file names, None if it is in the world frame.
    """
    own = metric or Metric(Similarity.identity(), scene.unit)
    if config.frame == "world":
        return own, []
    notes = []
    up = np.asarray(config.up, dtype=np.float64)
    if not up.any():
        up = cameras_up(own.similarity.inverse().camera_to_unit(np.stack([view.w2c for view in scene.views])))
        notes.append(f"up direction taken from the cameras: {np.round(up, 3).tolist()}; texture.up sets it")
    metres = config.metres or METRES.get(own.unit, 0.0)
    if not metres:
        metres = 1.0
        notes.append(f"the mesh's unit ({own.unit}) has no known length and counts as a metre; texture.metres sets it")
    upright = Similarity(metres, rotation_between(up, np.array([0.0, 1.0, 0.0])), np.zeros(3))
    return Metric(upright.compose(own.similarity), "metre"), notes


def cameras_up(w2c: Array) -> Array:
    """Mean upward direction (3,) of cameras (V, 4, 4), an axis of the world where one is near; +z if they have none."""
    total = -w2c[:, 1, :3].sum(axis=0)
    length = np.linalg.norm(total)
    if length < 1e-3 * len(w2c):
        return np.array([0.0, 0.0, 1.0])
    total = total / length
    axis = int(np.abs(total).argmax())
    if abs(total[axis]) > np.cos(np.deg2rad(_SNAP)):
        return np.asarray(np.sign(total[axis]) * np.eye(3)[axis])
    return np.asarray(total)


def rotation_between(start: Array, end: Array) -> Array:
    """The smallest rotation (3, 3) that turns the direction `start` to `end` (3,), about x where they are opposite (Rodrigues)."""
    a, b = start / np.linalg.norm(start), end / np.linalg.norm(end)
    cosine, axis = float(a @ b), np.cross(a, b)
    if cosine < -1.0 + 1e-12:
        across = np.cross(a, [1.0, 0.0, 0.0])
        flip = np.array([1.0, 0.0, 0.0]) if np.linalg.norm(across) > 1e-6 else np.array([0.0, 1.0, 0.0])
        flip = flip - (flip @ a) * a
        flip /= np.linalg.norm(flip)
        return np.asarray(2.0 * np.outer(flip, flip) - np.eye(3))
    cross = np.array([[0.0, -axis[2], axis[1]], [axis[2], 0.0, -axis[0]], [-axis[1], axis[0], 0.0]])
    return np.asarray(np.eye(3) + cross + cross @ cross / (1.0 + cosine))
