"""COLMAP models, text or binary, read by pycolmap; also what structure from motion over raw photos leaves behind."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nsr.conventions import Array
from nsr.data.checks import check_views
from nsr.data.colmap_files import check_binary_model
from nsr.data.files import IMAGE_SUFFIXES, find_folder, inside, match_masks, view_names
from nsr.data.raw import Points, RawCamera, RawScene, RawView
from nsr.errors import DataError

if TYPE_CHECKING:
    import pycolmap

MODEL_PLACES = ("", "sparse", "colmap/sparse", "model")
IMAGE_FOLDERS = ("images", "image", "rgb")
MASK_FOLDERS = ("masks", "mask")
FATAL_ONLY = 3  # a level of COLMAP's logger
# Perspective models whose parameters beyond focal length and principal point are all distortion: with zeros they are pinholes.
PERSPECTIVE = ("SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV", "FULL_OPENCV", "SIMPLE_DIVISION", "DIVISION")


def read_colmap(source: Path, masks: Path | None = None, images: Path | None = None) -> RawScene:
    """Read a COLMAP model with its images; of several models the one with the most images.

    Args:
        source: a dataset folder (with `sparse/0` or `sparse`), or the model's own folder.
        masks: a folder of masks; default `masks` or `mask` beside the image folder.
        images: the image folder; default `images` in the dataset folder.

    Returns:
        Views in name order, sparse points with the views that see them. Images without a pose are in `skipped`.

    Raises:
        DataError: no model, a broken model, missing images, or a camera model that has no pinhole image.
    """
    model_folder, model = _load_largest(source)
    folder = images or _image_folder(source, model_folder)
    try:
        return _scene_of(
            model, model_folder, folder, masks or (None if images is not None else find_folder(folder.parent, MASK_FOLDERS))
        )
    except (UnicodeDecodeError, LookupError, RuntimeError) as error:  # what a model's parts refer to is not checked by pycolmap
        raise DataError(f"{model_folder}: COLMAP model is damaged ({error}); copy or export it again") from error


def _scene_of(model: pycolmap.Reconstruction, model_folder: Path, folder: Path, mask_folder: Path | None) -> RawScene:
    """What `read_colmap` returns, of a loaded model and the image folder."""
    posed = sorted((image for image in model.images.values() if image.has_pose), key=lambda image: image.name)
    if not posed:
        raise DataError(f"{model_folder}: no image has a pose; run structure from motion again")
    relative = [image.name for image in posed]
    mask_files = match_masks(relative, mask_folder)
    views = tuple(
        RawView(name, inside(folder, image.name), _camera(model.cameras[image.camera_id], model_folder), _w2c(image), mask)
        for name, image, mask in zip(view_names(relative), posed, mask_files, strict=True)
    )
    check_views(views, model_folder)
    return RawScene(
        views,
        points=sparse_points(model, {image.image_id: i for i, image in enumerate(posed)}),
        skipped=_unposed(folder, relative),
    )


def load_model(folder: Path) -> pycolmap.Reconstruction:
    """A COLMAP model folder, text or binary.

    Raises:
        DataError: the files are broken or incomplete.
    """
    import pycolmap

    if (folder / "cameras.bin").is_file():
        models = (m for m in pycolmap.CameraModelId.__members__.values() if m != pycolmap.CameraModelId.INVALID)
        check_binary_model(folder, {m.value: len(pycolmap.Camera.create_from_model_id(1, m, 1.0, 2, 2).params) for m in models})
    # A broken file is reported once, as our error, not as lines of COLMAP's own log.
    level, pycolmap.logging.minloglevel = pycolmap.logging.minloglevel, FATAL_ONLY
    try:
        return pycolmap.Reconstruction(folder)
    except (ValueError, RuntimeError, IndexError, OSError, MemoryError, TypeError) as error:
        reason = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
        raise DataError(f"{folder}: COLMAP model cannot be read ({reason}); copy or export it again") from error
    finally:
        pycolmap.logging.minloglevel = level


def _load_largest(source: Path) -> tuple[Path, pycolmap.Reconstruction]:
    for place in MODEL_PLACES:
        root = source / place
        numbered = sorted(p for p in root.iterdir() if p.name.isdigit()) if root.is_dir() else []
        folders = [folder for folder in (root, *numbered) if _is_model(folder)]
        if folders:
            models = [(folder, load_model(folder)) for folder in folders]
            return max(models, key=lambda item: item[1].num_reg_images())
    raise DataError(f"{source}: no COLMAP model (cameras, images, points3D as .bin or .txt) here or in sparse/0; check the path")


def _is_model(folder: Path) -> bool:
    return any((folder / f"cameras{s}").is_file() and (folder / f"images{s}").is_file() for s in (".bin", ".txt"))


def _image_folder(source: Path, model_folder: Path) -> Path:
    for root in (source, *list(model_folder.resolve().parents)[:3]):
        folder = find_folder(root, IMAGE_FOLDERS)
        if folder is not None:
            return folder
    raise DataError(f"{source}: no folder of images ({', '.join(IMAGE_FOLDERS)}) beside the model; check the path")


def _camera(camera: pycolmap.Camera, where: Path) -> RawCamera:
    if camera.model_name == "EQUIRECTANGULAR":
        raise DataError(f"{where}: camera {camera.camera_id} is EQUIRECTANGULAR; cut the panoramas into pinhole images first")
    params = tuple(float(p) for p in camera.params)
    distortion = [params[i] for i in camera.extra_params_idxs()]
    if camera.model_name in PERSPECTIVE and not any(distortion):
        return RawCamera(camera.width, camera.height, np.array(camera.calibration_matrix(), dtype=np.float64))
    return RawCamera(camera.width, camera.height, model=camera.model_name, params=params)


def _w2c(image: pycolmap.Image) -> Array:
    out = np.eye(4)
    out[:3] = image.cam_from_world().matrix()
    return out


def sparse_points(model: pycolmap.Reconstruction, index: dict[int, int]) -> Points | None:
    """Sparse points with tracks; `index` maps image ids to view indices."""
    points = [model.points3D[key] for key in sorted(model.points3D)]
    if not points:
        return None
    tracks = [sorted({index[e.image_id] for e in point.track.elements if e.image_id in index}) for point in points]
    offsets = np.cumsum([0, *map(len, tracks)], dtype=np.int64)
    return Points(
        xyz=np.array([point.xyz for point in points], dtype=np.float64),
        rgb=np.array([point.color for point in points], dtype=np.uint8),
        error=np.array([point.error if point.error >= 0 else np.nan for point in points], dtype=np.float64),
        offsets=offsets,
        views=np.array([view for track in tracks for view in track], dtype=np.int32),
    )


def _unposed(folder: Path, posed: list[str]) -> tuple[str, ...]:
    known = set(posed)
    found = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
    return tuple(f"{name}: has no pose in the model" for name in found if name not in known)
