"""Image files of a source: finding them, reading their headers, naming their views, matching masks to them."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from PIL import Image

from nsr.errors import DataError

# A larger image is refused before it is decoded: a small file can claim to be enormous.
MAX_PIXELS = 200_000_000
_MAX_NAME, _MAX_PATH = 240, 2000  # bytes; systems allow 255 and 4096, with the suffix and the folder that are added
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
MASK_SUFFIXES = (".png", ".jpg", ".jpeg")


@dataclass(frozen=True)
class Header:
    """What an image file says before its pixels.

    Attributes:
        width, height: pixels as stored (an EXIF orientation is not applied).
        alpha: it has an alpha channel.
    """

    width: int
    height: int
    alpha: bool


def read_header(path: Path) -> Header:
    """Size and channels of an image file, without decoding its pixels.

    Raises:
        DataError: no such file, or no JPEG or PNG image in it.
    """
    try:
        with warnings.catch_warnings():
            # The limit below decides, not Pillow's lower one.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path, formats=("JPEG", "PNG")) as image:
                header = Header(*image.size, alpha="A" in image.getbands() or "transparency" in image.info)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such image; restore it or remove its view from the source") from error
    except Image.DecompressionBombError as error:
        raise DataError(f"{path}: over {MAX_PIXELS} pixels; scale the image down") from error
    except Exception as error:  # Pillow's parsers fail in many ways on a damaged file
        raise DataError(f"{path}: not a readable JPEG or PNG image; export it again or remove it") from error
    if header.width * header.height > MAX_PIXELS:
        raise DataError(f"{path}: {header.width}x{header.height} is over {MAX_PIXELS} pixels; scale the image down")
    return header


def inside(root: Path, relative: str) -> Path:
    """`root / relative`, where `relative` comes from a file and must not lead out of `root`.

    Links below `root` are followed as usual: who owns the folder made them.

    Raises:
        DataError: it is absolute elsewhere, goes up beyond `root`, is no path, or is longer than a system allows.
    """
    if not isinstance(relative, str) or "\0" in relative:
        raise DataError(f"{root}: {relative!r} is no path; make the file that names it again")
    parts = [part.encode("utf-8", "surrogatepass") for part in relative.split("/")]
    if max(map(len, parts)) > _MAX_NAME or sum(map(len, parts)) > _MAX_PATH:
        raise DataError(f"{root}: '{relative[:60]}...' is too long a path; make the file that names it again")
    path = Path(os.path.normpath(root / relative))
    if not path.is_relative_to(os.path.normpath(root)):
        raise DataError(f"{relative}: leads out of {root}; move the file there and name it by a path relative to that folder")
    return path


def list_images(folder: Path) -> list[Path]:
    """JPEG and PNG files directly in a folder, in name order; hidden files are left out.

    Raises:
        DataError: no such folder, or no image in it.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder of images; check the path")
    found = sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith("."))
    if not found:
        raise DataError(f"{folder}: holds no .jpg or .png image; check the path or convert the images")
    return found


def find_folder(root: Path, names: Sequence[str]) -> Path | None:
    """The first of the named folders that exists under `root`, or None."""
    return next((root / name for name in names if (root / name).is_dir()), None)


def view_names(relative: Sequence[str]) -> list[str]:
    """Names for views from image paths relative to their source, usable as file stems.

    The stem alone where all stems differ, otherwise the whole path with `/` as `_` (`train/r_0.png` -> `train_r_0`).
    """
    paths = [PurePosixPath(name.replace("\\", "/")) for name in relative]
    stems = [path.stem for path in paths]
    if len(set(stems)) == len(stems):
        return stems
    return ["_".join(part for part in path.with_suffix("").parts if part not in (".", "..", "/")) for path in paths]


def match_masks(images: Sequence[str], folder: Path | None) -> list[Path | None]:
    """The mask file of each image.

    Tried in this order, the first rule that serves every image wins: the image's path with `.png` appended or its
    suffix exchanged (COLMAP); the same stem; the same number in the name, whatever its count of digits; the same
    position in name order, if there are as many masks as images.

    Args:
        images: paths relative to the image folder, in name order. folder: of masks; None: there are no masks.

    Raises:
        DataError: the folder is missing or empty, or leaves an image without a mask.
    """
    if folder is None:
        return [None] * len(images)
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder of masks; check the path")
    masks = sorted(p for p in folder.rglob("*") if p.suffix.lower() in MASK_SUFFIXES and not p.name.startswith("."))
    by_path = {p.relative_to(folder).as_posix(): p for p in masks}
    exact = [next((by_path[c] for c in _mask_names(image) if c in by_path), None) for image in images]
    by_number, number_of = _by_number(masks), [_number(PurePosixPath(image).stem) for image in images]
    numbered = [by_number.get(number) for number in number_of] if len(set(number_of)) == len(images) else [None]
    by_stem = {p.stem: p for p in masks} if len({p.stem for p in masks}) == len(masks) else {}
    stemmed = [by_stem.get(PurePosixPath(image).stem) for image in images]
    for matched in (exact, stemmed, numbered):
        if all(matched):
            return list(matched)
    if len(masks) == len(images):
        return list(masks)
    missing = next(image for image, a, b in zip(images, exact, stemmed, strict=True) if not (a or b))
    raise DataError(f"{folder}: no mask for {missing} ({len(masks)} masks, {len(images)} images); add it or give no masks")


def _mask_names(image: str) -> Iterable[str]:
    yield f"{image}.png"
    stem = str(PurePosixPath(image).with_suffix(""))
    for suffix in MASK_SUFFIXES:
        yield stem + suffix
        yield stem + suffix.upper()


def _number(stem: str) -> int | None:
    digits = re.findall(r"\d+", stem)
    return int(digits[-1]) if digits else None


def _by_number(masks: Sequence[Path]) -> dict[int | None, Path]:
    numbers = [_number(p.stem) for p in masks]
    if None in numbers or len(set(numbers)) != len(masks):
        return {}
    return dict(zip(numbers, masks, strict=True))
