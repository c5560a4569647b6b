"""The protocol "object-surface", version 1: a predicted mesh against the exact mesh of an object seen from all sides.

Lengths are percent of the object radius (largest distance of a ground-truth vertex from the centre of the bounding box).

ground truth  area-weighted samples that at least `min_views` cameras see past the ground truth itself
prediction    five times as many samples, those inside the dilated silhouette of every view that shows them and, with
              `visible_only`, seen by a camera past the prediction itself
both          higher than `floor` over the lowest ground-truth vertex along `up`, if `floor` > 0: for an object on a table
              that the ground truth leaves out
distances     to the nearest sample, the prediction's to a ten times denser one; those of `max_distance` and more are
              dropped from the means (not from the F-scores); predictions next to unseen ground truth do not count
normals       mean angle, degrees, between the face normals of nearest samples less than `max_distance` apart, both ways

A perfect mesh does not get 0 but half the mean spacing of the samples: on a sphere 0.10 (accuracy) and 0.14 (completeness)
with 300,000 samples, 0.18 and 0.25 with 100,000. Numbers of different `samples` are not to be compared at that level.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nsr.config import EvaluateConfig
from nsr.conventions import Array
from nsr.errors import EvaluationError
from nsr.evaluate.chamfer import REACH, chamfer_metrics, nearest, to_seen_surface
from nsr.evaluate.normals import face_normals, normal_error
from nsr.evaluate.result import KEPT_POINTS, SurfaceResult
from nsr.evaluate.surface import object_radius, sample_faces, sample_surface
from nsr.evaluate.visibility import above_floor, in_silhouettes, seen_by, unit_direction
from nsr.mesh.surface import Mesh
from nsr.mesh.visibility import Camera, raycasting_scene

PROTOCOL, VERSION = "object-surface", 1
PREDICTION_FACTOR, DENSE_FACTOR = 5, 10  # samples on the prediction and on the dense ground truth, over `samples`


def evaluate_surface(
    prediction: Mesh, truth: Mesh, cameras: Sequence[Camera], config: EvaluateConfig, threads: int = 1
) -> SurfaceResult:
    """Compare two meshes and judge visibility by cameras, all in the ground truth's world frame.

    Raises:
        EvaluationError: no ground truth is seen, no predicted surface counts, or the meshes lie apart.
    """
    centre, radius = object_radius(truth)
    require_overlap(prediction, centre, radius)
    percent = radius / 100.0
    truth_points, truth_normals, everything = _truth_points(truth, cameras, config, percent, threads)
    predicted, normals, counts = predicted_points(prediction, truth, cameras, config, percent=percent, threads=threads)
    dense = sample_surface(truth, DENSE_FACTOR * config.samples, config.seed + 1)
    # With few samples 1 % is less than their spacing, and seen surface would be taken for unseen between them.
    reach = max(REACH, float(np.sqrt(truth.face_areas().sum() / config.samples)) / percent)
    to_truth = to_seen_surface(predicted, truth_points, everything, dense, percent=percent, reach=reach, threads=threads)
    to_prediction = nearest(truth_points, predicted, threads=threads) / percent
    metrics = chamfer_metrics(to_truth, to_prediction, limit=config.max_distance, thresholds=config.thresholds)
    metrics |= {f"{name}_world": metrics[name] * percent for name in ("chamfer", "accuracy", "completeness")}
    judged = np.flatnonzero(~np.isnan(to_truth))[: config.samples]  # as many of both are enough for normals
    sides = (predicted[judged], normals[judged]), (truth_points, truth_normals)
    metrics |= normal_error(*sides, config.max_distance * percent, threads)
    counts |= {"ground_truth": len(truth_points), "not_judged": int(np.isnan(to_truth).sum())}
    return SurfaceResult(
        metrics=metrics,
        unit=percent_unit(centre, radius),
        counts=counts,
        arrays=picture_arrays(
            (predicted, to_truth),
            (truth_points, to_prediction),
            surface_distance(prediction.vertices, truth) / np.float32(percent),
        ),
        notes=notes_of(cameras, config),
    )


def percent_unit(centre: Array, radius: float) -> dict[str, Any]:
    """What a result says about lengths in percent of the object radius."""
    return {
        "name": "percent of the object radius",
        "object_radius": radius,
        "object_centre": centre.tolist(),
        "percent": radius / 100.0,
    }


def picture_arrays(
    predicted: tuple[Array, NDArray[np.float64]], truth: tuple[Array, NDArray[np.float64]], vertex_error: NDArray[np.float32]
) -> dict[str, NDArray[Any]]:
    """Arrays for pictures, ground-truth world frame, distances in percent of the object radius.

    `points` (P, 3) of the prediction that were judged, with their `errors` (P,); `truth_points` (G, 3) with `truth_errors`
    (G,), their distances from the prediction; `vertex_error` (M,): distance of every vertex of the predicted mesh from
    the ground-truth surface, whether it counts or not. Of both sides the first `KEPT_POINTS`, which are random.
    """
    judged = np.flatnonzero(~np.isnan(predicted[1]))[:KEPT_POINTS]
    return {
        "points": predicted[0][judged],
        "errors": predicted[1][judged].astype(np.float32),
        "truth_points": truth[0][:KEPT_POINTS],
        "truth_errors": truth[1][:KEPT_POINTS].astype(np.float32),
        "vertex_error": vertex_error,
    }


def surface_distance(points: Array, mesh: Mesh) -> NDArray[np.float32]:
    """Distance (P,) of points (P, 3) from the nearest point of a mesh's faces, single precision."""
    origin = mesh.vertices.mean(axis=0)
    scene = raycasting_scene(mesh.vertices, mesh.faces, origin)
    return np.asarray(scene.compute_distance((points - origin).astype(np.float32)).numpy(), dtype=np.float32)


def _truth_points(
    truth: Mesh, cameras: Sequence[Camera], config: EvaluateConfig, percent: float, threads: int
) -> tuple[Array, Array, Array]:
    """Ground-truth samples that count, their normals, and all samples."""
    everything, face = sample_faces(truth, config.samples, config.seed)
    above = _above(everything, truth, config, percent)
    points, face = everything[above], face[above]
    if not len(points):
        raise EvaluationError(
            f"no ground truth counts: all of it is under evaluate.floor ({config.floor:g}); lower it or see evaluate.up"
        )
    seen = seen_by(truth, points, cameras, config.min_views, threads)
    points, face = points[seen], face[seen]
    if not len(points):
        raise EvaluationError(
            f"no ground truth counts: none of it is seen by {config.min_views} cameras; are the cameras in the ground truth's "
            "frame? give the known cameras (--gt-cameras) if the scene's frame is another"
        )
    return points, face_normals(truth)[face], everything


def predicted_points(
    prediction: Mesh, truth: Mesh, cameras: Sequence[Camera], config: EvaluateConfig, *, percent: float, threads: int
) -> tuple[Array, Array, dict[str, int]]:
    """Predicted samples that count, their normals, and how many were left after each rule.

    Raises:
        EvaluationError: none is left.
    """
    points, face = sample_faces(prediction, PREDICTION_FACTOR * config.samples, config.seed + 2)
    counts = {"prediction_sampled": len(points)}
    rules = {
        "prediction_above_floor": lambda points: _above(points, truth, config, percent),
        "prediction_in_silhouettes": lambda points: in_silhouettes(points, cameras, config.mask_dilation),
        "prediction": lambda points: seen_by(prediction, points, cameras, 1 if config.visible_only else 0, threads),
    }
    for name, rule in rules.items():
        keep = rule(points)
        points, face = points[keep], face[keep]
        counts[name] = len(points)
    if not len(points):
        raise EvaluationError(
            f"no predicted surface counts ({counts}); is the mesh in the frame of the scene? look at evaluate.mask_dilation, "
            "evaluate.visible_only and evaluate.floor"
        )
    return points, face_normals(prediction)[face], counts


def _above(points: Array, truth: Mesh, config: EvaluateConfig, percent: float) -> NDArray[np.bool_]:
    if config.floor <= 0:
        return np.ones(len(points), dtype=bool)
    lowest = float((truth.vertices @ unit_direction(config.up)).min())
    return above_floor(points, config.up, lowest + config.floor * percent)


def require_overlap(prediction: Mesh, centre: Array, radius: float) -> None:
    """Raise EvaluationError if a mesh lies so far from an object that they must be in different frames."""
    gap = float(np.linalg.norm(prediction.vertices - centre, axis=1).min()) / radius
    if gap > 2.0:
        raise EvaluationError(
            f"the mesh lies {gap:.1f} object radii away from the ground truth: they are in different frames; give the known "
            "cameras (--gt-cameras) so that the scene can be aligned"
        )


def notes_of(cameras: Sequence[Camera], config: EvaluateConfig) -> tuple[str, ...]:
    """What the settings leave uncounted or counted, in words."""
    notes = []
    if config.mask_dilation >= 0 and any(camera.mask is None for camera in cameras):
        notes.append("the scene has no masks: predictions count outside the silhouettes, too")
    if config.floor <= 0:
        notes.append("no floor: a table or ground in the prediction counts as error")
    return tuple(notes)
