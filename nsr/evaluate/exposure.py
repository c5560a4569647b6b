"""PSNR of a view whose exposure nothing could tell.

A model that learns the exposure of its training photographs renders with their average one. What a held-out photograph was
exposed with is in none of its training data, and a difference in exposure costs more PSNR than most errors of a surface: a
factor of 1.1 on a colour of 0.5 alone is 26 dB. Therefore the render is given the best exposure for each view, by least squares
over its pixels, before it is compared, as is usual for what cannot be determined. A model that blurs profits less from it than
one that is right, and a model without exposure may be given it too, so that both compare.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

FloatImage = NDArray[np.float64]
Mask = NDArray[np.bool_]


def corrected(
    image: FloatImage, reference: FloatImage, pixels: Mask, *, kind: Literal["gain", "affine"], backdrop: FloatImage | None = None
) -> FloatImage:
    """The image with the exposure that brings it nearest to the reference, in [0, 1]; both (H, W, 3).

    Args:
        pixels: (H, W), those that count. kind: one factor for each channel, or a matrix and an offset (see `Exposure`).
        backdrop: (H, W, 4) what both show beside the object, premultiplied, as no exposure changes it, and how much of the
            pixel is the object's; None: the pictures are whole.
    """
    behind = 0.0 if backdrop is None else backdrop[..., :3]
    own, wanted = image - behind, (reference - behind)[pixels]
    if not pixels.any():
        return image
    if kind == "gain":
        square = (own[pixels] ** 2).sum(0)
        gain = (own[pixels] * wanted).sum(0) / np.maximum(square, 1e-12)
        return np.asarray((own * np.where(square > 1e-12, gain, 1.0) + behind).clip(0, 1))
    share = np.ones_like(own[..., :1]) if backdrop is None else backdrop[..., 3:]
    design = np.concatenate([own, share], axis=2)
    found = np.linalg.lstsq(design[pixels], wanted, rcond=None)[0]
    return np.asarray((design @ found + behind).clip(0, 1))
