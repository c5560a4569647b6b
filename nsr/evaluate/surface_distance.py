"""The protocol "surface-distance", version 1: a predicted mesh against any ground truth, mesh or point cloud.

As "object-surface" (same lengths, settings, sampling of the prediction, masks and visibility of the prediction, floor), but all
of the ground truth counts, whether cameras see it or not, so that no closed surface is needed to tell. A scan that covers
only a part punishes what lies beyond it, up to `max_distance`.

ground truth  mesh: area-weighted samples; cloud: `samples` of its points at random, and all of them to measure to
distances     prediction -> ten times denser samples of the mesh, or all points of the cloud; ground truth -> prediction
normals       as "object-surface"; a cloud has none
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from nsr.config import EvaluateConfig
from nsr.conventions import Array
from nsr.evaluate.chamfer import chamfer_metrics, nearest
from nsr.evaluate.normals import face_normals, normal_error
from nsr.evaluate.object_surface import (
    DENSE_FACTOR,
    notes_of,
    percent_unit,
    picture_arrays,
    predicted_points,
    require_overlap,
    surface_distance,
)
from nsr.evaluate.result import SurfaceResult
from nsr.evaluate.surface import object_radius, sample_faces, sample_surface
from nsr.mesh.surface import Mesh
from nsr.mesh.visibility import Camera

PROTOCOL, VERSION = "surface-distance", 1


def evaluate_distance(
    prediction: Mesh, truth: Mesh | Array, cameras: Sequence[Camera], config: EvaluateConfig, threads: int = 1
) -> SurfaceResult:
    """Compare a mesh with a mesh or with points (Q, 3), all in the ground truth's frame.

    Raises:
        EvaluationError: no predicted surface counts, or both lie apart.
    """
    whole = truth if isinstance(truth, Mesh) else Mesh(truth, np.zeros((0, 3), dtype=np.int64))
    centre, radius = object_radius(whole)
    require_overlap(prediction, centre, radius)
    percent = radius / 100.0
    predicted, normals, counts = predicted_points(prediction, whole, cameras, config, percent=percent, threads=threads)
    truth_points, truth_normals, dense = _truth_samples(truth, config)
    to_truth = nearest(predicted, dense, threads=threads) / percent
    to_prediction = nearest(truth_points, predicted, threads=threads) / percent
    metrics = chamfer_metrics(to_truth, to_prediction, limit=config.max_distance, thresholds=config.thresholds)
    metrics |= {f"{name}_world": metrics[name] * percent for name in ("chamfer", "accuracy", "completeness")}
    notes = [*notes_of(cameras, config)]
    if truth_normals is None:
        notes.append("the ground truth is a point cloud: no normal error")
    else:
        side = predicted[: config.samples], normals[: config.samples]
        metrics |= normal_error(side, (truth_points, truth_normals), config.max_distance * percent, threads)
    return SurfaceResult(
        metrics=metrics,
        unit=percent_unit(centre, radius),
        counts=counts | {"ground_truth": len(truth_points)},
        arrays=picture_arrays(
            (predicted, to_truth),
            (truth_points, to_prediction),
            _vertex_error(prediction, truth, threads) / np.float32(percent),
        ),
        notes=tuple(notes),
    )


def truth_sample(truth: Mesh | Array, count: int, seed: int) -> Array:
    """At most `count` points of a ground truth, for an alignment to it."""
    if isinstance(truth, Mesh):
        return sample_surface(truth, count, seed)
    return truth[np.random.default_rng(seed).permutation(len(truth))[:count]]


def _truth_samples(truth: Mesh | Array, config: EvaluateConfig) -> tuple[Array, Array | None, Array]:
    """Points that count, their normals if there are any, and the points to measure to."""
    if not isinstance(truth, Mesh):
        return truth_sample(truth, config.samples, config.seed), None, truth
    points, face = sample_faces(truth, config.samples, config.seed)
    return points, face_normals(truth)[face], sample_surface(truth, DENSE_FACTOR * config.samples, config.seed + 1)


def _vertex_error(prediction: Mesh, truth: Mesh | Array, threads: int) -> NDArray[np.float32]:
    """Distance (M,) of every vertex from the ground truth."""
    if isinstance(truth, Mesh):
        return surface_distance(prediction.vertices, truth)
    return nearest(prediction.vertices, truth, threads=threads).astype(np.float32)
