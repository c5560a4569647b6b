"""The two mesh stages: model and scene in, `mesh.ply` and `mesh.json` (or `tsdf.ply`, `tsdf.json`) out."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nsr.config import Config, section
from nsr.errors import DataError
from nsr.job import host_peak
from nsr.log import get_logger
from nsr.mesh import clean
from nsr.mesh.cleaning import StepLog, clean_mesh
from nsr.mesh.decimate import decimate
from nsr.mesh.depth import depth_frames, scene_voxel
from nsr.mesh.io import write_ply
from nsr.mesh.marching_cubes import extract, sdf_normals
from nsr.mesh.metric import metric_of
from nsr.mesh.surface import Mesh, pieces
from nsr.mesh.topology import hole_report
from nsr.mesh.tsdf import fuse
from nsr.provenance import hash_files, manifest, write_json
from nsr.scene.scene import load_scene

ColourFunction = Callable[[Tensor, Tensor], Tensor]


def mesh_stage(model: Path, scene: Path, out: Path, config: Config, *, device: str = "auto", threads: int = 0) -> dict[str, Any]:
    """Marching cubes on the model's signed distance; writes `out` (world frame) and the JSON beside it, which it returns.

    Raises:
        EmptyMesh: nothing to extract, or culling removed all; the message says which step.
    """
    run = _Run(model, scene, out, config, device, threads)
    trained, settings = run.trained, config.mesh
    occupied = trained.occupied if settings.rendered else None
    mesh = extract(trained.sdf, settings.resolution, occupied=occupied, device=run.device)
    # Linear interpolation puts the vertices of a cut by the unit ball this far inside it.
    parts = run.cleaned(mesh, cap=1e-7 + 0.25 * (2.0 / settings.resolution) ** 2)
    mesh, facts = run.decimated(parts.mesh)
    if len(mesh.faces) < len(parts.mesh.faces):
        normals = sdf_normals(trained.sdf, mesh.vertices, 1.0 / settings.resolution, run.device)
        mesh = Mesh(mesh.vertices, mesh.faces, normals)
    if settings.colours:
        mesh = with_colours(mesh, trained.colour, run.device)
    facts |= {"kind": "marching-cubes", "settings": section(config, "mesh")}
    return run.write(mesh, parts.count, facts)


def tsdf_stage(model: Path, scene: Path, out: Path, config: Config, *, device: str = "auto", threads: int = 0) -> dict[str, Any]:
    """Fusion of the model's depth over all views of the scene, then the same cleaning; see `mesh_stage`."""
    run = _Run(model, scene, out, config, device, threads)
    voxel = config.tsdf.voxel or scene_voxel(run.scene, config.tsdf.downscale)
    seen = [0, 0]
    mesh = fuse(depth_frames(run.trained, run.scene, config.tsdf, seen), voxel, config.tsdf.truncation)
    parts = run.cleaned(mesh, cap=0.0)
    mesh, facts = run.decimated(parts.mesh)
    facts |= {"kind": "tsdf", "settings": section(config, "mesh", "tsdf"), "voxel": voxel}
    facts |= {"depth_pixels": {"solid": seen[0], "used": seen[1]}}
    return run.write(mesh, parts.count, facts)


class _Run:
    """What both stages do the same way: read, clean, decimate, write."""

    def __init__(self, model: Path, scene: Path, out: Path, config: Config, device: str, threads: int) -> None:
        self.start = time.perf_counter()
        _check_target(out)
        self.model, self.out, self.settings, self.threads = model, out, config.mesh, threads
        self.metric = metric_of(config.mesh.metric)
        self.trained, self.device = _load(model, device, threads)
        self.scene = load_scene(scene)
        self.log = StepLog()

    def cleaned(self, mesh: Mesh, cap: float) -> clean.Parts:
        """The cleaned mesh and its components."""
        occupied = self.trained.occupied.cpu().numpy()
        return clean_mesh(
            mesh, self.scene, self.settings, self.log, occupied=occupied, cap=cap, device=self.device, threads=self.threads
        )

    def decimated(self, mesh: Mesh) -> tuple[Mesh, dict[str, Any]]:
        """The mesh with the wanted number of triangles, and the record of all steps with the error that this made."""
        facts: dict[str, Any] = {}
        if 0 < self.settings.triangles < len(mesh.faces):
            # The region's radius is 1 in the unit frame.
            mesh, found = decimate(mesh, self.settings.triangles, self.settings.max_error / 100.0, self.threads)
            scale = self.scene.similarity.scale * (self.metric.similarity.scale if self.metric else 1.0)
            errors = {key: found[key] * scale for key in ("max_error", "mean_error")}
            facts["decimation"] = {**found, **errors}
            if found["after"] == found["before"]:
                self.log.notes.append("not decimated: no smaller mesh keeps within mesh.max_error")
            self.log.done("decimation", mesh, "raise mesh.triangles")
        return mesh, facts | {"steps": self.log.steps, "notes": self.log.notes}

    def write(self, mesh: Mesh, components: int, facts: dict[str, Any]) -> dict[str, Any]:
        """Move the mesh to the world or metric frame, write it and its JSON (last)."""
        world = self.scene.similarity
        frame = world if self.metric is None else self.metric.similarity.compose(world)
        moved = mesh.moved(frame)
        write_ply(self.out, moved, self.metric)
        where = {"scene": self.scene.name, "similarity": world.to_dict()}
        if self.metric is None:
            where |= {"frame": "world", "unit": self.scene.unit}
        else:
            where |= {"frame": "metric", "unit": self.metric.unit, "metric": self.metric.to_dict()}
        result = where | clean.mesh_facts(moved, components=components)
        if self.settings.holes:
            result["holes"] = hole_report(moved)
        result |= facts | {
            "seconds": time.perf_counter() - self.start,
            "memory": peak_memory(self.device),
            "train": {key: self.trained.info.get(key) for key in ("step", "train_views")},
            "manifest": manifest(model=hash_files([self.model])),
        }
        write_json(self.out.with_suffix(".json"), result)
        get_logger().info("%s: %d vertices, %d triangles", self.out, result["vertices"], result["triangles"])
        return result


def with_colours(mesh: Mesh, colour: ColourFunction, device: torch.device | str = "cpu") -> Mesh:
    """The mesh with the colours that `colour(points, normals)` (P, 3), in [0, 1], gives its vertices (unit frame)."""
    assert mesh.normals is not None
    out = np.empty((len(mesh.vertices), 3), dtype=np.uint8)
    for part in pieces(len(out)):
        points, normals = (torch.from_numpy(field[part]).float().to(device) for field in (mesh.vertices, mesh.normals))
        out[part] = (colour(points, normals).clamp(0, 1) * 255.0).round().byte().cpu().numpy()
    return Mesh(mesh.vertices, mesh.faces, mesh.normals, out)


def peak_memory(device: torch.device | str) -> dict[str, float]:
    """Most memory that this process had so far, GB (1e9 bytes): of the host, and of tensors on a GPU (0 without)."""
    host = host_peak() / 1e9
    on_gpu = torch.cuda.is_available() and torch.device(device).type == "cuda"
    return {"host_gb": round(host, 3), "gpu_gb": round(torch.cuda.max_memory_allocated(device) / 1e9, 3) if on_gpu else 0.0}


def _check_target(out: Path) -> None:
    if out.suffix.lower() != ".ply":
        raise DataError(f"{out}: the mesh is written as PLY; give --out a name that ends in .ply")
    if out.is_dir():
        raise DataError(f"{out}: is a folder; give --out the name of a file that ends in .ply")


def _load(model: Path, device: str, threads: int) -> tuple[Any, Any]:
    from nsr.rendering.device import pick_device
    from nsr.train.model_file import load_model

    if threads > 0:
        torch.set_num_threads(threads)
    where = pick_device(device)
    return load_model(model, where), where
