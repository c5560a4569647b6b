"""Random rays in plain torch: which pixels, then what is known of a pixel."""

from __future__ import annotations

import torch
from torch import Tensor

from nsr.conventions import MASK_IGNORE, MASK_OBJECT, PIXEL_CENTRE
from nsr.kernels.rays.philox import RAY_STREAM, random_words, uniform
from nsr.kernels.rays.tables import DrawnRays, PixelTables


def draw_rays(pixels: PixelTables, count: int, *, seed: int, step: Tensor) -> DrawnRays:
    """See `nsr.kernels.rays.draw_rays`."""
    high, low, jitter, red = random_words(seed, step, count, stream=RAY_STREAM)
    green, blue, _, _ = random_words(seed, step, count, stream=RAY_STREAM, draw=1)
    # 63 bits: the remainder favours no pixel by more than their number in 2^63.
    place = ((high & 0x7FFFFFFF) << 32 | low) % pixels.cumulative_area[-1]
    view, column, row = locate(pixels, place)
    noise = torch.stack([uniform(red), uniform(green), uniform(blue)], dim=1)
    return DrawnRays(*pixel_rays(pixels, view, column, row), view.int(), column.int(), row.int(), uniform(jitter), noise)


def locate(pixels: PixelTables, place: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """View, column and row, (R,) int64 each, of places (R,) int64 in the row of all windows' pixels."""
    view = torch.searchsorted(pixels.cumulative_area, place, right=True)
    left, top, right, bottom = pixels.windows[view].long().unbind(1)
    inside = place - (pixels.cumulative_area[view] - (right - left) * (bottom - top))
    return view, left + inside % (right - left), top + inside // (right - left)


def pixel_rays(pixels: PixelTables, view: Tensor, column: Tensor, row: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Origin, direction, colour, mask and validity, as in `DrawnRays`, of given pixels: three (R,) integer tensors."""
    view, column, row = view.long(), column.long(), row.long()
    flat = pixels.starts[view] + row * pixels.widths[view] + column
    pixel = torch.stack([column + PIXEL_CENTRE, row + PIXEL_CENTRE, torch.ones_like(column)], dim=1).float()
    direction = torch.einsum("rij,rj->ri", pixels.rotation[view], torch.einsum("rij,rj->ri", pixels.K_inverse[view], pixel))
    direction = direction / direction.norm(dim=1, keepdim=True)
    colour = pixels.colours[flat].float() / 255.0
    mask = torch.ones_like(colour[:, 0]) if pixels.masks is None else (pixels.masks[flat] == MASK_OBJECT).float()
    valid = torch.ones_like(mask, dtype=torch.bool) if pixels.masks is None else pixels.masks[flat] != MASK_IGNORE
    return pixels.centre[view], direction, colour, mask, valid
