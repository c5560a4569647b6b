"""The health of a structure-from-motion model and the gate it has to pass.

A low reprojection error alone says little: a model of four photos can have 0.5 px. So the gate also asks how many photos
are in the model and how far the cameras spread around the object.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nsr.config import SfmConfig
from nsr.conventions import Array

if TYPE_CHECKING:
    import pycolmap


@dataclass(frozen=True)
class SfmHealth:
    """What the gate judges.

    Attributes:
        photos: number given. registered: number in the largest model. models: images per model, largest first.
        points: sparse points. track_length: mean number of photos per point.
        reprojection: mean reprojection error, px. spread: largest angle between two viewing directions, degrees.
    """

    photos: int
    registered: int
    models: tuple[int, ...]
    points: int
    track_length: float
    reprojection: float
    spread: float


@dataclass(frozen=True)
class GateCheck:
    """One number of the gate.

    Attributes:
        name, value, threshold: what was compared. at_least: the value must not lie below the threshold (else: above).
        advice: what to change if it fails.
    """

    name: str
    value: float
    threshold: float
    at_least: bool
    advice: str

    @property
    def passed(self) -> bool:
        """Whether the value is on the right side; NaN never is."""
        return self.value >= self.threshold if self.at_least else self.value <= self.threshold

    def failure(self) -> str:
        """One clause with the number, the threshold and the remedy."""
        side = "below" if self.at_least else "above"
        return f"{self.name} {self.value:.3g} is {side} {self.threshold:g}: {self.advice}"


def measure_health(model: pycolmap.Reconstruction, sizes: Sequence[int], photos: int) -> SfmHealth:
    """Health of the largest model.

    Args:
        sizes: registered images of each model found. photos: number of photos given.
    """
    centres = np.array([image.projection_center() for image in model.images.values() if image.has_pose]).reshape(-1, 3)
    points = np.array([point.xyz for point in model.points3D.values()]).reshape(-1, 3)
    return SfmHealth(
        photos=photos,
        registered=model.num_reg_images(),
        models=tuple(sorted(sizes, reverse=True)),
        points=len(points),
        track_length=float(model.compute_mean_track_length()) if len(points) else 0.0,
        reprojection=float(model.compute_mean_reprojection_error()) if len(points) else float("nan"),
        spread=camera_spread(centres, np.median(points, axis=0)) if len(points) else 0.0,
    )


def camera_spread(centres: Array, target: Array) -> float:
    """Largest angle in degrees between two directions from `target` (3,) to camera centres (V, 3); 0 for fewer than two."""
    if len(centres) < 2:
        return 0.0
    directions = centres - target
    directions = directions / np.maximum(np.linalg.norm(directions, axis=1, keepdims=True), 1e-12)
    return float(np.degrees(np.arccos(np.clip(directions @ directions.T, -1.0, 1.0).min())))


def gate_checks(health: SfmHealth, config: SfmConfig) -> tuple[GateCheck, ...]:
    """The checks of the gate, with thresholds from the configuration."""
    split = f"; it fell into {len(health.models)} models" if len(health.models) > 1 else ""
    return (
        GateCheck(
            name=f"share of registered photos ({health.registered} of {health.photos}{split})",
            value=health.registered / health.photos,
            threshold=config.min_registered,
            at_least=True,
            advice="add photos between the unregistered ones and their neighbours, remove blurred ones, keep still texture"
            " in view, or raise sfm.max_features with sfm.first_octave=-1",
        ),
        GateCheck(
            name="mean reprojection error in px",
            value=health.reprojection,
            threshold=config.max_reprojection,
            at_least=False,
            advice="photos of several lenses or zooms need sfm.single_camera=false, wide angles sfm.camera_model=OPENCV;"
            " also check that nothing moved between the photos",
        ),
        GateCheck(
            name="spread of the cameras in degrees",
            value=health.spread,
            threshold=config.min_spread,
            at_least=True,
            advice="walk around the object instead of turning on the spot",
        ),
    )
