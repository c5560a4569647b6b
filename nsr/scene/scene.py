"""The one scene format that every later stage reads: `scene.json` beside `images/`, `masks/` and `points.npz`.

`scene.json` holds cameras, the split and the similarity world <-> unit; paths inside it are relative to its folder, so
a scene folder can be moved or copied to another machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from nsr.conventions import Array, Similarity
from nsr.data.arrays import read_npz
from nsr.data.files import inside
from nsr.data.raw import Points
from nsr.errors import DataError
from nsr.provenance import parse_json, whole_file, write_json

FORMAT_VERSION = 1
SCENE_FILE = "scene.json"
POINTS_FILE = "points.npz"


@dataclass(frozen=True)
class View:
    """One undistorted photograph.

    Attributes:
        name: unique in the scene. image: its file. mask: its mask file (values of `nsr.conventions`), None if there is none.
        width, height: pixels. K: (3, 3) pixels. w2c: (4, 4) world to camera.
        held_out: kept for the evaluation of novel views; trained on only with `split: all`.
    """

    name: str
    image: Path
    mask: Path | None
    width: int
    height: int
    K: Array
    w2c: Array
    held_out: bool = False

    def shrunk(self, downscale: int) -> tuple[Array, int, int]:
        """`K` (3, 3), width and height of the image `downscale` times smaller, at least one pixel; the field of view stays."""
        width, height = max(1, self.width // downscale), max(1, self.height // downscale)
        return np.diag([width / self.width, height / self.height, 1.0]) @ self.K, width, height


@dataclass(frozen=True)
class Scene:
    """A prepared scene.

    Attributes:
        root: its folder. name: "dataset/scene". views: in name order. points: sparse points or None.
        similarity: unit -> world. unit: name of the world unit.
        region_source: how the region of interest was found ("format", "masks", "points", "cameras", "manifest").
        notes: warnings of the preparation, to be shown in the report.
    """

    root: Path
    name: str
    views: tuple[View, ...]
    similarity: Similarity
    points: Points | None = None
    unit: str = "unknown"
    region_source: str = "cameras"
    notes: tuple[str, ...] = ()

    @property
    def has_masks(self) -> bool:
        """Whether every view has a mask."""
        return all(view.mask is not None for view in self.views)

    def split(self, which: Literal["train", "held_out", "all"]) -> tuple[View, ...]:
        """The views of one side of the split, in name order."""
        if which == "all":
            return self.views
        return tuple(view for view in self.views if view.held_out == (which == "held_out"))

    def unit_w2c(self, views: Sequence[View]) -> Array:
        """Unit-frame world-to-camera matrices (V, 4, 4) of the given views."""
        return self.similarity.camera_to_unit(np.stack([view.w2c for view in views]))

    def sightings(self, views: Sequence[View]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Each time one of the given views sees a sparse point: rows (O,) of the points and places (O,) in `views`, point by point."""
        assert self.points is not None
        place = {view.name: index for index, view in enumerate(views)}
        seer = np.array([place.get(view.name, -1) for view in self.views], dtype=np.int64)[self.points.views]
        owner = np.repeat(np.arange(len(self.points.xyz)), np.diff(self.points.offsets))
        return owner[seer >= 0], seer[seer >= 0]


def save_scene(scene: Scene) -> None:
    """Write `scene.json` and `points.npz` into `scene.root`; `scene.json` comes last and atomically."""
    if scene.points is not None:
        save_points(scene.points, scene.root / POINTS_FILE)
    data = {
        "version": FORMAT_VERSION,
        "name": scene.name,
        "unit": scene.unit,
        "region_source": scene.region_source,
        "similarity": scene.similarity.to_dict(),
        "notes": list(scene.notes),
        "points": None if scene.points is None else POINTS_FILE,
        "views": [_view_to_dict(scene.root, view) for view in scene.views],
    }
    write_json(scene.root / SCENE_FILE, data)


def load_scene(root: Path) -> Scene:
    """Read a scene folder.

    Raises:
        DataError: no scene there, another format version, or a broken file.
    """
    path = root / SCENE_FILE
    try:
        data = parse_json(path.read_text())
        if data["version"] != FORMAT_VERSION:
            raise DataError(f"{path}: scene format {data['version']}, this version reads {FORMAT_VERSION}; run prepare again")
        points = None
        if data["points"]:
            points = _read_points(inside(root, data["points"]))
        if not data["views"]:
            raise ValueError("no views")
        return Scene(
            root=root,
            name=data["name"],
            views=tuple(_view_from_dict(root, view) for view in data["views"]),
            similarity=Similarity.from_dict(data["similarity"]),
            points=points,
            unit=data["unit"],
            region_source=data["region_source"],
            notes=tuple(data["notes"]),
        )
    except FileNotFoundError as error:
        raise DataError(f"{error.filename}: no such file; run prepare first") from error
    except NotADirectoryError as error:
        raise DataError(f"{root}: not a scene folder; give the folder that prepare wrote") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: not a scene file ({error}); run prepare again") from error


def unit_words(unit: str) -> str:
    """Name of a scene's unit as it stands behind a number."""
    return "world units" if unit == "unknown" else unit


def save_points(points: Points, path: Path) -> None:
    """Write sparse points as .npz, whole or not at all.

    Raises:
        DataError: the file cannot be written.
    """
    with whole_file(path) as partial, partial.open("wb") as file:
        np.savez_compressed(file, **vars(points))


def with_points(scene: Scene, path: Path) -> Scene:
    """The scene with the sparse points of another file of `save_points`, those of the stage triangulate.

    Raises:
        DataError: no such file, a broken one, or points seen by views that the scene does not have.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file; run triangulate first")
    try:
        points = _read_points(path)
        if len(points.offsets) != len(points.xyz) + 1 or points.offsets[-1] != len(points.views):
            raise ValueError("its arrays do not belong together")
        if len(points.views) and not 0 <= points.views.min() <= points.views.max() < len(scene.views):
            raise ValueError(f"seen by view {points.views.max()}, the scene has {len(scene.views)}")
    except (ValueError, KeyError, TypeError, DataError) as error:
        raise DataError(f"{path}: not the points of this scene ({error}); run triangulate again") from error
    return replace(scene, points=points)


def _read_points(path: Path) -> Points:
    return Points(**read_npz(path))


def with_held_out(views: Sequence[View], every: int) -> tuple[View, ...]:
    """Mark every `every`-th view (the first one included) as held out; 0 holds out none."""
    return tuple(replace(view, held_out=every > 0 and index % every == 0) for index, view in enumerate(views))


def _view_to_dict(root: Path, view: View) -> dict[str, object]:
    return {
        "name": view.name,
        "image": view.image.relative_to(root).as_posix(),
        "mask": None if view.mask is None else view.mask.relative_to(root).as_posix(),
        "width": view.width,
        "height": view.height,
        "K": view.K.tolist(),
        "w2c": view.w2c.tolist(),
        "held_out": view.held_out,
    }


def _view_from_dict(root: Path, data: dict) -> View:
    if not np.isfinite(data["K"]).all() or not np.isfinite(data["w2c"]).all():
        raise ValueError(f"camera of view '{data['name']}' holds NaN or infinity")
    return View(
        name=data["name"],
        image=inside(root, data["image"]),
        mask=None if data["mask"] is None else inside(root, data["mask"]),
        width=int(data["width"]),
        height=int(data["height"]),
        K=np.asarray(data["K"], dtype=np.float64).reshape(3, 3),
        w2c=np.asarray(data["w2c"], dtype=np.float64).reshape(4, 4),
        held_out=bool(data["held_out"]),
    )
