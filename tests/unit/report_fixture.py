"""A small invented run folder in the layout that the stages write: a sphere of radius 0.5 in a world ten times the unit frame."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import trimesh
from PIL import Image

from nsr.conventions import Similarity
from nsr.scene.scene import Scene, View, load_scene, save_scene, with_held_out
from tests.unit.look_at import look_at

SCALE, SHIFT, RADIUS = 10.0, np.array([3.0, -2.0, 100.0]), 0.5
METRICS = {
    "chamfer": 0.7512345678,
    "accuracy": 0.8,
    "completeness": 0.7024691356,
    "f_0.5": 0.41,
    "f_1.0": 0.9,
    "chamfer_world": 0.0358,
}
VIEW_METRICS = {"psnr": 27.123456, "ssim": 0.91, "psnr_masked": 21.5}


def make_scene(folder: Path, name: str, views: int = 8) -> Scene:
    """Save a scene of `views` grey 80x60 photographs on a ring, every fourth view held out."""
    similarity = Similarity(SCALE, np.eye(3), SHIFT)
    (folder / "images").mkdir(parents=True)
    made = []
    for i in range(views):
        angle = 2 * np.pi * i / views
        unit = look_at(np.array([2.5 * np.cos(angle), 2.5 * np.sin(angle), 1.0]))
        world = np.eye(4)  # x_cam = R x_unit + t in unit lengths, times SCALE in world lengths
        world[:3, :3] = unit[:3, :3]
        world[:3, 3] = SCALE * unit[:3, 3] - unit[:3, :3] @ SHIFT
        image = folder / "images" / f"{i:04d}.jpg"
        Image.fromarray(np.full((60, 80, 3), 40 + 20 * i, np.uint8)).save(image)
        K = np.array([[90.0, 0, 40], [0, 90.0, 30], [0, 0, 1]])
        made.append(View(f"{i:04d}", image, None, 80, 60, K, world))
    scene = Scene(
        folder, name, with_held_out(made, 4), similarity, unit="mm", region_source="masks", notes=("two photos skipped",)
    )
    save_scene(scene)
    return scene


def make_run(
    results: Path,
    dataset: str = "demo",
    scene: str = "ball",
    method: str = "neus",
    train_on_all: bool = False,
    chamfer: float = METRICS["chamfer"],
) -> Path:
    """Write a complete run and return the method's folder; the ground truth lies at `results/truth.ply`."""
    root = results / dataset / scene / "scene"
    prepared = load_scene(root) if root.is_dir() else make_scene(root, f"{dataset}/{scene}")
    folder = results / dataset / scene / method
    (folder / "render").mkdir(parents=True)
    (folder / "evaluate").mkdir()
    sphere = trimesh.creation.icosphere(subdivisions=3, radius=RADIUS * SCALE)
    sphere.apply_translation(SHIFT)
    sphere.export(results / "truth.ply")
    held_out = [v.name for v in prepared.split("held_out")]
    trained = [v.name for v in prepared.split("all" if train_on_all else "train")]
    for kind, grow in (("mesh", 1.02), ("tsdf", 0.97)):
        surface = trimesh.creation.icosphere(subdivisions=3, radius=RADIUS * SCALE * grow)
        surface.apply_translation(SHIFT)
        surface.export(folder / f"{kind}.ply")
        steps = [{"step": "extracted", "triangles": 1600}, {"step": "crumbs", "triangles": len(surface.faces)}]
        extraction = {"triangles": len(surface.faces), "steps": steps, "notes": ["no mask culling: the scene has no masks"]}
        write(folder / f"{kind}.json", extraction)
        samples = trimesh.sample.sample_surface(surface, 4000, seed=0)[0]
        upper = samples[samples[:, 2] > SHIFT[2] - 0.3 * SCALE]  # the lowest part was not evaluated
        arrays = {"points": upper, "errors": np.linspace(0, 2.5, len(upper))}
        arrays |= {"truth_points": sphere.vertices, "truth_errors": np.zeros(len(sphere.vertices))}
        np.savez_compressed(
            folder / "evaluate" / f"{kind}.npz", **{key: value.astype(np.float32) for key, value in arrays.items()}
        )
        evaluation = {
            "protocol": "object-surface",
            "version": 1,
            "settings": {"min_views": 2, "mask_dilation": 12, "visible_only": True},
            "metrics": {**METRICS, "chamfer": chamfer if kind == "mesh" else 1.25},
            "alignment": {"kind": "none", "scale": 1.0, "rms": 0.0},
            "counts": {"prediction_sampled": 20000, "prediction_in_silhouettes": 19000, "prediction": 17500},
            "unit": {
                "name": "percent of the object radius",
                "object_radius": 5.0,
                "object_centre": SHIFT.tolist(),
                "percent": 0.05,
            },
            "notes": ["ground truth seen by two cameras only"],
        }
        write(folder / "evaluate" / f"{kind}.json", evaluation)
    write(
        folder / "train.json",
        {
            "scene": f"{dataset}/{scene}",
            "steps": 2000,
            "seconds": 61.25,
            "samples_per_second": 1.5e6,
            "device": "cpu",
            "peak_memory_mb": 812.5,
            "psnr_train": 30.5,
            "train_views": trained,
            "settings": {"train": {"seed": 42, "steps": 2000}},
            "manifest": {"versions": {"nsr": "0.1.0", "torch": "2.13.0"}, "date": "2026-01-02T03:04:05Z"},
        },
    )
    rows = [
        {
            "step": s,
            "seconds": s / 30,
            "loss": 0.3 * 0.998**s + 0.01,
            "psnr": 30 - 18 * 0.998**s,
            "eikonal": 0.05,
            "sharpness": 20 + s / 5,
        }
        for s in range(50, 2001, 50)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write(folder / "render" / "render.json", {"views": {name: {"seen_in_training": name in trained} for name in held_out}})
    for name in held_out:
        Image.fromarray(np.full((60, 80, 3), 90, np.uint8)).save(folder / "render" / f"{name}.png")
        Image.fromarray(np.full((60, 80, 3), 128, np.uint8)).save(folder / "render" / f"{name}_normal.png")
        depth = np.zeros((60, 80), np.float32)
        depth[10:50, 20:60] = np.linspace(2, 3, 40)
        np.savez_compressed(folder / "render" / f"{name}_depth.npz", depth=depth)
    views = {"protocol": "held-out-views", "version": 1, "views": "held_out", "metrics": VIEW_METRICS, "notes": []}
    write(folder / "evaluate" / "views.json", {**views, "per_view": {name: VIEW_METRICS for name in held_out}})
    return folder


def textured_sphere(subdivisions: int = 3) -> trimesh.Trimesh:
    """The run's sphere with a texture, world frame: two charts (upper half red, lower blue) side by side in the picture."""
    sphere = trimesh.creation.icosphere(subdivisions=subdivisions, radius=RADIUS * SCALE)
    upper = sphere.triangles_center[:, 2] > 0
    vertices, faces, uv = [], [], []
    for side, keep in enumerate((upper, ~upper)):
        used, index = np.unique(sphere.faces[keep], return_inverse=True)
        faces.append(index.reshape(-1, 3) + sum(map(len, vertices)))
        vertices.append(sphere.vertices[used])
        flat = sphere.vertices[used, :2] / (RADIUS * SCALE)
        uv.append(np.stack([0.25 + 0.5 * side + 0.22 * flat[:, 0], 0.5 + 0.44 * flat[:, 1]], axis=1))
    picture = np.zeros((128, 256, 3), np.uint8)
    picture[:, :128], picture[:, 128:] = (200, 60, 60), (60, 60, 200)
    material = trimesh.visual.material.PBRMaterial(baseColorTexture=Image.fromarray(picture))
    visual = trimesh.visual.TextureVisuals(uv=np.concatenate(uv), material=material)
    made = trimesh.Trimesh(np.concatenate(vertices), np.concatenate(faces), visual=visual, process=False)
    made.apply_translation(SHIFT)
    return made


def make_textured(folder: Path, to_file: Similarity | None = None) -> None:
    """Write `texture/` with the GLB and its facts into a method's folder, in the world frame or in the one that `to_file` maps it to."""
    sphere, place = textured_sphere(), to_file or Similarity.identity()
    sphere.vertices = place.apply(sphere.vertices)
    (folder / "texture").mkdir()
    sphere.export(folder / "texture" / "textured.glb", include_normals=False)
    facts = {"frame": "gltf" if to_file else "world", "world_to_file": place.to_dict(), "triangles": len(sphere.faces)}
    write(folder / "texture" / "texture.json", {**facts, "notes": ["colours of eight photographs"]})


def write(path: Path, data: object) -> None:
    """Write JSON."""
    path.write_text(json.dumps(data))


def write_runs(path: Path, *names: tuple[str, str, str], **extra: str) -> Path:
    """Write a runs file of (dataset, scene, method) triples, each with the same extra keys."""
    write(path, [{"dataset": d, "scene": s, "method": m, **extra} for d, s, m in names])
    return path
