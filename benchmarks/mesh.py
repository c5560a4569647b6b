"""Extraction and cleaning of a mesh: seconds of every step, triangles, and peak memory, at several resolutions.

The distance is that of a trained model (`--model`, and `--scene` for cameras and masks), or of a shape whose surface is known,
seen by cameras all around: a sphere, a torus, or a gyroid, thin curved walls with more surface than any object has. With
`--device cpu` shapes are measured without a GPU. Steps:
  field    coarse pass and blocks near the surface     surface   marching cubes, vertices numbered and joined
  normals  six distances for each vertex               clean     region, masks, components, visibility
  colours  radiance network at the vertices            checks    of the edges: closed, manifold, oriented
  write    PLY
The first number is `field + surface + normals`: the extraction. Kernels are compiled in a run before, at resolution 64.
Memory is the most so far, so that resolutions are run in rising order: of the process (host), and of tensors (GPU).
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.timing import benchmark_parser, require_gpu
from nsr.cli import main_exit
from nsr.config import MeshConfig
from nsr.conventions import Similarity
from nsr.errors import ConfigError
from nsr.mesh.clean import mesh_facts
from nsr.mesh.cleaning import StepLog, clean_mesh
from nsr.mesh.grid import SdfFunction, sample_field
from nsr.mesh.io import write_ply
from nsr.mesh.marching_cubes import sdf_normals, surface_of
from nsr.mesh.stage import peak_memory, with_colours
from nsr.mesh.surface import Mesh
from nsr.scene.scene import Scene, View, load_scene

_STEPS = ("field", "surface", "normals", "clean", "colours", "checks", "write")


def build_parser() -> argparse.ArgumentParser:
    """The program's options."""
    parser = benchmark_parser(__doc__)
    parser.add_argument("--model", type=Path, help="model.pt of the training stage")
    parser.add_argument("--scene", type=Path, help="scene folder of the model")
    parser.add_argument("--shape", choices=list(SHAPES), default="torus", help="without a model; default torus")
    parser.add_argument("--resolution", type=int, nargs="+", default=[512, 1024, 2048], metavar="N", help="default 512 1024 2048")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="default cuda")
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="CPU threads; 0, the default: all cores")
    return parser


def sphere(points: Tensor) -> Tensor:
    """Distance from the sphere of radius 0.6."""
    return points.norm(dim=1) - 0.6


def torus(points: Tensor) -> Tensor:
    """Distance from a torus, radii 0.55 and 0.25."""
    return torch.hypot(torch.hypot(points[:, 0], points[:, 1]) - 0.55, points[:, 2]) - 0.25


def gyroid(points: Tensor) -> Tensor:
    """About the distance from a wall 0.1 thick along a gyroid with cells of size 0.7, in the ball of radius 0.8."""
    x, y, z = (points * 9.0).unbind(1)
    wall = (x.sin() * y.cos() + y.sin() * z.cos() + z.sin() * x.cos()) / 10.8
    return torch.maximum(wall.abs() - 0.05, points.norm(dim=1) - 0.8)


SHAPES: dict[str, Callable[[Tensor], Tensor]] = {"sphere": sphere, "torus": torus, "gyroid": gyroid}


def shape_scene(views: int = 24) -> Scene:
    """Cameras on a sphere around the unit ball, 800x600, without photographs."""
    K = np.array([[800.0, 0.0, 400.0], [0.0, 800.0, 300.0], [0.0, 0.0, 1.0]])
    z = 1 - (2 * np.arange(views) + 1) / views
    angle = np.pi * (1 + 5**0.5) * np.arange(views)
    positions = 3.0 * np.stack([np.sqrt(1 - z * z) * np.cos(angle), np.sqrt(1 - z * z) * np.sin(angle), z], axis=1)
    made = []
    for k, position in enumerate(positions):
        forward = -position / 3.0
        right = np.cross(forward, [0.0, 0.0, 1.0])
        right /= np.linalg.norm(right)
        w2c = np.eye(4)
        w2c[:3, :3] = np.stack([right, np.cross(forward, right), forward])
        w2c[:3, 3] = -w2c[:3, :3] @ position
        made.append(View(f"{k:03d}", Path(f"{k:03d}.png"), None, 800, 600, K, w2c))
    return Scene(Path(), "benchmark/shape", tuple(made), Similarity.identity())


def shape_model(name: str) -> Any:
    """A shape in place of a trained model: rendered everywhere, coloured by its normals."""
    occupied = torch.ones(128, 128, 128, dtype=torch.bool)
    return SimpleNamespace(sdf=SHAPES[name], colour=lambda _, normals: 0.5 * (normals + 1), occupied=occupied)


class _Clock:
    """Seconds of each step; waits for the GPU."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def run(self, step: str, work: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        result = work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds[step] = time.perf_counter() - start
        return result


def extracted(clock: _Clock, sdf: SdfFunction, resolution: int, occupied: Tensor) -> Mesh:
    """`nsr.mesh.marching_cubes.extract`, timed step by step."""
    field = clock.run("field", partial(sample_field, sdf, resolution, occupied=occupied, device=occupied.device))
    vertices, faces = clock.run("surface", partial(surface_of, field))
    normals = clock.run("normals", partial(sdf_normals, sdf, vertices, 1.0 / resolution, occupied.device))
    return Mesh(vertices, faces, normals)


def measure(trained: Any, scene: Scene, resolution: int, device: torch.device, threads: int = 0) -> tuple[dict[str, float], int]:
    """Seconds of each step, and the number of triangles extracted."""
    clock, config = _Clock(), MeshConfig(resolution=resolution)
    occupied = trained.occupied.to(device)
    mesh = extracted(clock, trained.sdf, resolution, occupied)
    options: dict[str, Any] = {"occupied": occupied.cpu().numpy(), "cap": resolution**-2.0, "device": device, "threads": threads}
    parts = clock.run("clean", lambda: clean_mesh(mesh, scene, config, StepLog(), **options))
    done = clock.run("colours", lambda: with_colours(parts.mesh, trained.colour, device))
    with tempfile.TemporaryDirectory() as folder:
        moved = done.moved(scene.similarity)
        facts = clock.run("checks", partial(mesh_facts, moved, components=parts.count))
        clock.run("write", partial(write_ply, Path(folder) / "mesh.ply", moved))
    assert facts["triangles"] == len(done.faces)
    return clock.seconds, len(mesh.faces)


def main(args: argparse.Namespace) -> None:
    """Print the table."""
    device = require_gpu() if args.device == "cuda" else torch.device("cpu")
    if (args.model is None) != (args.scene is None):
        raise ConfigError("--model and --scene belong together; give both, or neither for a shape")
    if args.threads > 0:
        torch.set_num_threads(args.threads)
    trained, scene = shape_model(args.shape), shape_scene()
    if args.model is not None:
        from nsr.train.model_file import load_model

        trained, scene = load_model(args.model, device), load_scene(args.scene)
    print(torch.cuda.get_device_name() if device.type == "cuda" else "CPU", "-", args.model or args.shape)
    heads = ("resolution", "triangles", "extract s", *(f"{step} s" for step in _STEPS), "host GB", "GPU GB")
    print("".join(f"{head:>12}" for head in heads))
    measure(trained, scene, 64, device, args.threads)
    for resolution in sorted(args.resolution):
        seconds, triangles = measure(trained, scene, resolution, device, args.threads)
        extract = seconds["field"] + seconds["surface"] + seconds["normals"]
        memory = peak_memory(device)
        numbers = [extract, *(seconds[step] for step in _STEPS), memory["host_gb"], memory["gpu_gb"]]
        print(f"{resolution:>12}{triangles:>12}" + "".join(f"{number:>12.2f}" for number in numbers), flush=True)


if __name__ == "__main__":
    main_exit(build_parser(), main)
