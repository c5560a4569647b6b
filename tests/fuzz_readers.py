"""A valid file of every kind that the package reads, and its reader, for `tests.fuzz`."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing import Pipe, get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from PIL import Image

from nsr.errors import NsrError
from tests import fuzz_results as results
from tests.unit.dataset_writers import (
    make_views,
    write_blender,
    write_colmap_binary,
    write_colmap_text,
    write_nerfstudio,
    write_neus,
)


@dataclass(frozen=True)
class Reader:
    """A kind of input. Attributes: make, writes a valid one into a folder and names the files to damage; read, reads it."""

    make: Callable[[Path], list[Path]]
    read: Callable[[Path], Any]


def _picture(suffix: str) -> Callable[[Path], list[Path]]:
    def make(folder: Path) -> list[Path]:
        pixels = np.random.default_rng(0).integers(0, 256, (12, 16, 4 if suffix == ".png" else 3), dtype=np.uint8)
        exif = Image.Exif()
        exif[0x0112] = 1
        exif.get_ifd(0x8769)[0xA405] = 35
        Image.fromarray(pixels).save(folder / f"a{suffix}", exif=exif)
        return [folder / f"a{suffix}"]

    return make


def _read_picture(folder: Path) -> None:
    from nsr.data.files import read_header
    from nsr.scene.images import load_image, load_mask, load_rgba

    path = next(folder.iterdir())
    failed = []
    for read in (
        (read_header, load_image, load_mask, load_rgba) if path.suffix == ".png" else (read_header, load_image, load_mask)
    ):
        try:
            read(path)
        except NsrError as error:
            failed.append(error)
    if failed:
        raise failed[0]


def _photos(folder: Path) -> list[Path]:
    for name in "abc":
        (folder / name).mkdir(exist_ok=True)
        os.replace(_picture(".jpg")(folder / name)[0], folder / f"{name}.jpg")
        (folder / name).rmdir()
    return [folder / "b.jpg"]


def _read_photos(folder: Path) -> None:
    from nsr.data.photos import check_pixels, read_photos

    check_pixels(read_photos(folder))


def _dataset(write: Callable[..., Any], *patterns: str) -> Callable[[Path], list[Path]]:
    def make(folder: Path) -> list[Path]:
        write(folder / "source", make_views(3))
        return sorted(path for pattern in patterns for path in (folder / "source").rglob(pattern))

    return make


def _read_dataset(kind: str) -> Callable[[Path], Any]:
    def read(folder: Path) -> Any:
        from nsr.scene.prepare import read_source

        return read_source(kind, folder / "source")

    return read


def _scene(*names: str) -> Callable[[Path], list[Path]]:
    def make(folder: Path) -> list[Path]:
        from nsr.config import PrepareConfig
        from nsr.scene.prepare import prepare, read_source

        write_colmap_text(folder / "source", make_views(6))
        raw = read_source("colmap", folder / "source")
        prepare(raw, folder / "scene", name="a/b", settings=PrepareConfig(), region="0.3,-0.2,0.5,1.5")
        return [folder / "scene" / name for name in names]

    return make


def _read_scene(folder: Path) -> Any:
    from nsr.scene.scene import load_scene

    return load_scene(folder / "scene")


def _model(folder: Path) -> list[Path]:
    import torch

    from nsr.config import Config
    from nsr.conventions import Similarity
    from nsr.fields.model import SurfaceModel
    from nsr.train.model_file import save_model

    config = Config()
    config.model.encoding.levels, config.model.encoding.log2_table, config.model.background.kind = 2, 4, "white"
    model = SurfaceModel(config.model, torch.Generator().manual_seed(0), "reference")
    info = {"step": 1, "train_views": ["a"], "masked": False, "scene": "a/b", "device": "cpu"}
    occupied = torch.ones((4, 4, 4), dtype=torch.bool)
    save_model(folder / "model.pt", model, occupied, Similarity.identity(), config.train, info)
    return [folder / "model.pt"]


def _read_model(folder: Path) -> Any:
    import torch

    from nsr.train.model_file import load_model

    return load_model(folder / "model.pt", torch.device("cpu"))


def _mesh(suffix: str) -> Callable[[Path], list[Path]]:
    def make(folder: Path) -> list[Path]:
        import trimesh

        trimesh.creation.icosphere(subdivisions=1).export(folder / f"a{suffix}")
        return [folder / f"a{suffix}"]

    return make


def _read_mesh(folder: Path) -> Any:
    from nsr.mesh.io import read_mesh

    return read_mesh(next(folder.glob("a.*")))


def _read_points(folder: Path) -> Any:
    from nsr.evaluate.points import read_points

    return read_points(folder / "a.ply")


def _dtu(folder: Path) -> list[Path]:
    from tests.unit.dtu_files import write_scan

    write_scan(folder, points=200)
    return sorted((folder / "ObsMask").glob("*.mat"))


def _read_dtu(folder: Path) -> Any:
    from nsr.evaluate import matlab
    from nsr.evaluate.dtu import read_dtu

    with patch.object(matlab, "run_reader", _MatlabWorker.run):
        return read_dtu(next(folder.rglob("stl*_total.ply")))


class _MatlabWorker:
    """`nsr.evaluate.matlab.run_reader` in one process for many files, exchanged when it dies: an interpreter takes half a second."""

    ours: Connection | None = None

    @classmethod
    def run(cls, path: Path, names: Sequence[str]) -> tuple[int, bytes, str]:
        if cls.ours is None:
            cls.ours, theirs = Pipe()
            get_context("fork").Process(target=cls.work, args=(cls.ours, theirs), daemon=True).start()
            theirs.close()
        try:
            cls.ours.send((path, names))
            return cls.ours.recv()
        except (EOFError, OSError):
            cls.ours = None
            return -signal.SIGSEGV, b"", ""

    @staticmethod
    def work(ours: Connection, theirs: Connection) -> None:
        """The process: goes when its parent goes."""
        from nsr.evaluate import matlab

        ours.close()
        while True:
            try:
                theirs.send((0, matlab.convert(*theirs.recv()), ""))
            except EOFError:
                return
            except Exception as error:
                theirs.send((1, b"", str(error)))


def _text(name: str, content: str) -> Callable[[Path], list[Path]]:
    def make(folder: Path) -> list[Path]:
        (folder / name).write_text(content)
        return [folder / name]

    return make


def _read_trajectory(folder: Path) -> Any:
    from nsr.evaluate.align import read_trajectory_centres

    return read_trajectory_centres(folder / "a.log")


def _read_similarity(folder: Path) -> Any:
    from nsr.mesh.metric import read_similarity

    return read_similarity(next(folder.glob("a.*")))


def _read_manifest(folder: Path) -> Any:
    from nsr.manifest import read_manifest

    return read_manifest(folder / "scenes.tsv")


def _read_config(folder: Path) -> Any:
    from nsr.config import resolve

    return resolve([folder / "a.yaml"])


_EYE = "1 0 0 0\n0 1 0 0\n0 0 1 0\n0 0 0 1\n"
_ROWS = "dataset\tscene\tsource\tformat\tregion\toverrides\nd\ts\t.\tneus\t0,0,0,1\tmesh.resolution=64\nd\tt\t.\tphotos\tauto\t\n"
_SETTINGS = "mesh: {resolution: 64, box: [0, 0, 0, 1, 1, 1]}\ntrain:\n  loss: {mask: [[0, 1], [10, 0.5]]}\n  split: all\n"

READERS = {
    "png": Reader(_picture(".png"), _read_picture),
    "jpeg": Reader(_picture(".jpg"), _read_picture),
    "photos": Reader(_photos, _read_photos),
    "neus": Reader(_dataset(write_neus, "*.npz"), _read_dataset("neus")),
    "blender": Reader(_dataset(write_blender, "*.json"), _read_dataset("blender")),
    "nerfstudio": Reader(_dataset(write_nerfstudio, "*.json"), _read_dataset("nerfstudio")),
    "colmap-text": Reader(_dataset(write_colmap_text, "*.txt"), _read_dataset("colmap")),
    "colmap-binary": Reader(_dataset(write_colmap_binary, "*.bin"), _read_dataset("colmap")),
    "scene": Reader(_scene("scene.json"), _read_scene),
    "scene-points": Reader(_scene("points.npz"), _read_scene),
    "model": Reader(_model, _read_model),
    "ply": Reader(_mesh(".ply"), _read_mesh),
    "obj": Reader(_mesh(".obj"), _read_mesh),
    "stl": Reader(_mesh(".stl"), _read_mesh),
    "off": Reader(_mesh(".off"), _read_mesh),
    "glb": Reader(_mesh(".glb"), _read_mesh),
    "point-cloud": Reader(_mesh(".ply"), _read_points),
    "dtu": Reader(_dtu, _read_dtu),
    "trajectory": Reader(_text("a.log", ("0 0 0\n" + _EYE) * 3), _read_trajectory),
    "similarity-text": Reader(_text("a.txt", _EYE), _read_similarity),
    "similarity-json": Reader(
        _text("a.json", json.dumps({"scale": 2, "R": np.eye(3).tolist(), "t": [0, 0, 1]})), _read_similarity
    ),
    "manifest": Reader(_text("scenes.tsv", _ROWS), _read_manifest),
    "config": Reader(_text("a.yaml", _SETTINGS), _read_config),
    "golden": Reader(_text("golden.tsv", results.GOLDEN), results.read_golden),
    "golden-result": Reader(results.make_checked, results.read_checked),
    "ablation": Reader(_text("ablation.yaml", results.ABLATION), results.read_ablation),
    "published": Reader(_text("d.tsv", results.PUBLISHED), results.read_published),
    "summary": Reader(_text("summary.tsv", results.SUMMARY), results.read_summary),
    "runs": Reader(results.make_runs, results.read_runs),
    "stages": Reader(results.make_stages, results.read_collected),
    "metrics": Reader(results.make_metrics, results.read_collected),
    "logs": Reader(results.make_logs, results.read_logged),
    "render-json": Reader(results.make_rendered("render.json"), results.read_rendered),
    "render-views": Reader(results.make_rendered("*.png", "*.npz"), results.read_rendered),
    "checkpoint": Reader(results.make_checkpoint, results.read_checkpoint),
}
