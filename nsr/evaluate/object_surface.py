"""The protocol "object-surface", version 1: a predicted mesh against the exact mesh of an object seen from all sides.

Lengths are percent of the object radius (largest distance of a ground-truth vertex from the centre of the bounding box).

ground truth  area-weighted samples that at least `min_views` cameras see past the ground truth itself
prediction    five times as many samples, those inside the dilated silhouette of every view that shows them and, with
              `visible_only`, seen by a camera past the prediction itself
both          higher than `floor` over the lowest ground-truth vertex along `up`, if `floor` > 0: for an object on a table
              that the ground truth leaves out
distances     to the nearest sample, the prediction's to a ten times denser one; those of `max_distance` and more are
              dropped from the means (not from the F-scores); predictions next to unseen ground truth do not count

A perfect mesh does not get 0 but half the mean spacing of the samples: on a sphere 0.10 (accuracy) and 0.14 (completeness)
with 300,000 samples, 0.18 and 0.25 with 100,000. Numbers of different `samples` are not to be compared at that level.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nsr.config import EvaluateConfig
from nsr.conventions import Array
from nsr.errors import EvaluationError
from nsr.evaluate.chamfer import REACH, chamfer_metrics, nearest, to_seen_surface
from nsr.evaluate.surface import object_radius, sample_surface
from nsr.evaluate.visibility import above_floor, in_silhouettes, seen_by, unit_direction
from nsr.mesh.surface import Mesh
from nsr.mesh.visibility import Camera, raycasting_scene

PROTOCOL, VERSION = "object-surface", 1
PREDICTION_FACTOR, DENSE_FACTOR = 5, 10  # samples on the prediction and on the dense ground truth, over `samples`
KEPT_POINTS = 100_000  # of each side, for pictures


@dataclass(frozen=True)
class SurfaceResult:
    """What an evaluation finds.

    Attributes:
        metrics: `nsr.evaluate.chamfer.chamfer_metrics` in percent of the object radius, and the three means in
            ground-truth world units (`*_world`).
        unit: the object's centre and radius, and the length of one percent, ground-truth world.
        counts: number of points on both sides after each rule.
        arrays: points and distances for pictures, see `picture_arrays`.
        notes: what a reader of the numbers must know.
    """

    metrics: dict[str, float]
    unit: dict[str, Any]
    counts: dict[str, int]
    arrays: dict[str, NDArray[Any]]
    notes: tuple[str, ...]


def evaluate_surface(
    prediction: Mesh, truth: Mesh, cameras: Sequence[Camera], config: EvaluateConfig, threads: int = 1
) -> SurfaceResult:
    """Compare two meshes and judge visibility by cameras, all in the ground truth's world frame.

    Raises:
        EvaluationError: no ground truth is seen, no predicted surface counts, or the meshes lie apart.
    """
    centre, radius = object_radius(truth)
    _require_overlap(prediction, centre, radius)
    percent = radius / 100.0
    truth_points, everything = _truth_points(truth, cameras, config, percent, threads)
    predicted, counts = _predicted_points(prediction, truth, cameras, config, percent, threads)
    dense = sample_surface(truth, DENSE_FACTOR * config.samples, config.seed + 1)
    # With few samples 1 % is less than their spacing, and seen surface would be taken for unseen between them.
    reach = max(REACH, float(np.sqrt(truth.face_areas().sum() / config.samples)) / percent)
    to_truth = to_seen_surface(predicted, truth_points, everything, dense, percent=percent, reach=reach, threads=threads)
    to_prediction = nearest(truth_points, predicted, threads=threads) / percent
    metrics = chamfer_metrics(to_truth, to_prediction, limit=config.max_distance, thresholds=config.thresholds)
    metrics |= {f"{name}_world": metrics[name] * percent for name in ("chamfer", "accuracy", "completeness")}
    counts |= {"ground_truth": len(truth_points), "not_judged": int(np.isnan(to_truth).sum())}
    return SurfaceResult(
        metrics=metrics,
        unit={
            "name": "percent of the object radius",
            "object_radius": radius,
            "object_centre": centre.tolist(),
            "percent": percent,
        },
        counts=counts,
        arrays=picture_arrays(prediction, truth, predicted, to_truth, truth_points, to_prediction, percent=percent),
        notes=_notes(cameras, config),
    )


def picture_arrays(
    prediction: Mesh,
    truth: Mesh,
    predicted: Array,
    to_truth: NDArray[np.float64],
    truth_points: Array,
    to_prediction: NDArray[np.float64],
    *,
    percent: float,
) -> dict[str, NDArray[Any]]:
    """Arrays for pictures, ground-truth world frame, distances in percent of the object radius.

    `points` (P, 3) of the prediction that were judged, with their `errors` (P,); `truth_points` (G, 3) with `truth_errors`
    (G,), their distances from the prediction; `vertex_error` (M,): distance of every vertex of the predicted mesh from
    the ground-truth surface, whether it counts or not.
    """
    judged = np.flatnonzero(~np.isnan(to_truth))[:KEPT_POINTS]
    return {
        "points": predicted[judged],
        "errors": to_truth[judged].astype(np.float32),
        "truth_points": truth_points[:KEPT_POINTS],
        "truth_errors": to_prediction[:KEPT_POINTS].astype(np.float32),
        "vertex_error": surface_distance(prediction.vertices, truth) / np.float32(percent),
    }


def surface_distance(points: Array, mesh: Mesh) -> NDArray[np.float32]:
    """Distance (P,) of points (P, 3) from the nearest point of a mesh's faces, single precision."""
    origin = mesh.vertices.mean(axis=0)
    scene = raycasting_scene(mesh.vertices, mesh.faces, origin)
    return np.asarray(scene.compute_distance((points - origin).astype(np.float32)).numpy(), dtype=np.float32)


def _truth_points(
    truth: Mesh, cameras: Sequence[Camera], config: EvaluateConfig, percent: float, threads: int
) -> tuple[Array, Array]:
    """Ground-truth samples that count, and all of them."""
    everything = sample_surface(truth, config.samples, config.seed)
    points = everything[_above(everything, truth, config, percent)]
    if not len(points):
        raise EvaluationError(
            f"no ground truth counts: all of it is under evaluate.floor ({config.floor:g}); lower it or see evaluate.up"
        )
    points = points[seen_by(truth, points, cameras, config.min_views, threads)]
    if not len(points):
        raise EvaluationError(
            f"no ground truth counts: none of it is seen by {config.min_views} cameras; are the cameras in the ground truth's "
            "frame? give the known cameras (--gt-cameras) if the scene's frame is another"
        )
    return points, everything


def _predicted_points(
    prediction: Mesh, truth: Mesh, cameras: Sequence[Camera], config: EvaluateConfig, percent: float, threads: int
) -> tuple[Array, dict[str, int]]:
    """Predicted samples that count, and how many were left after each rule."""
    points = sample_surface(prediction, PREDICTION_FACTOR * config.samples, config.seed + 2)
    counts = {"prediction_sampled": len(points)}
    points = points[_above(points, truth, config, percent)]
    counts["prediction_above_floor"] = len(points)
    points = points[in_silhouettes(points, cameras, config.mask_dilation)]
    counts["prediction_in_silhouettes"] = len(points)
    if config.visible_only:
        points = points[seen_by(prediction, points, cameras, 1, threads)]
    counts["prediction"] = len(points)
    if not len(points):
        raise EvaluationError(
            f"no predicted surface counts ({counts}); is the mesh in the frame of the scene? look at evaluate.mask_dilation, "
            "evaluate.visible_only and evaluate.floor"
        )
    return points, counts


def _above(points: Array, truth: Mesh, config: EvaluateConfig, percent: float) -> NDArray[np.bool_]:
    if config.floor <= 0:
        return np.ones(len(points), dtype=bool)
    lowest = float((truth.vertices @ unit_direction(config.up)).min())
    return above_floor(points, config.up, lowest + config.floor * percent)


def _require_overlap(prediction: Mesh, centre: Array, radius: float) -> None:
    gap = float(np.linalg.norm(prediction.vertices - centre, axis=1).min()) / radius
    if gap > 2.0:
        raise EvaluationError(
            f"the mesh lies {gap:.1f} object radii away from the ground truth: they are in different frames; give the known "
            "cameras (--gt-cameras) so that the scene can be aligned"
        )


def _notes(cameras: Sequence[Camera], config: EvaluateConfig) -> tuple[str, ...]:
    notes = []
    if config.mask_dilation >= 0 and any(camera.mask is None for camera in cameras):
        notes.append("the scene has no masks: predictions count outside the silhouettes, too")
    if config.floor <= 0:
        notes.append("no floor: a table or ground in the prediction counts as error")
    return tuple(notes)
