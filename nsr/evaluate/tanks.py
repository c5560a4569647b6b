"""The protocol "tanks-and-temples", version 1: F-score against a laser scan (Knapitsch et al. 2017), in metres.

As the data set's python toolbox does it, with the points that published mesh methods give it:

files       <Scene>/<Scene>.ply (scan), <Scene>.json (crop volume); the known cameras are <Scene>_COLMAP_SfM.log with
            <Scene>_trans.txt beside it
points      vertices and face centres of the mesh (`evaluate.tanks_points`), so a finer mesh scores a little higher
alignment   similarity from all cameras, where the toolbox draws cameras at random; then three times ICP with scale on cropped
            points, 20 iterations each: voxels of tau within 80 tau, voxels of tau / 2 within 20 tau, at most 4 million points
            within 2 tau
measure     both sides cropped and reduced to one point a voxel of tau / 2; precision and recall are shares of distances
            under tau, f_score their harmonic mean
tau         per scene, m: Barn 0.01, Caterpillar 0.005, Church 0.025, Courthouse 0.025, Ignatius 0.003, Meetingroom 0.01,
            Truck 0.005
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from nsr.config import EvaluateConfig
from nsr.conventions import Array, Similarity
from nsr.errors import EvaluationError
from nsr.evaluate.chamfer import Distances, f_score, nearest, share_within
from nsr.evaluate.icp import cloud, refine
from nsr.evaluate.points import read_points
from nsr.evaluate.result import KEPT_POINTS, SurfaceResult
from nsr.log import get_logger
from nsr.mesh.surface import Mesh

PROTOCOL, VERSION = "tanks-and-temples", 1
TAU = {
    "Barn": 0.01,
    "Caterpillar": 0.005,
    "Church": 0.025,
    "Courthouse": 0.025,
    "Ignatius": 0.003,
    "Meetingroom": 0.01,
    "Truck": 0.005,
}
_ROUNDS = ((1.0, 80.0), (0.5, 20.0))  # voxel and largest distance of the first ICPs, in tau
_LAST_DISTANCE, _ITERATIONS, _LAST_POINTS = 2.0, 20, 4_000_000


def tau_of(scan: Path) -> float:
    """The scene's distance threshold in metres, by the name of its scan.

    Raises:
        EvaluationError: no such scene.
    """
    if scan.stem not in TAU:
        raise EvaluationError(f"{scan}: protocol tanks-and-temples needs a file <Scene>.ply of one of {', '.join(TAU)}")
    return TAU[scan.stem]


def evaluate_tanks(prediction: Mesh, scan: Path, config: EvaluateConfig, threads: int = 1) -> SurfaceResult:
    """Refine the alignment and measure; the prediction is in the scan's frame already, up to what ICP corrects.

    Raises:
        EvaluationError: unknown scene, no crop volume, or nothing of the mesh in it. DataError: the scan cannot be read.
    """
    tau, volume = tau_of(scan), _read_volume(scan.with_suffix(".json"))
    points, truth = mesh_points(prediction, config.tanks_points), volume.crop_point_cloud(cloud(read_points(scan)))
    moved, facts = _refined(points, truth, volume, tau)
    source = _reduced(_cropped(moved.apply(points), volume), 0.5 * tau)
    target = np.asarray(truth.voxel_down_sample(0.5 * tau).points)
    to_truth = nearest(source, target, threads=threads)
    to_prediction = nearest(target, source, threads=threads)
    shuffle = np.random.default_rng(config.seed)
    some, some_truth = shuffle.permutation(len(source))[:KEPT_POINTS], shuffle.permutation(len(target))[:KEPT_POINTS]
    return SurfaceResult(
        metrics=tanks_metrics(to_truth, to_prediction, tau),
        unit={"name": "m", "tau": tau, "icp_rms": facts["rms"]},
        counts={"prediction_all": len(points), "prediction": len(source), "ground_truth": len(target)},
        arrays={
            "points": source[some],
            "errors": to_truth[some].astype(np.float32),
            "truth_points": target[some_truth],
            "truth_errors": to_prediction[some_truth].astype(np.float32),
            "vertex_error": nearest(moved.apply(prediction.vertices), target, threads=threads).astype(np.float32),
        },
        notes=(f"aligned further by three rounds of ICP with scale, as the protocol does (scale {moved.scale:.6g})",),
        refinement=moved,
    )


def tanks_metrics(to_truth: Distances, to_prediction: Distances, tau: float) -> dict[str, float]:
    """`f_score`, `precision` and `recall` at tau."""
    precision, recall = share_within(to_truth, tau), share_within(to_prediction, tau)
    return {"f_score": f_score(precision, recall), "precision": precision, "recall": recall}


def mesh_points(mesh: Mesh, which: str) -> Array:
    """The points (P, 3) that stand for a mesh: its vertices, then its face centres unless `which` is "vertices"."""
    if which == "vertices":
        return mesh.vertices
    return np.concatenate([mesh.vertices, mesh.vertices[mesh.faces].mean(axis=1)])


def _refined(points: Array, truth: Any, volume: Any, tau: float) -> tuple[Similarity, dict[str, float]]:
    """The similarity of the three rounds together, and the last one's facts."""
    moved, facts = Similarity.identity(), {"share": 0.0, "rms": 0.0}
    for voxel, distance in _ROUNDS:
        source = _reduced(_cropped(moved.apply(points), volume), voxel * tau)
        target = np.asarray(truth.voxel_down_sample(voxel * tau).points)
        step, facts = refine(source, target, distance=distance * tau, scale=True, iterations=_ITERATIONS)
        moved = step.compose(moved)
        get_logger().info("ICP with voxels of %g tau: rms %.3g m over %.0f %%", voxel, facts["rms"], 100 * facts["share"])
    source, target = _every(_cropped(moved.apply(points), volume)), _every(np.asarray(truth.points))
    step, facts = refine(source, target, distance=_LAST_DISTANCE * tau, scale=True, iterations=_ITERATIONS)
    return step.compose(moved), facts


def _every(points: Array) -> Array:
    """Every k-th point, so that about `_LAST_POINTS` are left."""
    return points[:: max(1, round(len(points) / _LAST_POINTS))]


def _reduced(points: Array, voxel: float) -> Array:
    return np.asarray(cloud(points).voxel_down_sample(voxel).points)


def _cropped(points: Array, volume: Any) -> Array:
    kept = np.asarray(volume.crop_point_cloud(cloud(points)).points)
    if not len(kept):
        raise EvaluationError(
            "nothing of the mesh lies in the scene's crop volume; is gt_cameras the scene's COLMAP_SfM.log, with its trans.txt?"
        )
    return kept


def _read_volume(path: Path) -> Any:
    import open3d as o3d

    if not path.is_file():
        raise EvaluationError(f"{path}: no such crop volume; it belongs beside the scan")
    with o3d.utility.VerbosityContextManager(o3d.utility.VerbosityLevel.Error):
        volume = o3d.visualization.read_selection_polygon_volume(str(path))
    if not len(volume.bounding_polygon):
        raise EvaluationError(f"{path}: not a crop volume (SelectionPolygonVolume); download it again")
    return volume
