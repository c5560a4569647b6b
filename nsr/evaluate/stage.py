"""The evaluation of a mesh, from files to files."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nsr.config import Config, section
from nsr.conventions import Similarity
from nsr.evaluate.align import Alignment, align_to_cameras
from nsr.evaluate.object_surface import PROTOCOL, VERSION, evaluate_surface
from nsr.evaluate.result import NO_ALIGNMENT, build_result, check_result_name, write_arrays, write_result
from nsr.log import get_logger
from nsr.mesh.clean import mesh_facts
from nsr.mesh.io import read_mesh, write_ply
from nsr.mesh.surface import Mesh
from nsr.mesh.visibility import Camera, cameras_of
from nsr.scene.scene import Scene, load_scene


@dataclass(frozen=True)
class MeshEvaluation:
    """What to evaluate.

    Attributes:
        mesh: mesh file in the scene's world frame. scene: prepared scene folder. out: JSON to write; arrays beside it.
        ground_truth: mesh file, None if there is none. gt_cameras: the views' cameras in the ground truth's frame, None
            if that is the scene's world frame.
        aligned: where to write the mesh in the ground truth's frame, None for nowhere.
    """

    mesh: Path
    scene: Path
    out: Path
    ground_truth: Path | None = None
    gt_cameras: Path | None = None
    aligned: Path | None = None


def evaluate_mesh_stage(job: MeshEvaluation, config: Config, threads: int = 1) -> dict[str, Any]:
    """Evaluate a mesh file by the protocol "object-surface"; writes `job.out` and its `.npz`, returns the result.

    The cameras and masks that decide what counts are the scene's own, moved into the ground truth's frame. The arrays
    are those of `nsr.evaluate.object_surface.picture_arrays`, with points in the scene's world frame.

    Raises:
        DataError: an unreadable file. EvaluationError: cameras that do not fit, or nothing to compare.
    """
    start = time.perf_counter()
    check_result_name(job.out)
    prediction, scene = read_mesh(job.mesh), load_scene(job.scene)
    alignment = align_to_cameras(scene.views, job.gt_cameras) if job.gt_cameras else None
    to_truth = alignment.similarity if alignment else Similarity.identity()
    moved = prediction.moved(to_truth)
    if job.aligned is not None:
        write_ply(job.aligned, moved)
    shared: dict[str, Any] = {
        "protocol": PROTOCOL,
        "version": VERSION,
        "settings": section(config, "evaluate"),
        "scene": scene.name,
        "alignment": alignment.to_dict() if alignment else NO_ALIGNMENT,
        "mesh": mesh_facts(prediction),
    }
    if job.ground_truth is None:
        result = build_result(**shared, metrics={}, notes=["no ground truth: nothing was compared"])
        arrays: dict[str, Any] = {}
    else:
        shared["ground_truth"] = str(job.ground_truth)
        result, arrays = _compare(job.ground_truth, moved, aligned_cameras(scene, to_truth), config, threads, shared)
        # The pictures are drawn in the scene's own frame.
        for name in ("points", "truth_points"):
            arrays[name] = to_truth.inverse().apply(arrays[name]).astype(np.float32)
        result["notes"] = alignment_notes(alignment) + result["notes"]
    result["seconds"] = time.perf_counter() - start
    write_arrays(job.out.with_suffix(".npz"), arrays)
    write_result(job.out, result)
    metrics = result["metrics"]
    get_logger().info("%s: %s", job.mesh, ", ".join(f"{k} {v:.3f}" for k, v in metrics.items()) or "no ground truth")
    return result


def aligned_cameras(scene: Scene, to_truth: Similarity) -> list[Camera]:
    """The scene's cameras and masks in the frame that `to_truth` maps its world frame to."""
    return cameras_of(scene.views, to_truth.inverse().camera_to_unit(np.stack([view.w2c for view in scene.views])))


def alignment_notes(alignment: Alignment | None) -> list[str]:
    """What the result says about frames."""
    if alignment is None:
        return ["not aligned: the scene's world frame is taken for the ground truth's"]
    share = 100.0 * alignment.rms / alignment.spread
    return [
        f"aligned to the ground truth by a similarity from {alignment.views} known cameras "
        f"(scale {alignment.similarity.scale:.6g}, rms {alignment.rms:.3g} = {share:.2g} % of the cameras' spread)"
    ]


def _compare(
    ground_truth: Path, moved: Mesh, cameras: list[Camera], config: Config, threads: int, shared: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    truth = read_mesh(ground_truth)
    found = evaluate_surface(moved, truth, cameras, config.evaluate, threads)
    result = build_result(**shared, metrics=found.metrics, notes=found.notes, unit=found.unit, counts=found.counts)
    return result, found.arrays
