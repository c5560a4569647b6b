"""From what a reader found to a prepared scene: pinhole photographs, masks, split and region of interest."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nsr.config import PrepareConfig
from nsr.conventions import Array
from nsr.data.checks import check_facing
from nsr.data.raw import RawScene, RawView
from nsr.errors import ConfigError, DataError
from nsr.log import get_logger
from nsr.provenance import check_replaceable, manifest, write_json
from nsr.scene.images import exif_orientation, is_plain, load_image, load_mask, load_rgba, mask_values, save_png
from nsr.scene.masks import check_masks
from nsr.scene.region import Evidence, find_region
from nsr.scene.scene import POINTS_FILE, SCENE_FILE, Scene, View, load_scene, save_scene, with_held_out
from nsr.scene.spill import Spill
from nsr.scene.undistort import (
    Pinhole,
    fit_size,
    remap_image,
    remap_mask,
    resize_image,
    resize_mask,
    scale_intrinsics,
    to_pinhole,
)

# Files of these kinds are copied byte for byte when no pixel of them changes.
_COPIED = {".jpg": ".jpg", ".jpeg": ".jpg", ".png": ".png"}
FACTS_FILE = "prepare.json"  # how the scene came about
_SKEW = 1e-3  # px; less is rounding of a decomposed matrix


@dataclass(frozen=True)
class _Prepared:
    """A prepared view, its mask (H, W) or None, the file that the mask came from, and notes."""

    view: View
    mask: NDArray[np.uint8] | None
    mask_source: Path
    notes: tuple[str, ...]


def prepare(
    raw: RawScene, out: Path, *, name: str, settings: PrepareConfig, region: str | None = None, threads: int = 1
) -> Scene:
    """Build a scene folder; it appears whole or not at all.

    Args:
        raw: what a reader found. out: scene folder to make; an earlier scene there is replaced.
        name: "dataset/scene". settings: see `PrepareConfig`.
        region: overrides `settings.region`; "x,y,z,radius" in world units or a name.
        threads: photos worked on at the same time.

    Returns:
        The scene as saved.

    Raises:
        DataError: a photo, mask, camera or the region is not usable; the message names file and remedy.
        ConfigError: the split would leave no view to train on.
    """
    _check_raw(raw)
    check_replaceable(out, (SCENE_FILE, POINTS_FILE, FACTS_FILE, "images", "masks"), [view.image for view in raw.views])
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        (partial / "images").mkdir(parents=True)
        scene = _build(raw, partial, name=name, settings=settings, region=region, threads=threads)
        save_scene(scene)
        # Not in scene.json, so that the same scene prepared again is the same file.
        facts = {"scene": name, "views": len(scene.views), "settings": asdict(settings), "manifest": manifest()}
        write_json(partial / FACTS_FILE, facts)
        _move(partial, out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return load_scene(out)


def read_source(kind: str, source: Path, *, masks: Path | None = None, model: Path | None = None) -> RawScene:
    """Read a source of a named format: one of `nsr.data.READERS`, or "photos" with the model that was made of them.

    Args:
        kind: format. source: its folder. masks: folder of masks to use. model: COLMAP model, or a folder of `sfm.py`.

    Raises:
        DataError: unknown format, photos without a model, or what the reader finds wrong.
    """
    from nsr.data import READERS, read_colmap

    if kind == "photos":
        if model is None:
            raise DataError(
                f"{source}: photos need the cameras that structure from motion finds; run sfm and give its folder as --model"
            )
        return read_colmap(model, masks, images=source)
    if kind not in READERS:
        raise DataError(f"format '{kind}': not one of photos, {', '.join(READERS)}")
    return READERS[kind](source, masks)


def _build(raw: RawScene, root: Path, *, name: str, settings: PrepareConfig, region: str | None, threads: int) -> Scene:
    if any(view.mask is not None or view.alpha_mask for view in raw.views):
        (root / "masks").mkdir()
    spill = Spill(root)
    with ThreadPoolExecutor(max(1, threads)) as pool:
        made = pool.map(lambda view: _prepare_view(view, root, settings), raw.views)
        prepared = [item if item.mask is None else replace(item, mask=spill.keep(item.mask)) for item in made]
    views = with_held_out([item.view for item in prepared], settings.holdout_every)
    if all(view.held_out for view in views):
        raise ConfigError(
            f"prepare.holdout_every: {settings.holdout_every} holds out all {len(views)} views; choose 0 or at least 2"
        )
    masked = [item for item in prepared if item.mask is not None]
    masks = [item.mask for item in masked if item.mask is not None]
    notes = raw.skipped + tuple(note for item in prepared for note in item.notes)
    notes += check_masks([item.mask_source for item in masked], masks) + _policy_notes(views)
    found = find_region(Evidence(views, [item.mask for item in prepared], raw.points, raw.region), settings, region)
    check_facing(views, found.similarity.t, found.similarity.scale)
    notes += found.notes
    for note in notes:
        get_logger().warning("%s: %s", name, note)
    ball = found.similarity
    where = ", ".join(f"{x:.5g}" for x in ball.t)
    get_logger().info("%s: %d views; region from %s: centre (%s), radius %.5g", name, len(views), found.source, where, ball.scale)
    return Scene(
        root=root,
        name=name,
        views=views,
        similarity=ball,
        points=raw.points,
        unit=raw.unit,
        region_source=found.source,
        notes=notes,
    )


def _prepare_view(view: RawView, root: Path, settings: PrepareConfig) -> _Prepared:
    """Read, check, undistort, resize and write one photo and its mask."""
    try:
        pinhole = to_pinhole(view.camera)
    except DataError as error:
        raise DataError(f"{view.image}: {error}") from error
    image, mask = _read(view, settings.alpha_background)
    size = fit_size(pinhole.width, pinhole.height, settings.max_size)
    resized = size != (pinhole.width, pinhole.height)
    unchanged = pinhole.source is None and not resized and not view.alpha_mask
    suffix = _COPIED.get(view.image.suffix.lower()) if unchanged and is_plain(view.image) else None
    path = root / "images" / f"{view.name}{suffix or '.png'}"
    if suffix:
        _copy(view.image, path)
    else:
        image = remap_image(image, pinhole)
        save_png(path, resize_image(image, size) if resized else image)
    mask_path = None
    if mask is not None:
        mask = remap_mask(mask, pinhole)
        mask = resize_mask(mask, size) if resized else mask
        mask_path = root / "masks" / f"{view.name}.png"
        save_png(mask_path, mask)
    K = scale_intrinsics(pinhole.K, (pinhole.width, pinhole.height), size)
    made = View(view.name, path, mask_path, size[0], size[1], K, np.asarray(view.w2c, dtype=np.float64))
    return _Prepared(made, mask, view.mask or view.image, _view_notes(view, pinhole))


def _read(view: RawView, alpha_background: float) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
    """Photo (H, W, 3) and mask (H, W) or None, in source pixels; transparent pixels are laid over a grey."""
    size = (view.camera.width, view.camera.height)
    if view.alpha_mask:
        rgba = load_rgba(view.image)
        alpha = rgba[..., 3:].astype(np.float32) / 255
        image = np.rint(rgba[..., :3] * alpha + 255 * alpha_background * (1 - alpha)).astype(np.uint8)
        mask: NDArray[np.uint8] | None = mask_values(np.where(rgba[..., 3] >= 128, 255, 0).astype(np.uint8))
    else:
        image, mask = load_image(view.image), None
    if image.shape[1::-1] != size:
        turned = " (it is turned: remove its EXIF rotation or undo the turn)" if image.shape[:2] == size else ""
        raise DataError(
            f"{view.image}: the photo is {image.shape[1]}x{image.shape[0]}, its camera {size[0]}x{size[1]}{turned}; "
            "use the photos that the calibration was made with"
        )
    if view.mask is not None:
        mask = load_mask(view.mask, size)
    return image, mask


def _check_raw(raw: RawScene) -> None:
    """Refuse scenes without photos, names that cannot be file names, and cameras that are not finite."""
    if not raw.views:
        raise DataError("the source has no usable photo; check its folder" + (f" ({raw.skipped[0]})" if raw.skipped else ""))
    seen: dict[str, RawView] = {}
    for view in raw.views:
        if not view.name or view.name in (".", "..") or "/" in view.name or "\\" in view.name:
            raise DataError(f"{view.image}: view name '{view.name}' is no file name; rename the photo")
        if view.name in seen:
            raise DataError(f"{view.image}: view name '{view.name}' is also that of {seen[view.name].image}; rename one of them")
        seen[view.name] = view
        _check_matrix(view, "pose", view.w2c, (4, 4))
        if view.camera.K is not None:
            _check_matrix(view, "intrinsics", view.camera.K, (3, 3))
            if view.camera.K[0][0] <= 0 or view.camera.K[1][1] <= 0:
                raise DataError(f"{view.image}: focal length must be greater than 0; check the calibration")
        rotation = np.asarray(view.w2c, dtype=np.float64)[:3, :3]
        if not np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-3) or np.linalg.det(rotation) < 0:
            raise DataError(f"{view.image}: its pose is not a rotation and a shift; check the cameras file")


def _check_matrix(view: RawView, what: str, matrix: Array, shape: tuple[int, int]) -> None:
    matrix = np.asarray(matrix)
    if matrix.shape != shape:
        raise DataError(f"{view.image}: {what} is a matrix of shape {matrix.shape}, {shape} is needed; check the cameras file")
    if not np.isfinite(matrix).all():
        raise DataError(f"{view.image}: {what} holds NaN or infinity; leave the photo out or estimate its camera again")


def _move(partial: Path, out: Path) -> None:
    """Put a finished folder in place of `out`."""
    old = out.with_name(out.name + ".old.partial")
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        out.rename(old)
    partial.rename(out)
    shutil.rmtree(old, ignore_errors=True)


def _copy(source: Path, target: Path) -> None:
    try:
        shutil.copyfile(source, target)
    except OSError as error:
        raise DataError(
            f"{target}: cannot be written ({error.strerror or error}); check the folder and the disk space"
        ) from error


def _view_notes(view: RawView, pinhole: Pinhole) -> tuple[str, ...]:
    notes = []
    if abs(pinhole.K[0, 1]) > _SKEW:
        notes.append(f"{view.image.name}: pixels are skewed ({pinhole.K[0, 1]:.3g} px), which is kept in its intrinsics")
    if exif_orientation(view.image) != 1:
        notes.append(f"{view.image.name}: has an EXIF rotation, which is not applied (pixels as stored)")
    return tuple(notes)


def _policy_notes(views: Sequence[View]) -> tuple[str, ...]:
    """What the masks of a scene can be used for, if that is not obvious."""
    missing = [view for view in views if view.mask is None]
    if not missing or len(missing) == len(views):
        return ()
    return (
        f"{len(missing)} of {len(views)} views have no mask (first: {missing[0].name}); training with masks needs all of them",
    )
