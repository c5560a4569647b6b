"""Blender exports in the NeRF-synthetic layout: `transforms_train.json`, `_val`, `_test` with RGBA images.

Camera-to-world matrices with OpenGL axes, one field of view, principal point in the image's middle, alpha as the mask
(Mildenhall et al. 2020).
"""

from __future__ import annotations

from pathlib import Path

from nsr.data.checks import check_views, pinhole
from nsr.data.files import match_masks, view_names
from nsr.data.frames import Frame, focal_from_angle, image_size, number, read_frames, skipped_all
from nsr.data.raw import RawCamera, RawScene, RawView
from nsr.errors import DataError

SPLITS = ("train", "val", "test")


def read_blender(source: Path, masks: Path | None = None) -> RawScene:
    """Read all splits of a folder, or one transforms file.

    Args:
        source: a folder with `transforms_<split>.json`, or such a file. masks: a folder to use instead of alpha.

    Returns:
        Views named by their files, with the split in the name (`train_r_0`) where names repeat between splits. Frames
        whose image is missing are in `skipped`.

    Raises:
        DataError: no transforms file, no field of view, a broken pose, no image at all.
    """
    files = [source] if source.is_file() else [p for s in SPLITS if (p := source / f"transforms_{s}.json").is_file()]
    if not files:
        raise DataError(
            f"{source}: no transforms_train.json, transforms_val.json or transforms_test.json; check the path or the format"
        )
    frames: list[Frame] = []
    skipped: list[str] = []
    for path in files:
        found, missing = read_frames(path)
        frames += found
        skipped += missing
    if not frames:
        raise skipped_all(files[0], skipped)
    names = view_names([f.relative if f.relative.endswith(f.image.suffix) else f.relative + f.image.suffix for f in frames])
    mask_files = match_masks([frame.image.name for frame in frames], masks)
    views = [
        RawView(name, frame.image, _camera(frame), frame.w2c, mask, frame.header.alpha and mask is None)
        for name, frame, mask in zip(names, frames, mask_files, strict=True)
    ]
    check_views(views, files[0])
    return RawScene(tuple(sorted(views, key=lambda view: view.name)), skipped=tuple(skipped))


def _camera(frame: Frame) -> RawCamera:
    angle = number(frame.settings, "camera_angle_x", frame.where)
    if angle is None:
        raise DataError(f"{frame.where}: no camera_angle_x; add it, or read the file with format nerfstudio")
    width, height = image_size(frame)
    focal = focal_from_angle(width, angle, frame.where)
    return RawCamera(width, height, pinhole(focal, focal, width / 2, height / 2))
