"""Sparse points of a prepared scene: triangulated with its cameras as they are, or those it came with; filtered the same way."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nsr.config import TriangulateConfig
from nsr.conventions import Array, camera_centres
from nsr.data.colmap import sparse_points
from nsr.data.raw import Points
from nsr.data.sfm import quiet_colmap
from nsr.errors import DataError
from nsr.log import get_logger
from nsr.provenance import check_replaceable, manifest, write_json
from nsr.scene.matching import extract, match
from nsr.scene.scene import POINTS_FILE, Scene, View, save_points

if TYPE_CHECKING:
    import pycolmap

FACTS_FILE = "points.json"


def triangulate_scene(scene: Scene, out: Path, config: TriangulateConfig, *, threads: int = 1, seed: int = 42) -> dict[str, Any]:
    """Write `points.npz` and `points.json` of a scene into folder `out`.

    A scene that came with sparse points keeps them; of any other the photographs of `config.split` are matched. Points must
    lie in the region of interest and pass the thresholds of `config`, views outside the split do not count for their tracks.

    Args:
        threads: CPU threads, >= 1. seed: of COLMAP's random choices.

    Returns:
        The content of `points.json`. There may be no points: a smooth object has no features.

    Raises:
        DataError: fewer than two views, or photographs that cannot be read.
    """
    views = scene.split("all" if config.split == "all" else "train")
    if len(views) < 2:
        raise DataError(f"{scene.root}: {len(views)} views to triangulate from; give more or use triangulate.split=all")
    work = out.with_name(out.name + ".partial")
    check_replaceable(out, (POINTS_FILE, FACTS_FILE), [scene.root])
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    start = time.perf_counter()
    facts: dict[str, Any] = {"source": "scene" if scene.points is not None else "triangulated", "views": len(views)}
    try:
        found = scene.points
        if found is None:
            found, matched = _triangulate(scene, views, work, config, threads, seed)
            facts |= matched
        points, dropped = _filtered(found, scene, views, config)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    facts |= {**point_facts(points), "dropped": dropped, "seconds": round(time.perf_counter() - start, 2)}
    facts |= {"settings": asdict(config), "manifest": manifest(seed=seed, threads=threads)}
    save_points(points, out / POINTS_FILE)
    write_json(out / FACTS_FILE, facts)
    note = get_logger().info if len(points.xyz) else get_logger().warning
    note("%s: %d sparse points (%s), mean track %.1f views", scene.name, len(points.xyz), facts["source"], facts["track_length"])
    return facts


def point_facts(points: Points) -> dict[str, Any]:
    """Number of points, mean track length and median reprojection error, None where there are none."""
    known = points.error[np.isfinite(points.error)]
    return {
        "points": len(points.xyz),
        "track_length": float(np.diff(points.offsets).mean()) if len(points.xyz) else 0.0,
        "reprojection": float(np.median(known)) if len(known) else None,
    }


def track_angles(points: Points, centres: Array) -> NDArray[np.float64]:
    """Largest angle (P,) in degrees between two lines of sight of each point; centres: (V, 3) of the cameras, world."""
    angles = np.zeros(len(points.xyz))
    for index, position in enumerate(points.xyz):
        sight = centres[points.views[points.offsets[index] : points.offsets[index + 1]]] - position
        sight = sight / np.linalg.norm(sight, axis=1, keepdims=True)
        angles[index] = np.degrees(np.arccos(np.clip((sight @ sight.T).min(initial=1.0), -1, 1)))
    return angles


def chosen(points: Points, keep: NDArray[np.bool_]) -> Points:
    """The points with `keep` (P,), with their tracks."""
    lengths = np.diff(points.offsets)
    return Points(
        xyz=points.xyz[keep],
        rgb=points.rgb[keep],
        error=points.error[keep],
        offsets=np.concatenate([[0], np.cumsum(lengths[keep])]).astype(np.int64),
        views=points.views[np.repeat(keep, lengths)],
    )


def seen_from(points: Points, views: Sequence[int]) -> Points:
    """The same points with tracks of the given views only."""
    inside = np.isin(points.views, np.asarray(views))
    counts = np.concatenate([[0], np.cumsum(inside)])
    return Points(points.xyz, points.rgb, points.error, counts[points.offsets].astype(np.int64), points.views[inside])


def _filtered(points: Points, scene: Scene, views: Sequence[View], config: TriangulateConfig) -> tuple[Points, dict[str, int]]:
    """Points worth trusting, and how many were dropped for which reason first."""
    wanted = {view.name for view in views}
    points = seen_from(points, [index for index, view in enumerate(scene.views) if view.name in wanted])
    centres = camera_centres(np.stack([view.w2c for view in scene.views]))
    tests = {
        "outside the region": np.linalg.norm(scene.similarity.inverse().apply(points.xyz), axis=1) < 1,
        "short track": np.diff(points.offsets) >= config.min_track,
        "reprojection error": ~(points.error > config.max_reprojection),  # unknown ones stay
        "small angle": track_angles(points, centres) >= config.min_angle,
    }
    keep, dropped = np.ones(len(points.xyz), dtype=bool), {}
    for reason, passed in tests.items():
        dropped[reason] = int((keep & ~passed).sum())
        keep &= passed
    return chosen(points, keep), dropped


def _triangulate(
    scene: Scene, views: Sequence[View], work: Path, config: TriangulateConfig, threads: int, seed: int
) -> tuple[Points, dict[str, Any]]:
    """Points of the views' matches, unfiltered; numbers of pairs and matches."""
    import pycolmap

    database = work / "database.db"
    pycolmap.set_random_seed(seed)
    options = pycolmap.IncrementalPipelineOptions()
    options.num_threads, options.random_seed = threads, seed
    try:
        with quiet_colmap():
            ids = extract(database, scene, views, config, threads)
            pairs, matches = match(database, scene, views, ids, config, threads)
            known = _known_cameras(database, views, ids)
            (work / "model").mkdir()
            model = pycolmap.triangulate_points(known, database, scene.root, work / "model", options=options)
    except (RuntimeError, ValueError) as error:
        raise DataError(
            f"{scene.root}: pycolmap stopped ({' '.join(str(error).split())}); check the triangulate settings"
        ) from error
    model.update_point_3d_errors()
    place = {view.name: index for index, view in enumerate(scene.views)}
    points = sparse_points(model, {ids[view.name]: place[view.name] for view in views})
    return points or no_points(), {"pairs": pairs, "matches": matches}


def no_points() -> Points:
    """An empty set of points."""
    return Points(
        np.zeros((0, 3)), np.zeros((0, 3), np.uint8), np.zeros(0), np.zeros(1, np.int64), np.zeros(0, np.int32)
    )  # fmt: skip


def _known_cameras(database: Path, views: Sequence[View], ids: dict[str, int]) -> pycolmap.Reconstruction:
    """A model of the database's images with the views' cameras, and no points."""
    import pycolmap

    model = pycolmap.Reconstruction()
    with pycolmap.Database.open(database) as opened:
        for view in views:
            image = opened.read_image(ids[view.name])
            model.add_camera_with_trivial_rig(opened.read_camera(image.camera_id))
            blank = pycolmap.Image(name=image.name, camera_id=image.camera_id, image_id=image.image_id)
            model.add_image_with_trivial_frame(blank, pycolmap.Rigid3d(view.w2c[:3]))
    return model
