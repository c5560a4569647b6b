"""The evaluation of a mesh, from files to files."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nsr.config import Config, section
from nsr.conventions import Similarity
from nsr.errors import EvaluationError
from nsr.evaluate.align import Alignment, align_to_cameras
from nsr.evaluate.icp import refine
from nsr.evaluate.protocols import DEFAULT, protocol_of
from nsr.evaluate.result import NO_ALIGNMENT, SurfaceResult, build_result, check_result_name, write_arrays, write_result
from nsr.evaluate.surface import object_radius, sample_surface
from nsr.evaluate.surface_distance import truth_sample
from nsr.log import get_logger
from nsr.mesh.clean import mesh_facts
from nsr.mesh.io import read_mesh, write_ply
from nsr.mesh.surface import Mesh
from nsr.mesh.visibility import Camera, cameras_of
from nsr.scene.scene import Scene, load_scene

ICP_POINTS = 200_000  # of each side, at most


@dataclass(frozen=True)
class MeshEvaluation:
    """What to evaluate.

    Attributes:
        mesh: mesh file in the scene's world frame. scene: prepared scene folder. out: JSON to write; arrays beside it.
        ground_truth: file that the protocol expects, None if there is none. gt_cameras: the views' cameras in the ground
            truth's frame, None if that is the scene's world frame.
        aligned: where to write the mesh in the ground truth's frame, None for nowhere.
        protocol: name of the protocol.
    """

    mesh: Path
    scene: Path
    out: Path
    ground_truth: Path | None = None
    gt_cameras: Path | None = None
    aligned: Path | None = None
    protocol: str = DEFAULT


def evaluate_mesh_stage(job: MeshEvaluation, config: Config, threads: int = 1) -> dict[str, Any]:
    """Evaluate a mesh file by a protocol; writes `job.out` and its `.npz`, returns the result.

    The cameras and masks that decide what counts are the scene's own, moved into the ground truth's frame. The arrays
    are those of `nsr.evaluate.result.SurfaceResult`, with points in the scene's world frame.

    Raises:
        DataError: an unreadable file. EvaluationError: cameras that do not fit, or nothing to compare.
    """
    start = time.perf_counter()
    check_result_name(job.out)
    protocol = protocol_of(job.protocol)
    prediction, scene = read_mesh(job.mesh), load_scene(job.scene)
    to_truth, alignment, notes = align(prediction, scene, job, config)
    moved = prediction.moved(to_truth)
    if job.aligned is not None:
        write_ply(job.aligned, moved)
    shared: dict[str, Any] = {
        "protocol": job.protocol,
        "version": protocol.version,
        "settings": section(config, "evaluate"),
        "scene": scene.name,
        "alignment": alignment,
        "mesh": mesh_facts(prediction),
    }
    if job.ground_truth is None:
        result = build_result(**shared, metrics={}, notes=["no ground truth: nothing was compared"])
        arrays: dict[str, Any] = {}
    else:
        found = protocol.evaluate(moved, job.ground_truth, aligned_cameras(scene, to_truth), config.evaluate, threads)
        notes += cull_notes(job.mesh, found)
        result, arrays = _result(found, shared, str(job.ground_truth), notes), dict(found.arrays)
        # The pictures are drawn in the scene's own frame.
        back = found.refinement.compose(to_truth).inverse()
        for name in ("points", "truth_points"):
            arrays[name] = back.apply(arrays[name]).astype(np.float32)
    result["seconds"] = time.perf_counter() - start
    write_arrays(job.out.with_suffix(".npz"), arrays)
    write_result(job.out, result)
    metrics = result["metrics"]
    get_logger().info("%s: %s", job.mesh, ", ".join(f"{k} {v:.3f}" for k, v in metrics.items()) or "no ground truth")
    return result


def align(prediction: Mesh, scene: Scene, job: MeshEvaluation, config: Config) -> tuple[Similarity, dict[str, Any], list[str]]:
    """Scene world -> ground-truth world by `evaluate.alignment`, what the result says about it, and its notes.

    Raises:
        EvaluationError: known cameras that do not fit or are asked for and not given; ICP without pairs.
    """
    kind = config.evaluate.alignment
    if kind == "cameras" and job.gt_cameras is None:
        raise EvaluationError("evaluate.alignment=cameras: there are no known cameras; give --gt-cameras (column gt_cameras)")
    cameras = align_to_cameras(scene.views, job.gt_cameras) if job.gt_cameras and kind != "none" else None
    start = cameras.similarity if cameras else Similarity.identity()
    facts, notes = cameras.to_dict() if cameras else dict(NO_ALIGNMENT), alignment_notes(cameras)
    if not kind.startswith("icp") or job.ground_truth is None:
        return start, facts, notes
    count = min(ICP_POINTS, config.evaluate.samples)
    truth = truth_sample(protocol_of(job.protocol).truth(job.ground_truth), count, config.evaluate.seed)
    radius = object_radius(Mesh(truth, np.zeros((0, 3), dtype=np.int64)))[1]
    points = start.apply(sample_surface(prediction, count, config.evaluate.seed))
    distance = config.evaluate.icp_distance * radius / 100.0
    step, found = refine(points, truth, distance=distance, scale=kind == "icp-similarity")
    whole = step.compose(start)
    names = [str(facts["kind"])] if cameras else []
    facts = (
        {"kind": "+".join([*names, kind]), "direction": "scene world -> ground-truth world"}
        | whole.to_dict()
        | {
            "rms": found["rms"],
            "icp_share": found["share"],
        }
    )
    fitted = "rotation, position and scale" if kind == "icp-similarity" else "rotation and position"
    notes.append(f"{kind}: {fitted} fitted to the ground truth, which lowers the error; not comparable with other alignments")
    return whole, facts, notes


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


def cull_notes(mesh: Path, found: SurfaceResult) -> list[str]:
    """A warning where the mesh stage has cut the mesh by masks before a protocol that does so itself in several ways."""
    try:
        done = int(json.loads(mesh.with_suffix(".json").read_text())["settings"]["mesh"]["mask_dilation"])
    except (OSError, ValueError, KeyError, TypeError):
        return []  # a mesh from elsewhere
    if not found.variants or done < 0:
        return []
    return [f"the mesh stage had cut the mesh by masks grown by {done} px: wider variants equal it; set mesh.mask_dilation=-1"]


def _result(found: SurfaceResult, shared: dict[str, Any], ground_truth: str, notes: list[str]) -> dict[str, Any]:
    more: dict[str, Any] = {"variants": found.variants} if found.variants else {}
    return build_result(
        **shared,
        metrics=found.metrics,
        notes=[*notes, *found.notes],
        ground_truth=ground_truth,
        unit=found.unit,
        counts=found.counts,
        **more,
    )
