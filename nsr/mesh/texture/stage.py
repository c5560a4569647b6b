"""The texture stage: mesh and scene in; GLB, OBJ with material and image, PLY with vertex colours, and `texture.json` out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from nsr.config import Config, TextureConfig, section
from nsr.conventions import MASK_OBJECT, Array
from nsr.errors import DataError
from nsr.log import get_logger
from nsr.mesh.io import read_mesh, read_metric, write_ply
from nsr.mesh.metric import Metric
from nsr.mesh.surface import Mesh
from nsr.mesh.texture import files
from nsr.mesh.texture.atlas import TexturedMesh, simplified, unwrap
from nsr.mesh.texture.bake import Pixels, Shot, bake
from nsr.mesh.texture.check import draw, psnr, seam_error
from nsr.mesh.texture.frame import file_frame
from nsr.mesh.texture.photo import Pinhole
from nsr.mesh.visibility import raycasting_scene
from nsr.provenance import hash_files, manifest, write_json
from nsr.scene.images import load_view_images, load_view_masks
from nsr.scene.scene import Scene, View, load_scene

_DISTANCE_POINTS = 100_000
_FEW_SEEN = 0.1  # share of the texels under which something is probably wrong
NAMES = ("textured.glb", "textured.obj", "textured.mtl", "textured.jpg", "textured.ply", "texture.json")


def texture_stage(mesh: Path, scene: Path, out: Path, config: Config, *, threads: int = 1) -> dict[str, Any]:
    """Bake the scene's photographs onto the mesh (world frame, or a metric one that its file names) and write the files
    `NAMES` into the folder `out`.

    Returns the content of `texture.json`, which is written last: it holds how well the textured mesh reproduces each
    photograph (dB), those that were not baked apart, and the steps of colour across the texture's seams.

    Raises:
        DataError: mesh or scene cannot be read, no photograph sees the mesh, or `out` cannot be written.
    """
    start = time.perf_counter()
    if out.exists() and not out.is_dir():
        raise DataError(f"{out}: is a file where a folder is to be made; choose another --out")
    loaded, settings = load_scene(scene), config.texture
    baked = loaded.split(settings.split)
    if not baked:
        raise DataError(f"{scene}: no photograph to take colours from; set texture.split=all")
    whole, metric = read_mesh(mesh), read_metric(mesh)
    place, notes = file_frame(loaded, settings, metric)
    origin = 0.5 * (whole.vertices.min(axis=0) + whole.vertices.max(axis=0))
    surface = simplified(replace(whole, vertices=whole.vertices - origin), settings.faces)
    get_logger().info("%d of %d triangles to unwrap", len(surface.faces), len(whole.faces))
    atlas = unwrap(surface, settings.size, settings.padding)
    rays = raycasting_scene(surface.vertices, surface.faces, np.zeros(3), threads)
    loss = distance_to(rays, whole.vertices - origin, threads)
    textured, coloured, facts = bake(atlas, rays, shots_of(baked, origin), settings, threads)
    if facts["seen"] < _FEW_SEEN:
        notes.append(
            f"the photographs see only {facts['seen']:.1%} of the surface: check the mesh's orientation, place and masks"
        )
        get_logger().warning(notes[-1])
    facts |= measured(textured, rays, loaded, {view.name for view in baked}, origin, threads=threads)
    frame = "metric" if metric is not None and settings.frame == "world" else settings.frame
    facts |= {"scene": loaded.name, "frame": frame, "unit": place.unit, "world_to_file": place.similarity.to_dict()}
    facts |= {"notes": notes, "triangles": len(surface.faces)}
    scale = place.similarity.scale
    facts["simplified"] = {"from": len(whole.faces), "unit": place.unit} | {key: scale * loss[key] for key in loss}

    def leaving(part: Mesh) -> Mesh:
        return replace(part, vertices=part.vertices + origin).moved(place.similarity)

    final = TexturedMesh(replace(atlas, mesh=leaving(surface)), textured.image)
    _write(out, final, leaving(coloured), settings, facts, None if frame == "world" else place)
    facts |= {"seconds": time.perf_counter() - start, "settings": section(config, "texture")}
    facts |= {"manifest": manifest(mesh=hash_files([mesh]))}
    write_json(out / "texture.json", facts)
    get_logger().info("%s: %.1f dB on its photographs, %d charts", out, facts["psnr"] or 0.0, atlas.charts)
    return facts


def distance_to(rays: Any, points: Array, threads: int = 0) -> dict[str, float]:
    """Mean and largest distance of points (P, 3), at most some 10^5 of them, from the surface of an open3d RaycastingScene."""
    some = points[:: max(1, len(points) // _DISTANCE_POINTS)].astype(np.float32)
    distance = rays.compute_distance(some, nthreads=threads).numpy()
    return {"mean": float(distance.mean()), "max": float(distance.max())}


def shots_of(views: Sequence[View], origin: Array) -> list[Shot]:
    """The views with cameras in the world moved by -`origin`."""
    moved = np.eye(4)
    moved[:3, 3] = origin
    return [Shot(view.name, Pinhole(view.K, view.w2c @ moved, view.width, view.height), partial(_read, view)) for view in views]


def _read(view: View) -> tuple[Pixels, Pixels | None]:
    return load_view_images([view])[0], None if view.mask is None else load_view_masks([view])[0]


def measured(
    textured: TexturedMesh, rays: Any, scene: Scene, baked: set[str], origin: Array, *, threads: int = 1
) -> dict[str, Any]:
    """PSNR of the textured mesh against every photograph, inside the object's mask where there is one, and the seams' error."""
    values: dict[str, float] = {}
    for shot in shots_of(scene.views, origin):
        image, mask = shot.read()
        drawn, hit = draw(textured, rays, shot.camera, threads)
        value = psnr(drawn, image, hit if mask is None else hit & (mask == MASK_OBJECT))
        if value is not None:
            values[shot.name] = round(value, 3)
    own = [value for name, value in values.items() if name in baked]
    other = [value for name, value in values.items() if name not in baked]
    return {
        "psnr": float(np.mean(own)) if own else None,
        "psnr_held_out": float(np.mean(other)) if other else None,
        "psnr_views": values,
        "seams": seam_error(textured),
    }


def _write(
    out: Path, textured: TexturedMesh, coloured: Mesh, config: TextureConfig, facts: dict[str, Any], place: Metric | None
) -> None:
    out.mkdir(parents=True, exist_ok=True)
    (out / "texture.json").unlink(missing_ok=True)
    picture = files.jpeg(textured.image, config.quality)
    extras = {key: facts[key] for key in ("scene", "frame", "unit", "world_to_file")}
    files.write_glb(out / "textured.glb", textured, picture, extras)
    files.write_obj(out / "textured.obj", textured, picture)
    write_ply(out / "textured.ply", coloured, place)  # `read_mesh` undoes the frame, as with `mesh.ply`
