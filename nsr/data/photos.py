"""A folder of raw photographs: which files count, what their headers and EXIF data say.

Pixels are used as the file stores them. An EXIF orientation is *not* applied, here or by COLMAP: every camera of a batch
then shares one sensor geometry, whichever way the phone was held, and the poses take up the rotation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from PIL.Image import Exif

from nsr.data.files import IMAGE_SUFFIXES, list_images, read_header
from nsr.errors import DataError

REFUSED_SUFFIXES = frozenset(
    (".heic", ".heif", ".hif", ".avif", ".tif", ".tiff", ".webp", ".bmp", ".gif", ".jp2", ".jxl", ".dng", ".cr2", ".cr3")
    + (".nef", ".arw", ".raf", ".orf", ".rw2", ".pef", ".srw", ".raw")
)
VIDEO_SUFFIXES = frozenset((".mp4", ".mov", ".avi", ".mkv", ".m4v", ".webm"))
MIN_PHOTOS = 3
# EXIF tags (CIPA DC-008, Exif 2.32).
TAG_ORIENTATION, TAG_EXIF_IFD = 0x0112, 0x8769
TAG_FOCAL_MM, TAG_FOCAL_35MM = 0x920A, 0xA405
TAG_PLANE_X, TAG_PLANE_UNIT = 0xA20E, 0xA210
PLANE_UNIT_MM = {2: 25.4, 3: 10.0, 4: 1.0, 5: 0.001}
FILM_DIAGONAL_MM = math.hypot(36.0, 24.0)


@dataclass(frozen=True)
class Photo:
    """One photograph's header.

    Attributes:
        path: the file. width, height: pixels as stored.
        focal: focal length in pixels from EXIF, None if it says nothing.
        orientation: EXIF orientation 1..8, 1 if it says nothing; never applied.
    """

    path: Path
    width: int
    height: int
    focal: float | None = None
    orientation: int = 1


def read_photos(folder: Path) -> list[Photo]:
    """The photographs of a folder, in name order.

    Raises:
        DataError: no folder, too few photos, a format that is not read (HEIC, RAW, TIFF, ...), a broken header, or two
            photos with one stem.
    """
    _refuse_formats(folder)
    paths = list_images(folder)
    if len(paths) < MIN_PHOTOS:
        raise DataError(f"{folder}: {len(paths)} photo(s); at least {MIN_PHOTOS} are needed, 30 or more advised")
    stems: dict[str, Path] = {}
    for path in paths:
        if path.stem in stems:
            raise DataError(f"{path}: {stems[path.stem].name} has the same name but for its ending; rename or remove one")
        stems[path.stem] = path
    return [_read_photo(path) for path in paths]


def check_pixels(photos: Sequence[Photo]) -> None:
    """Decode every photo once: COLMAP takes what it can get from a file that is cut short, without a word.

    Raises:
        DataError: names the photo that cannot be decoded to its end.
    """
    for photo in photos:
        try:
            with Image.open(photo.path) as image:
                image.load()
        except Exception as error:  # Pillow's decoders fail in many ways on a damaged file
            raise DataError(f"{photo.path}: cannot be decoded (truncated or damaged); copy it again or remove it") from error


def one_size(photos: Sequence[Photo]) -> bool:
    """Whether all photos have the same stored size."""
    return len({(photo.width, photo.height) for photo in photos}) == 1


def exif_focal(exif: Exif, width: int, height: int) -> float | None:
    """Focal length in pixels from EXIF data, None if it says too little.

    From the 35 mm equivalent, whose reference is the film's diagonal of 43.27 mm, else from the focal length and the
    resolution of the focal plane.

    Args:
        width, height: pixels of the image.
    """
    tags = exif.get_ifd(TAG_EXIF_IFD)
    equivalent = _positive(tags.get(TAG_FOCAL_35MM))
    if equivalent is not None:
        return equivalent * math.hypot(width, height) / FILM_DIAGONAL_MM
    focal, density = _positive(tags.get(TAG_FOCAL_MM)), _positive(tags.get(TAG_PLANE_X))
    unit = PLANE_UNIT_MM.get(tags.get(TAG_PLANE_UNIT, 2))
    return None if focal is None or density is None or unit is None else focal * density / unit


def _read_photo(path: Path) -> Photo:
    header = read_header(path)
    try:
        with Image.open(path) as image:
            exif = image.getexif()
            orientation = exif.get(TAG_ORIENTATION, 1)
            focal = exif_focal(exif, header.width, header.height)
    except Exception:
        # A damaged EXIF block costs the prior, not the photo.
        return Photo(path, header.width, header.height)
    return Photo(path, header.width, header.height, focal, orientation if orientation in range(1, 9) else 1)


def _refuse_formats(folder: Path) -> None:
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder of photos; check the path")
    files = sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))
    refused = [p for p in files if p.suffix.lower() in REFUSED_SUFFIXES]
    if refused:
        kind = refused[0].suffix.lower().lstrip(".")
        raise DataError(
            f"{refused[0]}: .{kind} photos are not read ({len(refused)} such files); convert them to JPEG or PNG first"
        )
    if not any(p.suffix.lower() in IMAGE_SUFFIXES for p in files) and any(p.suffix.lower() in VIDEO_SUFFIXES for p in files):
        raise DataError(f"{folder}: holds a video and no photos; extract frames as .jpg first, two or three per second")


def _positive(value: object) -> float | None:
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return number if math.isfinite(number) and number > 0 else None
