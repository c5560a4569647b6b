"""The two mesh stages: model and scene in, `mesh.ply` and `mesh.json` (or `tsdf.ply`, `tsdf.json`) out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nsr.config import Config, MeshConfig, section
from nsr.errors import DataError
from nsr.log import get_logger
from nsr.mesh import clean, cull
from nsr.mesh.grid import FloatArray, SdfFunction
from nsr.mesh.io import write_ply
from nsr.mesh.marching_cubes import extract
from nsr.mesh.surface import Mesh
from nsr.mesh.tsdf import DepthFrame, fuse
from nsr.mesh.visibility import cameras_of
from nsr.provenance import hash_files, manifest, write_json
from nsr.scene.scene import Scene, load_scene

ColourFunction = Callable[[FloatArray, FloatArray], FloatArray]

FRAGMENT_SHARE = 0.01  # of the largest component's area; smaller pieces left by the visibility cull are crumbs
_POINTS_AT_ONCE = 1 << 18


def mesh_stage(model: Path, scene: Path, out: Path, config: Config, *, device: str = "auto", threads: int = 0) -> dict[str, Any]:
    """Marching cubes on the model's signed distance; writes `out` (world frame) and the JSON beside it, which it returns.

    Raises:
        EmptyMesh: nothing to extract, or culling removed all; the message says which step.
    """
    start = time.perf_counter()
    _check_target(out)
    trained, where = _load(model, device, threads)
    loaded = load_scene(scene)
    sdf, colour = _numpy_functions(trained, where)
    mesh = extract(sdf, config.mesh.resolution)
    mesh, facts = clean_mesh(mesh, loaded, config.mesh, threads)
    if config.mesh.colours:
        mesh = with_colours(mesh, colour)
    facts |= {"kind": "marching-cubes", "settings": section(config, "mesh")}
    return _write(out, mesh, loaded, facts | _facts_of(trained, model, start))


def tsdf_stage(model: Path, scene: Path, out: Path, config: Config, *, device: str = "auto", threads: int = 0) -> dict[str, Any]:
    """Fusion of the model's rendered depth over all views of the scene, then the same cleaning; see `mesh_stage`."""
    start = time.perf_counter()
    _check_target(out)
    trained, _ = _load(model, device, threads)
    loaded = load_scene(scene)
    frames = _rendered_frames(trained, loaded, config.tsdf.downscale, config.tsdf.min_opacity)
    mesh = fuse(frames, config.tsdf.voxel, config.tsdf.truncation)
    mesh, facts = clean_mesh(mesh, loaded, config.mesh, threads)
    facts |= {"kind": "tsdf", "settings": section(config, "mesh", "tsdf")}
    return _write(out, mesh, loaded, facts | _facts_of(trained, model, start))


def clean_mesh(mesh: Mesh, scene: Scene, config: MeshConfig, threads: int = 0) -> tuple[Mesh, dict[str, Any]]:
    """Mask culling, largest components, visibility culling, crumbs; in the unit frame.

    The masks go first, so that what they rule out neither counts as a component nor hides the object.

    Returns:
        the cleaned mesh, and {"steps": [{"step", "triangles"}], "notes": [...]} for its JSON.

    Raises:
        EmptyMesh: a step removed the last face.
    """
    cameras = cameras_of(scene.views, scene.unit_w2c(scene.views))
    notes: list[str] = []
    mesh = clean.require_faces(clean.drop_degenerate(mesh), "extraction", "look at the training curve and prepare.region")
    steps = [{"step": "extracted", "triangles": len(mesh.faces)}]

    def done(step: str, result: Mesh, remedy: str) -> Mesh:
        steps.append({"step": step, "triangles": len(result.faces)})
        get_logger().info("%s: %d triangles left", step, len(result.faces))
        return clean.require_faces(result, step, remedy)

    if config.mask_dilation >= 0 and scene.has_masks:
        mesh = done(
            "mask culling",
            cull.cull_masked(mesh, cameras, config.mask_dilation),
            "the model's surface lies outside the object masks; look at them, raise mesh.mask_dilation, or switch off with -1",
        )
    elif config.mask_dilation >= 0:
        notes.append("no mask culling: the scene has no masks")
    mesh = done("largest components", clean.largest_components(mesh, config.components), "set mesh.components=0")
    if config.min_views > 0:
        mesh = cull.cull_unseen(mesh, cameras, config.min_views, threads)
        mesh = done("visibility culling", mesh, "no camera sees the surface; lower mesh.min_views and look at the scene's region")
        mesh = done("crumbs", clean.drop_fragments(mesh, FRAGMENT_SHARE), "set mesh.min_views=0")
    return mesh, {"steps": steps, "notes": notes}


def with_colours(mesh: Mesh, colour: ColourFunction) -> Mesh:
    """The mesh with the colours that `colour(points, normals)` (P, 3), in [0, 1], gives its vertices (unit frame)."""
    assert mesh.normals is not None
    out = np.empty((len(mesh.vertices), 3), dtype=np.uint8)
    for start in range(0, len(out), _POINTS_AT_ONCE):
        part = slice(start, start + _POINTS_AT_ONCE)
        values = colour(mesh.vertices[part].astype(np.float32), mesh.normals[part])
        out[part] = np.rint(np.clip(values, 0.0, 1.0) * 255.0)
    return Mesh(mesh.vertices, mesh.faces, mesh.normals, out)


def _check_target(out: Path) -> None:
    if out.suffix.lower() != ".ply":
        raise DataError(f"{out}: the mesh is written as PLY; give --out a name that ends in .ply")
    if out.is_dir():
        raise DataError(f"{out}: is a folder; give --out the name of a file that ends in .ply")


def _load(model: Path, device: str, threads: int) -> tuple[Any, Any]:
    import torch

    from nsr.rendering.device import pick_device
    from nsr.train.model_file import load_model

    if threads > 0:
        torch.set_num_threads(threads)
    where = pick_device(device)
    return load_model(model, where), where


def _numpy_functions(trained: Any, device: Any) -> tuple[SdfFunction, ColourFunction]:
    import torch

    def tensor(values: FloatArray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32)).to(device)

    def numpy(values: torch.Tensor) -> NDArray[np.float32]:
        return values.detach().float().cpu().numpy()

    return (
        lambda points: numpy(trained.sdf(tensor(points))),
        lambda points, normals: numpy(trained.colour(tensor(points), tensor(normals))),
    )


def _rendered_frames(trained: Any, scene: Scene, downscale: int, min_opacity: float) -> Iterator[DepthFrame]:
    from nsr.rendering.render import render_view

    for number, (view, w2c) in enumerate(zip(scene.views, scene.unit_w2c(scene.views), strict=True), start=1):
        K, width, height = view.shrunk(downscale)
        image = render_view(trained, K, w2c, width, height)
        get_logger().info("depth of view %s (%d of %d)", view.name, number, len(scene.views))
        depth = np.where(image.opacity >= min_opacity, image.depth, 0.0).astype(np.float32)
        yield DepthFrame(depth, np.asarray(image.colour, dtype=np.float32), K, w2c)


def _facts_of(trained: Any, model: Path, start: float) -> dict[str, Any]:
    return {
        "seconds": time.perf_counter() - start,
        "train": {key: trained.info.get(key) for key in ("step", "train_views")},
        "manifest": manifest(model=hash_files([model])),
    }


def _write(out: Path, mesh: Mesh, scene: Scene, facts: dict[str, Any]) -> dict[str, Any]:
    """Move the mesh to the world frame, write it and its JSON (last)."""
    world = mesh.moved(scene.similarity)
    write_ply(out, world)
    result = {"scene": scene.name, "frame": "world", "unit": scene.unit, "similarity": scene.similarity.to_dict()}
    result |= clean.mesh_facts(world) | facts
    write_json(out.with_suffix(".json"), result)
    get_logger().info("%s: %d vertices, %d triangles", out, result["vertices"], result["triangles"])
    return result
