"""Random rays in Triton, a thread a ray."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from nsr.conventions import MASK_IGNORE, MASK_OBJECT, PIXEL_CENTRE
from nsr.kernels.gpu import interpreted
from nsr.kernels.rays.philox import RAY_STREAM
from nsr.kernels.rays.tables import DrawnRays, PixelTables
from nsr.kernels.rays.triton_philox import random_words, uniform

# The interpreter's time goes by operations, not by rays.
_BLOCK, _WARPS = 4096 if interpreted() else 64, 2


def draw_rays(pixels: PixelTables, count: int, *, seed: int, step: Tensor) -> DrawnRays:
    """See `nsr.kernels.rays.draw_rays`."""
    device, views = pixels.colours.device, len(pixels.starts)
    origin, direction, colour, noise = (torch.empty(count, 3, device=device) for _ in range(4))
    mask, jitter = (torch.empty(count, device=device) for _ in range(2))
    view, column, row = (torch.empty(count, dtype=torch.int32, device=device) for _ in range(3))
    valid = torch.empty(count, dtype=torch.bool, device=device)
    rays = DrawnRays(origin, direction, colour, mask, valid, view, column, row, jitter, noise)
    tables = (None if table is None else table.contiguous() for table in pixels)
    _draw[(triton.cdiv(count, _BLOCK),)](
        *tables, step, *rays, seed, count, views,
        ROUNDS=views.bit_length(), STREAM=RAY_STREAM, CENTRE=PIXEL_CENTRE, OBJECT=MASK_OBJECT, IGNORE=MASK_IGNORE,
        BLOCK=_BLOCK, num_warps=_WARPS,
    )  # fmt: skip
    return rays


@triton.jit(do_not_specialize=["seed"])
def _draw(
    colours_ptr, masks_ptr, starts_ptr, widths_ptr, windows_ptr, areas_ptr, K_inverse_ptr, rotation_ptr, centre_ptr, step_ptr,
    origin_ptr, direction_ptr, colour_ptr, mask_ptr, valid_ptr, view_ptr, column_ptr, row_ptr, jitter_ptr, noise_ptr,
    seed, count, views,
    ROUNDS: tl.constexpr, STREAM: tl.constexpr, CENTRE: tl.constexpr, OBJECT: tl.constexpr, IGNORE: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    ray = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    ok = ray < count
    high, low, jitter, red = random_words(seed, step_ptr, ray, STREAM, 0)
    green, blue, _, _ = random_words(seed, step_ptr, ray, STREAM, 1)
    tl.store(jitter_ptr + ray, uniform(jitter), mask=ok)
    _store_triple(noise_ptr, ray, uniform(red), uniform(green), uniform(blue), ok)
    total = tl.load(areas_ptr + views - 1)
    # 63 bits: the remainder favours no pixel by more than their number in 2^63.
    place = (((high & 0x7FFFFFFF).to(tl.int64) << 32) | low.to(tl.int64)) % total
    view = _find_view(areas_ptr, place, views, ROUNDS, BLOCK)
    column, row = _pixel(windows_ptr, areas_ptr, view, place)
    tl.store(view_ptr + ray, view, mask=ok)
    tl.store(column_ptr + ray, column.to(tl.int32), mask=ok)
    tl.store(row_ptr + ray, row.to(tl.int32), mask=ok)

    flat = tl.load(starts_ptr + view).to(tl.int64) + row * tl.load(widths_ptr + view) + column
    red = tl.load(colours_ptr + 3 * flat, mask=ok, other=0).to(tl.float32)
    green = tl.load(colours_ptr + 3 * flat + 1, mask=ok, other=0).to(tl.float32)
    blue = tl.load(colours_ptr + 3 * flat + 2, mask=ok, other=0).to(tl.float32)
    _store_triple(colour_ptr, ray, red / 255.0, green / 255.0, blue / 255.0, ok)
    if masks_ptr is not None:
        label = tl.load(masks_ptr + flat, mask=ok, other=0).to(tl.int32)
        tl.store(mask_ptr + ray, (label == OBJECT).to(tl.float32), mask=ok)
        tl.store(valid_ptr + ray, label != IGNORE, mask=ok)
    else:
        tl.store(mask_ptr + ray, tl.full((BLOCK,), 1.0, dtype=tl.float32), mask=ok)
        tl.store(valid_ptr + ray, tl.full((BLOCK,), 1, dtype=tl.int1), mask=ok)

    x, y, z = _rotate(K_inverse_ptr, view, column.to(tl.float32) + CENTRE, row.to(tl.float32) + CENTRE, 1.0)
    x, y, z = _rotate(rotation_ptr, view, x, y, z)
    length = tl.sqrt_rn(x * x + y * y + z * z)
    _store_triple(direction_ptr, ray, tl.div_rn(x, length), tl.div_rn(y, length), tl.div_rn(z, length), ok)
    place = centre_ptr + 3 * view
    _store_triple(origin_ptr, ray, tl.load(place), tl.load(place + 1), tl.load(place + 2), ok)


@triton.jit
def _find_view(areas_ptr, place, views, ROUNDS: tl.constexpr, BLOCK: tl.constexpr):
    """Number of views whose windows end at or before a place, by bisection: a bit of it a round."""
    view = tl.zeros((BLOCK,), dtype=tl.int32)
    for bit in tl.static_range(ROUNDS):
        further = view + (1 << (ROUNDS - 1 - bit))
        fits = further <= views
        area = tl.load(areas_ptr + further - 1, mask=fits, other=0)
        view = tl.where(fits & (area <= place), further, view)
    return view


@triton.jit
def _pixel(windows_ptr, areas_ptr, view, place):
    left = tl.load(windows_ptr + 4 * view).to(tl.int64)
    top = tl.load(windows_ptr + 4 * view + 1).to(tl.int64)
    width = tl.load(windows_ptr + 4 * view + 2).to(tl.int64) - left
    height = tl.load(windows_ptr + 4 * view + 3).to(tl.int64) - top
    inside = place - (tl.load(areas_ptr + view) - width * height)
    return left + inside % width, top + inside // width


@triton.jit
def _rotate(matrix_ptr, view, x, y, z):
    """Product of each view's (3, 3) matrix and a vector."""
    row = matrix_ptr + 9 * view
    return (
        tl.load(row) * x + tl.load(row + 1) * y + tl.load(row + 2) * z,
        tl.load(row + 3) * x + tl.load(row + 4) * y + tl.load(row + 5) * z,
        tl.load(row + 6) * x + tl.load(row + 7) * y + tl.load(row + 8) * z,
    )


@triton.jit
def _store_triple(target_ptr, ray, x, y, z, ok):
    tl.store(target_ptr + 3 * ray, x, mask=ok)
    tl.store(target_ptr + 3 * ray + 1, y, mask=ok)
    tl.store(target_ptr + 3 * ray + 2, z, mask=ok)
