"""Checks of a set of masks before anything is built on them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nsr.conventions import MASK_IGNORE, MASK_OBJECT
from nsr.errors import DataError
from nsr.scene.scene import Scene

# A mask counts as inverted if more than this share of the image border is object, and less of the image's middle.
_BORDER_SHARE = 0.5


def check_masks(paths: Sequence[Path], masks: Sequence[NDArray[np.uint8]]) -> tuple[str, ...]:
    """Refuse masks that cannot be right as a set.

    Args:
        paths: one file per mask, for messages (the photo, where the mask is its alpha channel).
        masks: each (H, W) uint8 with the values of `nsr.conventions`.

    Returns:
        Notes: one line for each single mask that is empty or full while most are not.

    Raises:
        DataError: in most masks the object covers the image border (inverted), is everywhere, or is nowhere.
    """
    if not masks:
        return ()
    empty = [path for path, mask in zip(paths, masks, strict=True) if not (mask == MASK_OBJECT).any()]
    full = [path for path, mask in zip(paths, masks, strict=True) if _share(mask) == 1.0]
    inverted = [path for path, mask in zip(paths, masks, strict=True) if _inverted(mask)]
    count = len(masks)
    if 2 * len(empty) > count:
        raise DataError(f"{empty[0]}: mask without object, as {len(empty)} of {count}; the object must be white on black")
    if 2 * len(full) > count:
        raise DataError(f"{full[0]}: mask is object everywhere, as {len(full)} of {count}; give real masks or none")
    if 2 * len(inverted) > count:
        raise DataError(
            f"{inverted[0]}: mask looks inverted, the object covers the image border, as in {len(inverted)} of {count}; "
            "the object must be white on black (invert the masks, or prepare without them)"
        )
    return tuple(f"{path.name}: mask without object" for path in empty) + tuple(
        f"{path.name}: mask is object everywhere" for path in full
    )


def require_masks(scene: Scene) -> None:
    """Make sure that every view has a mask.

    Raises:
        DataError: names the first view without one.
    """
    missing = [view.image for view in scene.views if view.mask is None]
    if missing:
        raise DataError(
            f"{missing[0]}: this method needs masks, but {len(missing)} of {len(scene.views)} views have none; give a masks folder "
            "in the manifest, or take a method that needs none (nsr), or set train.use_masks=auto model.background.kind=learned"
        )


def _share(mask: NDArray[np.uint8]) -> float:
    """Share of object among the pixels that are not ignored, 0 if all are."""
    counted = mask != MASK_IGNORE
    return float((mask == MASK_OBJECT).sum() / max(1, counted.sum()))


def _inverted(mask: NDArray[np.uint8]) -> bool:
    """Whether the object covers the border more than the middle, which no photo of an object does, not even a close one."""
    height, width = mask.shape
    middle = mask[height // 4 : height - height // 4, width // 4 : width - width // 4]
    border = _share(_border(mask))
    return border > _BORDER_SHARE and border > _share(middle)


def _border(mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.concatenate([mask[0], mask[-1], mask[1:-1, 0], mask[1:-1, -1]])
