"""`transforms*.json` files, as Blender exports, nerfstudio and instant-ngp write them: what the two readers share."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nsr.conventions import Array
from nsr.data.checks import w2c_from_opengl
from nsr.data.files import IMAGE_SUFFIXES, Header, inside, read_header
from nsr.errors import DataError
from nsr.provenance import parse_json


@dataclass(frozen=True)
class Frame:
    """One frame of a transforms file whose image exists.

    Attributes:
        relative: its image path as the file states it. image: the file found. header: of that file.
        w2c: (4, 4) world to camera, OpenCV axes. settings: keys of the whole file, overridden by the frame's own.
        where: file and frame, for errors.
    """

    relative: str
    image: Path
    header: Header
    w2c: Array
    settings: Mapping[str, Any]
    where: str


def read_frames(path: Path) -> tuple[list[Frame], list[str]]:
    """Frames of a transforms file in name order, and one line for each frame whose image is missing.

    Raises:
        DataError: no such file, not JSON, no frames, or a frame without path or pose.
    """
    data = _load(path)
    frames: list[Frame] = []
    skipped: list[str] = []
    shared = {key: value for key, value in data.items() if key != "frames"}
    for index, entry in enumerate(data["frames"]):
        where = f"{path}: frame {index}"
        if not isinstance(entry, dict) or not isinstance(entry.get("file_path"), str) or "transform_matrix" not in entry:
            raise DataError(f"{where}: needs file_path and transform_matrix; fix or remove the frame")
        relative = entry["file_path"].replace("\\", "/")
        w2c = w2c_from_opengl(entry["transform_matrix"], f"{where} ({relative})")
        image = find_image(path.parent, relative)
        if image is None:
            skipped.append(f"{relative}: no such image")
            continue
        frames.append(Frame(relative, image, read_header(image), w2c, {**shared, **entry}, f"{where} ({relative})"))
    return sorted(frames, key=lambda frame: _natural(frame.relative)), skipped


def find_image(root: Path, relative: str) -> Path | None:
    """The image file of a path that may lack its suffix, or None.

    Raises:
        DataError: the path leads out of `root`.
    """
    exact = inside(root, relative)
    if exact.is_file():
        return exact
    return next((p for suffix in IMAGE_SUFFIXES if (p := exact.with_name(exact.name + suffix)).is_file()), None)


def number(settings: Mapping[str, Any], key: str, where: str) -> float | None:
    """A finite number of a frame's settings, None if the key is absent.

    Raises:
        DataError: the value is no finite number.
    """
    value = settings.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise DataError(f"{where}: {key} is {value!r}, not a finite number; fix it")
    return float(value)


def focal_from_angle(size: float, angle: float, where: str) -> float:
    """Focal length in pixels from the field of view in radians over `size` pixels.

    Raises:
        DataError: the angle is not between 0 and pi.
    """
    if not 0.0 < angle < math.pi:
        raise DataError(
            f"{where}: field of view {angle:g} must be between 0 and pi radians; fix camera_angle_x or camera_angle_y"
        )
    return 0.5 * size / math.tan(0.5 * angle)


def image_size(frame: Frame) -> tuple[int, int]:
    """Width and height in pixels as the file states them, the image's own where it does not."""
    width, height = number(frame.settings, "w", frame.where), number(frame.settings, "h", frame.where)
    return (frame.header.width if width is None else int(width), frame.header.height if height is None else int(height))


def skipped_all(path: Path, skipped: Sequence[str]) -> DataError:
    """The error for a file none of whose images exist."""
    return DataError(
        f"{path}: none of its {len(skipped)} images exists ({skipped[0]}); check file_path" if skipped else f"{path}: no frames"
    )


def _load(path: Path) -> dict[str, Any]:
    try:
        data = parse_json(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; check the path") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not a JSON file ({error}); export it again") from error
    if not isinstance(data, dict) or not isinstance(data.get("frames"), list) or not data["frames"]:
        raise DataError(f"{path}: has no list of frames; check that it is a transforms file")
    return data


def _natural(name: str) -> list[tuple[int, str]]:
    """Sort key in which r_2 comes before r_10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]
