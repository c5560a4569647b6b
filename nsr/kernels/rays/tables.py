"""Photographs as tables on the device, and rays drawn from them."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class PixelTables(NamedTuple):
    """Pixels of V photographs of any sizes, P pixels in all.

    Attributes:
        colours: (P, 3) uint8, row by row. masks: (P,) uint8 with the values of `nsr.conventions`, or None.
        starts: (V,) first pixel of a view. widths: (V,) pixels.
        windows: (V, 4) left, top, right, bottom: rays are drawn from here.
        cumulative_area: (V,) int64, pixels in the windows up to and including a view's.
        K_inverse: (V, 3, 3). rotation: (V, 3, 3) camera to unit frame. centre: (V, 3) unit frame. All float32.
    """

    colours: Tensor
    masks: Tensor | None
    starts: Tensor
    widths: Tensor
    windows: Tensor
    cumulative_area: Tensor
    K_inverse: Tensor
    rotation: Tensor
    centre: Tensor


class DrawnRays(NamedTuple):
    """R random rays.

    Attributes:
        origin, direction: (R, 3) unit frame, direction of length 1. colour: (R, 3) in [0, 1].
        mask: (R,) float32 in {0, 1}, 1 everywhere without masks. valid: (R,) bool, False where the mask says ignore.
        view, column, row: (R,) int32, the pixel.
        jitter: (R,) float32 in [0, 1), for marching. noise: (R, 3) float32 in [0, 1), for a random background.
    """

    origin: Tensor
    direction: Tensor
    colour: Tensor
    mask: Tensor
    valid: Tensor
    view: Tensor
    column: Tensor
    row: Tensor
    jitter: Tensor
    noise: Tensor
