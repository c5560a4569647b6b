"""Angles between the normals of two surfaces at nearest points."""

from __future__ import annotations

import numpy as np

from nsr.conventions import Array
from nsr.evaluate.chamfer import Distances, nearest_index
from nsr.mesh.surface import Mesh


def face_normals(mesh: Mesh) -> Array:
    """Unit normals (T, 3) of the faces, outward; zero for a face without area."""
    vectors = mesh.face_vectors()
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.where(length > 0, length, 1.0))


def angles(first: Array, second: Array) -> Distances:
    """Angles (P,) in degrees, 0..180, between unit vectors (P, 3); accurate near 0 and 180 (Kahan's formula)."""
    return np.degrees(2.0 * np.arctan2(np.linalg.norm(first - second, axis=1), np.linalg.norm(first + second, axis=1)))


def normal_error(prediction: tuple[Array, Array], truth: tuple[Array, Array], limit: float, threads: int = 1) -> dict[str, float]:
    """Mean angles between the normals at nearest points, of pairs nearer than `limit`.

    Args:
        prediction, truth: points (P, 3) and unit normals (P, 3), one frame. limit: length of that frame.

    Returns:
        degrees: `normal_accuracy` prediction -> ground truth, `normal_completeness` the reverse, `normal_error` their mean.
        Empty if no pair is near enough. A surface that is inside out has large angles: orientation counts.
    """
    found = []
    for (points, normals), (targets, target_normals) in ((prediction, truth), (truth, prediction)):
        distance, index = nearest_index(points, targets, limit=limit, threads=threads)
        near = np.isfinite(distance)
        if not near.any():
            return {}
        found.append(float(angles(normals[near], target_normals[index[near]]).mean()))
    return {"normal_error": 0.5 * (found[0] + found[1]), "normal_accuracy": found[0], "normal_completeness": found[1]}
