"""Refinement of an alignment by the ground truth itself: iterative closest points, by open3d."""

from __future__ import annotations

from typing import Any

import numpy as np

from nsr.conventions import Array, Similarity
from nsr.errors import EvaluationError

ITERATIONS, TOLERANCE = 50, 1e-6  # at most; relative change of fitness and rms at which it ends


def refine(
    source: Array, target: Array, *, distance: float, scale: bool, iterations: int = ITERATIONS
) -> tuple[Similarity, dict[str, float]]:
    """The motion (with `scale`: the similarity) that brings source points (P, 3) closest to target points (Q, 3).

    Point to point (Besl and McKay 1992); pairs farther apart than `distance` do not count.

    Returns:
        source -> moved source, and "share" of the source that has a partner, "rms" of the pairs' distances.

    Raises:
        EvaluationError: no pairs within the distance.
    """
    import open3d as o3d

    registration = o3d.pipelines.registration
    found = registration.registration_icp(
        cloud(source),
        cloud(target),
        distance,
        np.eye(4),
        registration.TransformationEstimationPointToPoint(scale),
        registration.ICPConvergenceCriteria(TOLERANCE, TOLERANCE, iterations),
    )
    if not found.fitness > 0:
        raise EvaluationError(
            f"ICP: nothing of the mesh is within {distance:g} of the ground truth; give the known cameras (--gt-cameras), or "
            "raise evaluate.icp_distance"
        )
    return similarity_of(np.asarray(found.transformation)), {"share": float(found.fitness), "rms": float(found.inlier_rmse)}


def similarity_of(matrix: Array) -> Similarity:
    """The similarity of a matrix (4, 4) that is one, its rotation cleaned of rounding."""
    scale = float(np.cbrt(np.linalg.det(matrix[:3, :3])))
    U, _, Vt = np.linalg.svd(matrix[:3, :3])
    return Similarity(scale, U @ Vt, matrix[:3, 3])


def cloud(points: Array) -> Any:
    """An open3d point cloud of points (P, 3)."""
    import open3d as o3d

    return o3d.geometry.PointCloud(o3d.utility.Vector3dVector(np.ascontiguousarray(points)))
