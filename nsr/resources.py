"""Memory and time that a stage's job asks a scheduler for: from the number and size of a scene's photographs and from its settings.

The figures are what was measured (docs/results.md, docs/textures.md, docs/reliability.md), rounded up, with room for slower machines. They
decide which machines a job may run on and when it is ended, never what it computes; a job that was ended asks for more.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from nsr.config import Config
from nsr.manifest import PHOTOS, SceneRow, source_files

# Photographs beside these belong to no view of their own.
_BESIDE = ("mask", "depth", "normal", "alpha")
_UNREAD = (4000, 3000)  # px, of a photograph whose header cannot be read


@dataclass(frozen=True)
class SceneSize:
    """Photographs of a scene as its source holds them."""

    views: int
    width: int  # px, of the first one
    height: int

    def megapixels(self, longest: int = 0) -> float:
        """Millions of pixels of one photograph, once it is shrunk to a longest side (px; 0: as it is)."""
        factor = min(1.0, longest / max(self.width, self.height)) if longest > 0 else 1.0
        return self.width * self.height * factor**2 / 1e6


@dataclass(frozen=True)
class Demand:
    """What a job asks for at its first attempt."""

    memory: int  # MB of the host
    minutes: int

    def at(self, attempt: int) -> Demand:
        """The same at a later attempt (1 is the first): as many times as much, because the job may have been too large."""
        return Demand(self.memory * attempt, self.minutes * attempt)


@cache
def scene_size(row: SceneRow) -> SceneSize:
    """Number of photographs and size of the first; only its header is read."""
    photographs = [path for path in map(Path, source_files(row, masks=False)) if _is_view(path, Path(row.source))]
    width, height = _size(photographs[0]) if photographs else _UNREAD
    return SceneSize(max(len(photographs), 1), width, height)


def demand(stage: str, size: SceneSize, config: Config) -> Demand:
    """What a job of a stage asks for.

    Args:
        stage: name of the rule, of one scene or run.
        size: the scene's photographs. config: its settings.

    Raises:
        KeyError: the stage has no estimate.
    """
    memory, seconds = _STAGES[stage](size, config)
    return Demand(math.ceil(memory / 500) * 500, math.ceil(seconds / 60 / 10) * 10)


def report_demand(runs: int) -> Demand:
    """What the report over a number of runs (scene and method) asks for."""
    return Demand(4000 + 20 * runs, 30 + runs)


def _is_view(path: Path, source: Path) -> bool:
    """Whether a file of a source is a photograph, not one of a mask, of depth and the like."""
    names = path.relative_to(source).as_posix().lower() if path.is_relative_to(source) else path.name.lower()
    return path.suffix.lower() in PHOTOS and not any(word in names for word in _BESIDE)


def _size(path: Path) -> tuple[int, int]:
    from PIL import Image

    try:
        with Image.open(path) as image:
            return image.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return _UNREAD  # the stage that reads it says what is wrong


def _prepared(size: SceneSize, config: Config) -> float:
    """Megapixels of a prepared view."""
    return size.megapixels(config.prepare.max_size)


def _sfm(size: SceneSize, config: Config) -> tuple[float, float]:
    # 50 photographs, exhaustively matched: 2 s of a core for a photograph's features, 0.15 s for a pair, on 8 cores; 1.3 GB.
    pairs = size.views * (size.views - 1) / 2 if config.sfm.matcher == "exhaustive" else 20.0 * size.views
    photograph = size.megapixels(config.sfm.max_image_size)
    return 4000 + 10 * size.views + 1000 * photograph + 200 * size.megapixels(), 1800 + 20 * size.views + 0.06 * pairs


def _prepare(size: SceneSize, config: Config) -> tuple[float, float]:
    # 2000 photographs of 1.08 MP: 0.14 s and one byte a pixel, of masks; four are decoded at a time.
    return 2000 + size.views * _prepared(size, config) + 250 * size.megapixels(), 1200 + 0.5 * size.views * size.megapixels()


def _preflight(size: SceneSize, config: Config) -> tuple[float, float]:
    # Every photograph is decoded once, every mask projected into a lattice.
    return 3000 + 250 * _prepared(size, config), 600 + size.views * _prepared(size, config)


def _triangulate(size: SceneSize, config: Config) -> tuple[float, float]:
    photograph = min(_prepared(size, config), size.megapixels(config.triangulate.max_image_size))
    return 4000 + 10 * size.views + 1000 * photograph, 1200 + (5 + config.triangulate.neighbours) * size.views


def _train(size: SceneSize, config: Config) -> tuple[float, float]:
    # Pixels beyond 4 GB lie in mapped files. A step takes 2 to 34 ms on an H100 and 0.15 s of the demo's on two cores.
    pixels = 4.0 * size.views * _prepared(size, config)
    steps = config.train.steps * config.train.members
    return 6000 + min(pixels, 8000), 1200 + 0.2 * size.views * _prepared(size, config) + 0.25 * steps


def _surface(config: Config) -> float:
    """MB of a mesh and its copies; they go with the square of the resolution, 10.6 million triangles at 2048."""
    return 8000 * (config.mesh.resolution / 2048) ** 2


def _rendering(views: float, megapixels: float, downscale: int, members: int) -> float:
    """Seconds to render views: 20 s a megapixel for each field, some hundred times what a GPU needs."""
    return 20 * members * views * megapixels / downscale**2


def _mesh(size: SceneSize, config: Config) -> tuple[float, float]:
    # Culling and cleaning look at the mesh from every view, decimation takes 20 us a triangle.
    return 6000 + _surface(config) + size.views * _prepared(size, config), 1800 + 2 * size.views + 0.3 * _surface(config)


def _tsdf(size: SceneSize, config: Config) -> tuple[float, float]:
    views, megapixels = size.views, _prepared(size, config)
    rendering = _rendering(views, megapixels, config.tsdf.downscale, config.train.members)
    return 8000 + views * megapixels, 1800 + 2 * views + rendering


def _render(size: SceneSize, config: Config) -> tuple[float, float]:
    return 6000 + 200 * _prepared(size, config), 1200 + _rendering(
        _rendered(size, config), _prepared(size, config), config.render.downscale, config.train.members
    )


def _rendered(size: SceneSize, config: Config) -> int:
    every = config.prepare.holdout_every
    held_out = math.ceil(size.views / every) if every > 0 else 0
    return {"held_out": held_out, "train": size.views - held_out, "all": size.views}[config.render.views]


def _texture(size: SceneSize, config: Config) -> tuple[float, float]:
    # 4096 texels a side, 200 000 triangles, 56 photographs: 142 s of a core and 2.1 GB.
    texels = config.texture.size**2 / 1e6
    faces = config.texture.faces or 2 * _surface(config) * 1300
    return 3000 + 150 * texels + 3 * size.views * _prepared(size, config), 1200 + 5 * size.views + 0.001 * faces + 10 * texels


def _evaluate_mesh(size: SceneSize, config: Config) -> tuple[float, float]:
    return 6000 + _surface(config) + size.views * _prepared(size, config), 1800 + 5 * size.views + 0.3 * _surface(config)


def _evaluate_views(size: SceneSize, config: Config) -> tuple[float, float]:
    return 3000 + 300 * _prepared(size, config), 1200 + 5 * _rendered(size, config) * _prepared(size, config)


_STAGES: dict[str, Callable[[SceneSize, Config], tuple[float, float]]] = {
    "sfm": _sfm,
    "prepare": _prepare,
    "preflight": _preflight,
    "triangulate": _triangulate,
    "train": _train,
    "mesh": _mesh,
    "tsdf": _tsdf,
    "texture": _texture,
    "render": _render,
    "evaluate_mesh": _evaluate_mesh,
    "evaluate_views": _evaluate_views,
}
