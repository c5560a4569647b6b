"""Structure from motion over raw photos with pycolmap: features, matching, incremental mapping, health gate.

Several models are always allowed and the largest is kept: forced into one model, COLMAP can end with a handful of images
at an excellent reprojection error.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nsr.config import SfmConfig
from nsr.data.photos import Photo, check_pixels, one_size, read_photos
from nsr.data.sfm_health import SfmHealth, gate_checks, measure_health
from nsr.errors import DataError, SfmError
from nsr.log import get_logger
from nsr.provenance import check_replaceable, manifest, write_json

if TYPE_CHECKING:
    import pycolmap

MODEL_FOLDER = "sparse/0"
HEALTH_FILE = "sfm.json"
LOG_LEVEL_FATAL = 3  # of COLMAP's logger
# Draws per pair of photos in geometric verification. COLMAP's 10000 are spent on pairs that show different things, where
# they are most of the matching time; demo and fountain photos give the same models with 1000.
MAX_TRIALS = 2000
FOCAL_TOLERANCE = 0.05  # relative difference of EXIF focal lengths above which photos are not of one camera


def run_sfm(photos: Path, out: Path, config: SfmConfig, *, threads: int = 1, seed: int = 42) -> dict[str, Any]:
    """Reconstruct cameras and sparse points of a folder of photos.

    Writes `out/sparse/0` (COLMAP model, binary) and `out/sfm.json` (health, gate, times). `out` appears only when the
    gate is passed; otherwise the same files stay in `<out>.failed` for inspection.

    Args:
        photos: folder of .jpg and .png files. out: folder to make; an old one is replaced.
        threads: CPU threads, >= 1. seed: of all random choices; with one thread two runs give the same bytes.

    Returns:
        The content of `sfm.json`.

    Raises:
        DataError: photos that cannot be used. SfmError: no model, or one that fails the gate; says what to change.
    """
    found = read_photos(photos)
    check_replaceable(out, ("sparse", HEALTH_FILE), [photos])
    notes = _check_cameras(found, config, photos)
    check_pixels(found)
    work = out.with_name(out.name + ".partial")
    for stale in (work, failed_folder(out)):
        shutil.rmtree(stale, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        models, seconds = _reconstruct(found, work, config, threads, seed)
        if not models:
            raise SfmError(
                f"{photos}: structure from motion found no pair of photos to start from; take sharp photos of a textured, still"
                " scene that overlap by two thirds, or raise sfm.max_features with sfm.first_octave=-1"
            )
        model = max(models, key=lambda m: (m.num_reg_images(), m.num_points3D()))
        health = measure_health(model, [m.num_reg_images() for m in models], len(found))
        summary = _summary(found, model, health, config, notes) | {
            "seconds": seconds,
            "manifest": manifest(seed=seed, threads=threads),
        }
        _write(model, work, summary)
        _judge(summary, health, config, work, out)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    get_logger().info(
        "sfm: %d of %d photos, %d points, reprojection %.2f px, spread %.0f degrees, %.0f s",
        *(health.registered, health.photos, health.points, health.reprojection, health.spread, seconds["total"]),
    )
    return summary


def failed_folder(out: Path) -> Path:
    """Where a model that did not pass the gate is kept."""
    return out.with_name(out.name + ".failed")


@contextmanager
def quiet_colmap() -> Iterator[None]:
    """Silence COLMAP's own log for the block; errors still arrive as exceptions."""
    import pycolmap

    before = pycolmap.logging.minloglevel
    pycolmap.logging.minloglevel = LOG_LEVEL_FATAL
    try:
        yield
    finally:
        pycolmap.logging.minloglevel = before


def _check_cameras(photos: Sequence[Photo], config: SfmConfig, folder: Path) -> list[str]:
    """Refuse photos that cannot share one camera although the settings say so; returns notes."""
    notes = []
    if config.single_camera and not one_size(photos):
        odd = next(p for p in photos if (p.width, p.height) != (photos[0].width, photos[0].height))
        raise DataError(
            f"{odd.path}: {odd.width}x{odd.height} px, {photos[0].path.name} is {photos[0].width}x{photos[0].height};"
            " set sfm.single_camera=false or remove it"
        )
    focals = [p.focal for p in photos if p.focal is not None]
    if config.single_camera and focals and max(focals) > min(focals) * (1 + FOCAL_TOLERANCE):
        raise DataError(
            f"{folder}: EXIF focal lengths from {min(focals):.0f} to {max(focals):.0f} px; zoom or several lenses need sfm.single_camera=false"
        )
    if len({p.orientation for p in photos}) > 1:
        notes.append("photos of several EXIF orientations: pixels are used as stored, orientation is not applied")
    if not focals:
        notes.append("no focal length in EXIF: it was estimated from the photos alone")
    for note in notes:
        get_logger().info("sfm: %s", note)
    return notes


def _reconstruct(
    photos: Sequence[Photo], work: Path, config: SfmConfig, threads: int, seed: int
) -> tuple[list[pycolmap.Reconstruction], dict[str, float]]:
    """All models, and seconds by step. Folder `work` takes the database."""
    import pycolmap

    folder, database = photos[0].path.parent, work / "database.db"
    mapped = work / "models"
    mapped.mkdir()
    verification = pycolmap.TwoViewGeometryOptions()
    verification.ransac.random_seed, verification.ransac.max_num_trials = seed, MAX_TRIALS
    mapping = pycolmap.IncrementalPipelineOptions()
    mapping.num_threads, mapping.random_seed, mapping.multiple_models = threads, seed, True
    pycolmap.set_random_seed(seed)
    times = [time.perf_counter()]
    with quiet_colmap():
        try:
            _extract(photos, database, config, threads)
            times.append(time.perf_counter())
            _match(database, verification, config, threads)
            times.append(time.perf_counter())
            models = pycolmap.incremental_mapping(database, folder, mapped, options=mapping)
            times.append(time.perf_counter())
        except (RuntimeError, ValueError) as error:
            raise SfmError(f"{folder}: pycolmap stopped ({' '.join(str(error).split())}); check the sfm settings") from error
    database.unlink()
    shutil.rmtree(mapped)
    seconds = dict(zip(("features", "matching", "mapping"), np.diff(times).round(2).tolist(), strict=True))
    return list(models.values()), seconds | {"total": round(times[-1] - times[0], 2)}


def _extract(photos: Sequence[Photo], database: Path, config: SfmConfig, threads: int) -> None:
    """Features into the database; focal lengths from EXIF, where there, become priors."""
    import pycolmap

    models = sorted(set(pycolmap.CameraModelId.__members__) - {"INVALID"})
    if config.camera_model not in models:
        raise DataError(f"sfm.camera_model: '{config.camera_model}' is none of {', '.join(models)}")
    reader, options = pycolmap.ImageReaderOptions(), pycolmap.FeatureExtractionOptions()
    reader.camera_model = config.camera_model
    options.num_threads, options.use_gpu, options.max_image_size = threads, False, config.max_image_size
    options.sift.max_num_features, options.sift.first_octave = config.max_features, config.first_octave
    mode = pycolmap.CameraMode.SINGLE if config.single_camera else pycolmap.CameraMode.PER_IMAGE
    names = [photo.path.name for photo in photos]
    folder = photos[0].path.parent
    pycolmap.extract_features(
        database,
        folder,
        image_names=names,
        camera_mode=mode,
        reader_options=reader,
        extraction_options=options,
        device=pycolmap.Device.cpu,
    )
    with pycolmap.Database.open(database) as opened:
        images = {image.name: image for image in opened.read_all_images()}
        if missing := [name for name in names if name not in images]:
            raise DataError(f"{folder / missing[0]}: COLMAP found nothing to read in it; save it again as JPEG or remove it")
        for photo in photos:
            camera = opened.read_camera(images[photo.path.name].camera_id)
            if photo.focal is not None and not camera.has_prior_focal_length:
                for index in camera.focal_length_idxs():
                    camera.params[index] = photo.focal
                camera.has_prior_focal_length = True
                opened.update_camera(camera)


def _match(database: Path, verification: pycolmap.TwoViewGeometryOptions, config: SfmConfig, threads: int) -> None:
    import pycolmap

    options = pycolmap.FeatureMatchingOptions()
    options.num_threads, options.use_gpu = threads, False
    match = pycolmap.match_exhaustive if config.matcher == "exhaustive" else pycolmap.match_sequential
    match(database, matching_options=options, verification_options=verification, device=pycolmap.Device.cpu)


def _summary(
    photos: Sequence[Photo], model: pycolmap.Reconstruction, health: SfmHealth, config: SfmConfig, notes: list[str]
) -> dict[str, Any]:
    """The JSON-ready content of `sfm.json` but for times and manifest."""
    registered = {image.name for image in model.images.values() if image.has_pose}
    checks = gate_checks(health, config)
    return {
        "passed": all(check.passed for check in checks),
        "health": asdict(health),
        "gate": [{**asdict(check), "value": _json_number(check.value), "passed": check.passed} for check in checks],
        "cameras": [
            {"model": c.model_name, "width": c.width, "height": c.height, "params": list(c.params)}
            for c in model.cameras.values()
        ],
        "focal_prior": next((photo.focal for photo in photos if photo.focal is not None), None),
        "unregistered": [photo.path.name for photo in photos if photo.path.name not in registered],
        "settings": asdict(config),
        "notes": notes,
    }


def _json_number(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _write(model: pycolmap.Reconstruction, work: Path, summary: dict[str, Any]) -> None:
    folder = work / MODEL_FOLDER
    folder.mkdir(parents=True)
    model.write(folder)
    write_json(work / HEALTH_FILE, summary)


def _judge(summary: dict[str, Any], health: SfmHealth, config: SfmConfig, work: Path, out: Path) -> None:
    """Move the finished folder to its place, or to that of failures with an `SfmError`."""
    target = out if summary["passed"] else failed_folder(out)
    if target.exists():
        shutil.rmtree(target)
    os.replace(work, target)
    if not summary["passed"]:
        failures = "; ".join(check.failure() for check in gate_checks(health, config) if not check.passed)
        raise SfmError(f"structure from motion is not good enough ({target / HEALTH_FILE} has all numbers): {failures}")
