"""Distances between two sets of surface points and what is made of them. Pure functions of arrays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from nsr.conventions import Array

Distances = NDArray[np.float64]

REACH = 1.0  # percent of the object radius; a ground-truth sample this near is "next to" a point


def nearest(points: Array, targets: Array, *, limit: float = np.inf, threads: int = 1) -> Distances:
    """Distance (P,) from each point (P, 3) to the nearest target (Q, 3); infinite beyond `limit` or without targets."""
    return nearest_index(points, targets, limit=limit, threads=threads)[0]


def nearest_index(
    points: Array, targets: Array, *, limit: float = np.inf, threads: int = 1
) -> tuple[Distances, NDArray[np.int64]]:
    """As `nearest`, and the index (P,) of that target, which means nothing where the distance is infinite."""
    from scipy.spatial import cKDTree

    if not len(targets) or not len(points):
        return np.full(len(points), np.inf), np.zeros(len(points), dtype=np.int64)
    distance, index = cKDTree(targets, balanced_tree=False).query(points, distance_upper_bound=limit, workers=threads)
    return np.asarray(distance), np.asarray(index)


def to_seen_surface(
    points: Array, seen: Array, everything: Array, dense: Array, *, percent: float, reach: float = REACH, threads: int = 1
) -> Distances:
    """Distance (P,), in percent of the object radius, from predicted points to the part of the ground truth that is seen.

    NaN where a prediction lies next to ground truth that no camera sees (an underside) and not next to any that is
    seen: there is nothing to judge it by. Short distances are taken to a denser sample, as sampling itself adds to them.

    Args:
        points: (P, 3) predictions. seen: (G, 3) seen ground truth. everything: (A, 3) the whole ground truth, seen or not.
        dense: (D, 3) denser sample of the whole ground truth. percent: length of one percent of the object radius.
        reach: percent; samples this near are next to a point, and the dense sample decides up to twice as far. Must not be
            less than the samples' spacing.
    """
    from scipy.spatial import cKDTree

    tree = cKDTree(seen, balanced_tree=False)
    distance = np.asarray(tree.query(points, workers=threads)[0]) / percent
    near = distance < 2.0 * reach
    dense = dense[np.isfinite(tree.query(dense, distance_upper_bound=reach * percent, workers=threads)[0])]
    distance[near] = nearest(points[near], dense, threads=threads) / percent
    far = np.flatnonzero(~near)
    hidden = np.isfinite(nearest(points[far], everything, limit=reach * percent, threads=threads))
    distance[far[hidden]] = np.nan
    return distance


def mean_distance(distance: Distances, limit: float) -> float:
    """Mean over the distances below `limit`; NaN entries do not count, no entry at all gives `limit`."""
    kept = distance[distance < limit]
    return float(kept.mean()) if len(kept) else float(limit)


def share_within(distance: Distances, threshold: float) -> float:
    """Share of the distances below a threshold, among those that are not NaN; 0 without any."""
    known = distance[~np.isnan(distance)]
    return float((known < threshold).mean()) if len(known) else 0.0


def f_score(precision: float, recall: float) -> float:
    """Harmonic mean of precision and recall (Knapitsch et al. 2017), 0 if both are 0."""
    return 2.0 * precision * recall / (precision + recall) if precision + recall > 0 else 0.0


def chamfer_metrics(
    to_truth: Distances, to_prediction: Distances, *, limit: float, thresholds: Sequence[float]
) -> dict[str, float]:
    """All metrics of two sets of distances, in the distances' unit.

    accuracy    mean distance prediction -> ground truth, distances of `limit` and more dropped
    completeness  the reverse; chamfer is the mean of both
    missed, surplus  share of the ground truth (prediction) that is dropped so
    precision_t, recall_t, f_t  shares within threshold t, and their harmonic mean
    """
    accuracy, completeness = mean_distance(to_truth, limit), mean_distance(to_prediction, limit)
    metrics = {
        "chamfer": 0.5 * (accuracy + completeness),
        "accuracy": accuracy,
        "completeness": completeness,
        "missed": 1.0 - share_within(to_prediction, limit),
        "surplus": 1.0 - share_within(to_truth, limit),
    }
    for threshold in thresholds:
        precision, recall = share_within(to_truth, threshold), share_within(to_prediction, threshold)
        metrics[f"f_{threshold}"] = f_score(precision, recall)
        metrics[f"precision_{threshold}"], metrics[f"recall_{threshold}"] = precision, recall
    return metrics
