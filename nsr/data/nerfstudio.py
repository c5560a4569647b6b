"""`transforms.json` of nerfstudio and instant-ngp: intrinsics for the whole file or frame by frame, with distortion.

Camera-to-world matrices with OpenGL axes; the principal point counts from the image's corner, as here. The world frame
is the file's own: `scale`, `offset` and `aabb_scale` of instant-ngp describe its training volume and change no pose.
"""

from __future__ import annotations

from pathlib import Path

from nsr.data.checks import check_views, pinhole
from nsr.data.files import inside, match_masks, view_names
from nsr.data.frames import Frame, focal_from_angle, image_size, number, read_frames, skipped_all
from nsr.data.raw import RawCamera, RawScene, RawView
from nsr.errors import DataError

PINHOLE_MODELS = ("PINHOLE", "SIMPLE_PINHOLE")
RADIAL_MODELS = ("OPENCV", "FULL_OPENCV", "SIMPLE_RADIAL", "RADIAL")
FISHEYE_MODELS = ("OPENCV_FISHEYE",)


def read_nerfstudio(source: Path, masks: Path | None = None) -> RawScene:
    """Read a `transforms.json`, or the folder that holds it.

    Args:
        source: file or folder. masks: a folder to use instead of the frames' `mask_path`.

    Returns:
        Views; frames whose image is missing are in `skipped`. A mask is the frame's `mask_path`, or its image's alpha.

    Raises:
        DataError: no file, no focal length, an unknown camera model, a broken pose, no image at all, or masks for some
            frames only.
    """
    path = source if source.suffix == ".json" else source / "transforms.json"
    frames, skipped = read_frames(path)
    if not frames:
        raise skipped_all(path, skipped)
    stated = [_stated_mask(path.parent, frame) for frame in frames]
    matched = match_masks([frame.image.name for frame in frames], masks) if masks else stated
    if any(matched) and not all(matched):
        without = next(frame for frame, mask in zip(frames, matched, strict=True) if mask is None)
        raise DataError(f"{without.where}: no mask_path while other frames have one; add it or remove them all")
    names = view_names([f.relative if f.relative.endswith(f.image.suffix) else f.relative + f.image.suffix for f in frames])
    views = [
        RawView(name, frame.image, _camera(frame), frame.w2c, mask, frame.header.alpha and mask is None)
        for name, frame, mask in zip(names, frames, matched, strict=True)
    ]
    check_views(views, path)
    return RawScene(tuple(sorted(views, key=lambda view: view.name)), skipped=tuple(skipped))


def _stated_mask(root: Path, frame: Frame) -> Path | None:
    stated = frame.settings.get("mask_path")
    if stated is None:
        return None
    path = inside(root, str(stated).replace("\\", "/"))
    if not path.is_file():
        raise DataError(f"{frame.where}: mask {path} does not exist; restore it or remove mask_path")
    return path


def _camera(frame: Frame) -> RawCamera:
    fisheye = bool(frame.settings.get("is_fisheye", False))
    model = str(frame.settings.get("camera_model", "OPENCV_FISHEYE" if fisheye else "OPENCV"))
    if model not in PINHOLE_MODELS + RADIAL_MODELS + FISHEYE_MODELS:
        known = ", ".join(PINHOLE_MODELS + RADIAL_MODELS + FISHEYE_MODELS)
        raise DataError(f"{frame.where}: camera model {model} is not supported ({known}); undistort the images first")
    width, height = image_size(frame)
    fx, fy = _focal(frame, width, height)
    cx, cy = number(frame.settings, "cx", frame.where), number(frame.settings, "cy", frame.where)
    centre = (width / 2 if cx is None else cx, height / 2 if cy is None else cy)
    k1, k2, k3, k4, p1, p2 = (number(frame.settings, key, frame.where) or 0.0 for key in ("k1", "k2", "k3", "k4", "p1", "p2"))
    if model in FISHEYE_MODELS:
        return RawCamera(width, height, model="OPENCV_FISHEYE", params=(fx, fy, *centre, k1, k2, k3, k4))
    if model in PINHOLE_MODELS or not any((k1, k2, k3, k4, p1, p2)):
        return RawCamera(width, height, pinhole(fx, fy, *centre))
    if k4:
        raise DataError(f"{frame.where}: k4 of a {model} camera is not supported; undistort the images first")
    if k3:
        return RawCamera(width, height, model="FULL_OPENCV", params=(fx, fy, *centre, k1, k2, p1, p2, k3, 0.0, 0.0, 0.0))
    return RawCamera(width, height, model="OPENCV", params=(fx, fy, *centre, k1, k2, p1, p2))


def _focal(frame: Frame, width: int, height: int) -> tuple[float, float]:
    """Focal lengths in pixels along x and y; a missing one is the other's."""
    found = []
    for key, angle_key, size in (("fl_x", "camera_angle_x", width), ("fl_y", "camera_angle_y", height)):
        focal, angle = number(frame.settings, key, frame.where), number(frame.settings, angle_key, frame.where)
        found.append(focal if focal is not None or angle is None else focal_from_angle(size, angle, frame.where))
    x, y = found
    if x is None and y is None:
        raise DataError(f"{frame.where}: no fl_x, fl_y or camera_angle_x; state the focal length")
    return (x if x is not None else y, y if y is not None else x)  # type: ignore[return-value]
