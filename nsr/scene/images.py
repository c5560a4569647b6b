"""Reading and writing of photographs and masks as arrays; every failure becomes one line that names the file.

Pixels are taken as stored: an EXIF orientation tag is not applied, because structure from motion and calibration files
speak of stored pixels too.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from nsr.conventions import MASK_BACKGROUND, MASK_IGNORE, MASK_OBJECT
from nsr.data.files import MAX_PIXELS
from nsr.errors import DataError
from nsr.scene.scene import View

_DEEP_GREY = ("I;16", "I;16B", "I;16L", "I")
_EXIF_ORIENTATION = 0x0112


def load_image(path: Path) -> NDArray[np.uint8]:
    """Read a photograph.

    Returns:
        (H, W, 3) uint8 sRGB, pixels as stored; grey images are repeated over the channels, alpha is dropped.

    Raises:
        DataError: missing, unreadable, truncated or larger than `MAX_PIXELS`.
    """
    image = _decode(path)
    if image.mode in _DEEP_GREY:
        return np.repeat(_grey_to_8_bit(image)[..., None], 3, axis=2)
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def load_rgba(path: Path) -> NDArray[np.uint8]:
    """Read a photograph with its alpha channel, straight (not premultiplied), as (H, W, 4) uint8.

    Raises:
        DataError: as `load_image`, or the image has no alpha channel.
    """
    image = _decode(path)
    if "A" not in image.getbands() and "transparency" not in image.info:
        raise DataError(f"{path}: has no alpha channel to take the mask from; give mask images instead")
    return np.array(image.convert("RGBA"))


def load_mask(path: Path, size: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """Read a mask.

    Grey values over 128 are object, under 128 background, 128 itself is ignore; an image of zeros and ones counts as
    black and white. Colour is turned to grey, and transparent pixels count as black.

    Args:
        path: image file. size: (width, height) in pixels it must have, None accepts any.

    Returns:
        (H, W) uint8 with the values of `nsr.conventions` only.

    Raises:
        DataError: as `load_image`, or of another size.
    """
    image = _decode(path)
    if size is not None and image.size != tuple(size):
        raise DataError(
            f"{path}: the mask is {image.width}x{image.height}, its photo {size[0]}x{size[1]}; "
            "make the masks again from these photos"
        )
    if image.mode in _DEEP_GREY:
        grey = _grey_to_8_bit(image)
    elif "A" in image.getbands():
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        grey = np.array(Image.alpha_composite(black, image.convert("RGBA")).convert("L"))
    else:
        grey = np.array(image.convert("L"))
    if grey.max(initial=0) == 1:
        grey = grey * np.uint8(255)
    return mask_values(grey)


def mask_values(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Grey levels (H, W) in 0..255 -> mask values (H, W) of `nsr.conventions`."""
    out = np.where(grey > MASK_IGNORE, MASK_OBJECT, MASK_BACKGROUND).astype(np.uint8)
    out[grey == MASK_IGNORE] = MASK_IGNORE
    return out


def each_view_image(views: Sequence[View]) -> Iterator[NDArray[np.uint8]]:
    """Photographs of prepared views one after the other, each (H, W, 3) uint8 sRGB.

    Raises:
        DataError: as `load_image`, or a file does not have the size that its view states.
    """
    for view in views:
        image = load_image(view.image)
        if image.shape[:2] != (view.height, view.width):
            raise DataError(f"{view.image}: not {view.width}x{view.height} as the scene says; run prepare again")
        yield image


def load_view_images(views: Sequence[View]) -> list[NDArray[np.uint8]]:
    """`each_view_image`, all at once."""
    return list(each_view_image(views))


def each_view_mask(views: Sequence[View]) -> Iterator[NDArray[np.uint8]]:
    """Masks of prepared views one after the other, each (H, W) uint8 with the values of `nsr.conventions`.

    Raises:
        DataError: as `load_mask`, or a view has no mask.
    """
    for view in views:
        if view.mask is None:
            raise DataError(
                f"{view.image}: has no mask; add one to the source and run prepare again, or choose a method without masks"
            )
        yield load_mask(view.mask, (view.width, view.height))


def load_view_masks(views: Sequence[View]) -> list[NDArray[np.uint8]]:
    """`each_view_mask`, all at once."""
    return list(each_view_mask(views))


def save_png(path: Path, pixels: NDArray[np.uint8]) -> None:
    """Write (H, W) or (H, W, 3) uint8 as PNG: the file appears whole or not at all.

    Raises:
        DataError: the folder cannot be written.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        Image.fromarray(pixels).save(partial, format="PNG", compress_level=3)
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise DataError(f"{path}: cannot be written ({error.strerror or error}); check the folder and the disk space") from error


def is_plain(path: Path) -> bool:
    """Whether every reader takes the same 8-bit pixels from an image file: RGB or grey, no palette, alpha, CMYK or 16 bits."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with Image.open(path) as image:
            return image.mode in ("RGB", "L")


def exif_orientation(path: Path) -> int:
    """EXIF orientation tag of an image file, 1 if it has none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with Image.open(path) as image:
            return int(image.getexif().get(_EXIF_ORIENTATION, 1))


def _decode(path: Path) -> Image.Image:
    try:
        with warnings.catch_warnings():
            # The limit below decides, not Pillow's lower one.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise DataError(f"{path}: {image.width}x{image.height} is over {MAX_PIXELS} pixels; scale the image down")
                image.load()
                return image.copy()
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such image file; put it there or remove its entry from the source") from error
    except Image.DecompressionBombError as error:
        raise DataError(f"{path}: over {MAX_PIXELS} pixels; scale the image down") from error
    except UnidentifiedImageError as error:
        raise DataError(f"{path}: not an image that can be read; copy the file again or leave it out") from error
    except DataError:
        raise
    except Exception as error:  # Pillow's decoders fail in many ways on a damaged file
        reason = " ".join(str(error).split())
        raise DataError(f"{path}: unreadable or truncated image ({reason}); copy the file again or leave it out") from error


def _grey_to_8_bit(image: Image.Image) -> NDArray[np.uint8]:
    """16-bit grey image -> (H, W) uint8, 65535 becoming 255."""
    values = np.asarray(image).astype(np.int64)
    return ((np.clip(values, 0, 65535) + 128) // 257).astype(np.uint8)
