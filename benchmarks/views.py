"""Memory of a scene with thousands of photographs: preparation, and what training on a CPU keeps of its pixels.

Makes a folder in NeuS format whose photographs are links to a few JPEG files and whose cameras stand on a sphere, with a mask each,
prepares it and draws rays from it. Reported are seconds, the most private memory at any moment (`RssAnon`, sampled; a mapped file's
pages belong to the system, which takes them back at need), and bytes of pixels in memory and in mapped files. A limit of
`--limit` GB makes more of them go to files. Linux only.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.timing import benchmark_parser
from nsr.cli import main_exit
from nsr.config import Config
from nsr.scene import spill

_KINDS = 8  # different photographs
_RAYS, _BATCHES = 8192, 100


def build_parser() -> argparse.ArgumentParser:
    """The program's options."""
    parser = benchmark_parser(__doc__)
    parser.add_argument("--views", type=int, default=2000, metavar="V", help="default 2000")
    parser.add_argument("--size", type=int, nargs=2, default=[1200, 900], metavar=("W", "H"), help="pixels; default 1200 900")
    parser.add_argument("--limit", type=float, default=spill.MEMORY_LIMIT / 1e9, metavar="GB", help="default: the package's own")
    parser.add_argument("--region", default="auto", help="how the region of interest is found; default auto: as the source says")
    parser.add_argument("--threads", type=int, default=2, help="of the preparation; default 2")
    return parser


def make_source(root: Path, views: int, width: int, height: int) -> Path:
    """A NeuS folder: a disc of texture before noise from cameras on a sphere of radius 3 around the unit ball."""
    root.mkdir()
    for name in ("image", "mask", "kinds"):
        (root / name).mkdir()
    random = np.random.default_rng(0)
    y, x = np.mgrid[:height, :width]
    focal = 1.2 * max(width, height)
    disc = np.hypot(x + 0.5 - width / 2, y + 0.5 - height / 2) < 0.3 * focal / 3
    Image.fromarray((disc * 255).astype(np.uint8)).save(root / "kinds/mask.png")
    for kind in range(_KINDS):
        coarse = Image.fromarray(random.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8))
        coarse.resize((width, height), Image.Resampling.BICUBIC).save(root / f"kinds/{kind}.jpg", quality=90)
    matrices: dict[str, np.ndarray] = {}
    for number, centre in enumerate(3.0 * _directions(views)):
        (root / f"image/{number:06d}.jpg").hardlink_to(root / f"kinds/{number % _KINDS}.jpg")
        (root / f"mask/{number:06d}.png").hardlink_to(root / "kinds/mask.png")
        K = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
        projection = np.eye(4)
        projection[:3] = K @ _look_at_origin(centre)
        matrices |= {f"world_mat_{number}": projection, f"scale_mat_{number}": np.eye(4)}
    np.savez(root / "cameras_sphere.npz", **matrices)  # type: ignore[arg-type]
    return root


def main(args: argparse.Namespace) -> None:
    """Measure and write a table."""
    import torch

    from nsr.scene.prepare import prepare, read_source
    from nsr.train.data import load_training_data

    torch.set_num_threads(args.threads)
    spill.MEMORY_LIMIT = int(args.limit * 1e9)
    out, config = sys.stdout, Config()
    config.train.use_masks, config.model.background.kind = "required", "random"
    out.write(f"{args.views} views of {args.size[0]} x {args.size[1]}, limit {args.limit:g} GB\n")
    out.write(f"{'':<10} {'seconds':>8} {'private GB':>11} {'in memory GB':>13} {'in files GB':>12}\n")
    with tempfile.TemporaryDirectory(prefix="nsr-views-") as folder:
        root = Path(folder)
        source = make_source(root / "source", args.views, *args.size)
        with _peak() as found:
            raw = read_source("neus", source)
            scene = prepare(
                raw, root / "scene", name="many/views", settings=config.prepare, region=args.region, threads=args.threads
            )
        out.write(f"{'prepare':<10} {found.seconds:8.1f} {found.gigabytes:11.2f}\n")
        out.flush()
        device, room = torch.device("cpu"), spill.Spill(root / "pixels")
        with _peak() as found:
            data = load_training_data(scene, config.model, config.train, device, room)
        kept = f"{room.in_memory / 1e9:13.2f} {room.in_files / 1e9:12.2f}"
        out.write(f"{'load':<10} {found.seconds:8.1f} {found.gigabytes:11.2f} {kept}\n")
        with _peak() as found:
            generator = torch.Generator().manual_seed(0)
            for _ in range(_BATCHES):
                data.store.sample(_RAYS, generator)
        out.write(f"{'rays':<10} {found.seconds:8.1f} {found.gigabytes:11.2f}   {_BATCHES} batches of {_RAYS}\n")


class _Peak:
    """Seconds and the most private memory of a part of the program."""

    seconds = 0.0
    gigabytes = 0.0


@contextmanager
def _peak() -> Iterator[_Peak]:
    """Samples the process's private memory 20 times a second, for as long as the block runs."""
    found, done = _Peak(), threading.Event()

    def watch() -> None:
        while not done.wait(0.05):
            lines = Path("/proc/self/status").read_text().splitlines()
            anonymous = next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))
            found.gigabytes = max(found.gigabytes, anonymous * 1024 / 1e9)

    watcher, start = threading.Thread(target=watch, daemon=True), time.perf_counter()
    watcher.start()
    try:
        yield found
    finally:
        found.seconds = time.perf_counter() - start
        done.set()
        watcher.join()


def _directions(count: int) -> np.ndarray:
    """Unit vectors (count, 3) spread evenly over the sphere (Fibonacci lattice), poles left out."""
    index = np.arange(count) + 0.5
    z = 0.9 * (1 - 2 * index / count)
    angle = np.pi * (1 + 5**0.5) * index
    ring = np.sqrt(1 - z * z)
    return np.stack([ring * np.cos(angle), ring * np.sin(angle), z], axis=1)


def _look_at_origin(centre: np.ndarray) -> np.ndarray:
    """World to camera (3, 4), OpenCV axes, of a camera that looks at the origin, z up."""
    forward = -centre / np.linalg.norm(centre)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    rotation = np.stack([right, np.cross(forward, right), forward])
    return np.concatenate([rotation, -(rotation @ centre)[:, None]], axis=1)


if __name__ == "__main__":
    main_exit(build_parser(), main)
