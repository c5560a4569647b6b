"""Patches at the zero level in Triton: a program a ray, the pixels of all its sources side by side.

The forward kernel also computes the derivative of a ray's loss by its two distances, forward mode: with
`h = A (q + e s)`, `e` the way between the cameras and `s = (n . q) / (t n . d)`, only s depends on t, `ds/dt = -s / t`; a place
moves by the derivative of `h_xy / h_z`, a grey level by the slopes of its four taps, and with a and b the patches less their
means, A and B their squares' sums, `dNCC = (a . b' - (a . b) / B b . b') / sqrt(A B)`. What is left for the backward pass is
to multiply and to store: a row belongs to one ray, so nothing is added up.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from nsr.conventions import PIXEL_CENTRE
from nsr.kernels.gpu import interpreted
from nsr.kernels.packed import Packed
from nsr.kernels.patch.tables import (
    GRAZING,
    HIDDEN,
    LEAST_DEVIATION,
    LEAST_SLOPE,
    PatchLoss,
    PatchRays,
    PatchShape,
    PatchTables,
)

_SEARCHED = 64  # samples of a ray looked at at once
# The interpreter's time goes by operations, not by rays.
_BLOCK = 1024 if interpreted() else 128
_GRAZING, _SLOPE, _HIDDEN = tl.constexpr(GRAZING), tl.constexpr(LEAST_SLOPE), tl.constexpr(HIDDEN)
_VARIANCE = tl.constexpr(LEAST_DEVIATION**2)
_CENTRE = tl.constexpr(PIXEL_CENTRE)
_NOTHING = tl.constexpr(1e9)  # cost of a source that does not count
_FAR = tl.constexpr(1 << 30)  # place of a sample that is not there


def patch_loss(
    sdf: Tensor,
    gradient: Tensor,
    t: Tensor,
    packed: Packed,
    rays: PatchRays,
    tables: PatchTables,
    *,
    shape: PatchShape,
    step: float,
) -> PatchLoss:
    """See `nsr.kernels.patch.patch_loss`; float32."""
    fixed = (part.contiguous() for part in (t, packed.starts, packed.counts, *rays, *tables))
    return PatchLoss(*_Patches.apply(sdf, shape, step, gradient.detach(), *fixed))


class _Patches(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, sdf: Tensor, shape: PatchShape, step: float, *fixed: Tensor) -> tuple[Tensor, Tensor]:
        count, device, sources = len(fixed[4]), sdf.device, fixed[-1].shape[1]
        loss, used = torch.empty(count, device=device), torch.empty(count, dtype=torch.bool, device=device)
        row, slope = torch.empty(count, dtype=torch.int32, device=device), torch.empty(count, 2, device=device)
        wide, pixels = triton.next_power_of_2(max(sources, 2)), triton.next_power_of_2(shape.size**2)
        if count:
            _forward[(count,)](
                sdf.contiguous(), *fixed, loss, used, row, slope, *fixed[0].stride(), step,
                SIZE=shape.size, SPACING=shape.spacing, BEST=shape.best, SOURCES=sources, LANES=_SEARCHED,
                WIDE=wide, PIXELS=pixels, num_warps=min(16, max(2, wide * pixels // 256)),
            )  # fmt: skip
        ctx.save_for_backward(used, row, slope)
        ctx.rows = len(sdf)
        ctx.mark_non_differentiable(used)
        return loss, used

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, pulled: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        used, row, slope = ctx.saved_tensors
        to_sdf = torch.zeros(ctx.rows, device=pulled.device)
        if len(used):
            _backward[(triton.cdiv(len(used), _BLOCK),)](pulled.contiguous(), used, row, slope, to_sdf, len(used), BLOCK=_BLOCK)
        return to_sdf, *[None] * 17


@triton.jit
def _forward(
    sdf_ptr, gradient_ptr, t_ptr, starts_ptr, counts_ptr, direction_ptr, view_ptr, column_ptr, row_ptr,
    grey_ptr, first_ptr, sizes_ptr, towards_ptr, projection_ptr, centre_ptr, sources_ptr,
    loss_ptr, used_ptr, inside_ptr, slope_ptr, gradient_row, gradient_axis, step,
    SIZE: tl.constexpr, SPACING: tl.constexpr, BEST: tl.constexpr, SOURCES: tl.constexpr, LANES: tl.constexpr,
    WIDE: tl.constexpr, PIXELS: tl.constexpr,
):  # fmt: skip
    ray = tl.program_id(0)
    start, count = tl.load(starts_ptr + ray).to(tl.int32), tl.load(counts_ptr + ray).to(tl.int32)
    inside = _first_inside(sdf_ptr, start, count, LANES)
    found = (inside > start) & (inside < _FAR)
    f0 = tl.load(sdf_ptr + inside - 1, mask=found, other=1.0).to(tl.float32)
    f1 = tl.load(sdf_ptr + inside, mask=found, other=0.0).to(tl.float32)
    t0 = tl.load(t_ptr + inside - 1, mask=found, other=0.0).to(tl.float32)
    gap = tl.load(t_ptr + inside, mask=found, other=0.0).to(tl.float32) - t0
    fall = f0 - f1
    found = found & (gap < 1.5 * step) & (fall > gap * _SLOPE)
    share = f0 / tl.where(found, fall, 1.0)
    t = tl.where(found, t0 + gap * share, 0.0)
    nx, ny, nz = _normal(gradient_ptr + inside.to(tl.int64) * gradient_row, gradient_row, gradient_axis, share, found)
    dx, dy, dz = _load3(direction_ptr + 3 * ray)
    cosine = nx * dx + ny * dy + nz * dz
    view = tl.load(view_ptr + ray).to(tl.int32)
    column, row = tl.load(column_ptr + ray).to(tl.int32), tl.load(row_ptr + ray).to(tl.int32)
    width, height = tl.load(sizes_ptr + 2 * view), tl.load(sizes_ptr + 2 * view + 1)
    reach: tl.constexpr = SIZE // 2 * SPACING
    fits = (column >= reach) & (row >= reach) & (column + reach < width) & (row + reach < height)
    found = found & (cosine + _GRAZING < 0.0) & fits
    loss, to_t, some = t * 0.0, t * 0.0, found
    if found:
        lane = tl.arange(0, PIXELS)[None, :]
        real = lane < SIZE * SIZE
        x = column + (lane % SIZE - SIZE // 2) * SPACING
        y = row + (lane // SIZE - SIZE // 2) * SPACING
        flat = tl.load(first_ptr + view).to(tl.int64) + y.to(tl.int64) * width + x
        own = tl.load(grey_ptr + flat, mask=real, other=0.0).to(tl.float32)
        qx, qy, qz = _product(towards_ptr + 9 * view, x.to(tl.float32) + _CENTRE, y.to(tl.float32) + _CENTRE, 1.0)
        scaled = (nx * qx + ny * qy + nz * qz) / (t * cosine)
        at = tl.arange(0, WIDE)[:, None]
        source = tl.load(sources_ptr + view * SOURCES + at, mask=at < SOURCES, other=-1)
        seen = source >= 0
        source = tl.maximum(source, 0)
        ex, ey, ez = _between(centre_ptr, view, source)
        seen = seen & _faces(nx, ny, nz, -ex - t * dx, -ey - t * dy, -ez - t * dz)
        bx, by, bz = _product(projection_ptr + 9 * source, ex, ey, ez)
        hx, hy, hz = _product(projection_ptr + 9 * source, qx, qy, qz)
        depth = hz + bz * scaled
        ahead = (depth > 0.0) & (scaled > 0.0)
        depth = tl.where(ahead, depth, 1.0)
        u, v = (hx + bx * scaled) / depth, (hy + by * scaled) / depth
        change = scaled / (t * depth)
        theirs, rate, within = _bilinear(
            grey_ptr, first_ptr, sizes_ptr, source, u, v, (u * bz - bx) * change, (v * bz - by) * change, ahead & seen, real
        )
        seen = seen & (tl.min((within | (real == 0)).to(tl.int32), axis=1, keep_dims=True) > 0)
        loss, to_t, some = _compare(own, theirs, rate, seen, real, SIZE * SIZE, BEST, WIDE)
    tl.store(loss_ptr + ray, loss)
    tl.store(used_ptr + ray, some)
    tl.store(inside_ptr + ray, inside)
    tl.store(slope_ptr + 2 * ray, -to_t * gap * f1 / (fall * fall), mask=some)
    tl.store(slope_ptr + 2 * ray + 1, to_t * gap * f0 / (fall * fall), mask=some)


@triton.jit
def _first_inside(sdf_ptr, start, count, LANES: tl.constexpr):
    """Row of a ray's first sample that is not outside, `_FAR` if there is none."""
    lane = tl.arange(0, LANES)
    base, inside = count * 0, count * 0 + _FAR
    while (base < count) & (inside == _FAR):
        ok = base + lane < count
        sdf = tl.load(sdf_ptr + start + base + lane, mask=ok, other=1.0).to(tl.float32)
        inside = tl.min(tl.where(sdf <= 0.0, start + base + lane, _FAR), axis=0)
        base += LANES
    return inside


@triton.jit
def _normal(place, row, axis, share, ok):
    """Unit normal between the sample at a place and the one before it."""
    x = _between_samples(place, row, share, ok)
    y = _between_samples(place + axis, row, share, ok)
    z = _between_samples(place + 2 * axis, row, share, ok)
    length = tl.maximum(tl.sqrt(x * x + y * y + z * z), 1e-6)
    return x / length, y / length, z / length


@triton.jit
def _between_samples(place, row, share, ok):
    before = tl.load(place - row, mask=ok, other=0.0).to(tl.float32)
    return before + share * (tl.load(place, mask=ok, other=0.0).to(tl.float32) - before)


@triton.jit
def _load3(place):
    return tl.load(place), tl.load(place + 1), tl.load(place + 2)


@triton.jit
def _between(centre_ptr, view, source):
    """From each source's centre to the view's."""
    ax, ay, az = _load3(centre_ptr + 3 * view)
    bx, by, bz = _load3(centre_ptr + 3 * source)
    return ax - bx, ay - by, az - bz


@triton.jit
def _faces(nx, ny, nz, x, y, z):
    """Whether a normal is turned towards (x, y, z), and not all but square to it."""
    return nx * x + ny * y + nz * z > tl.sqrt(x * x + y * y + z * z) * _GRAZING


@triton.jit
def _product(matrix, x, y, z):
    """Product of (3, 3) matrices and vectors."""
    return (
        tl.load(matrix) * x + tl.load(matrix + 1) * y + tl.load(matrix + 2) * z,
        tl.load(matrix + 3) * x + tl.load(matrix + 4) * y + tl.load(matrix + 5) * z,
        tl.load(matrix + 6) * x + tl.load(matrix + 7) * y + tl.load(matrix + 8) * z,
    )


@triton.jit
def _bilinear(grey_ptr, first_ptr, sizes_ptr, source, u, v, du, dv, ok, real):
    """Grey levels at places (u, v) of the sources, their rates under (du, dv), and which places are inside."""
    width, height = tl.load(sizes_ptr + 2 * source), tl.load(sizes_ptr + 2 * source + 1)
    x, y = u - _CENTRE, v - _CENTRE
    within = ok & (x >= 0.0) & (y >= 0.0) & (x <= (width - 1).to(tl.float32)) & (y <= (height - 1).to(tl.float32))
    x, y = tl.where(within, x, 0.0), tl.where(within, y, 0.0)
    left, top = tl.minimum(x.to(tl.int32), width - 2), tl.minimum(y.to(tl.int32), height - 2)
    x, y = x - left.to(tl.float32), y - top.to(tl.float32)
    place = grey_ptr + (tl.load(first_ptr + source).to(tl.int64) + top.to(tl.int64) * width + left)
    ok = within & real
    a, b = tl.load(place, mask=ok, other=0.0).to(tl.float32), tl.load(place + 1, mask=ok, other=0.0).to(tl.float32)
    c = tl.load(place + width, mask=ok, other=0.0).to(tl.float32)
    d = tl.load(place + width + 1, mask=ok, other=0.0).to(tl.float32)
    upper, lower = a + x * (b - a), c + x * (d - c)
    across = (b - a) + y * ((d - c) - (b - a))
    return upper + y * (lower - upper), across * du + (lower - upper) * dv, within


@triton.jit
def _compare(own, theirs, rate, seen, real, NUMBER: tl.constexpr, BEST: tl.constexpr, WIDE: tl.constexpr):
    """Mean of 1 - NCC over the best sources, its derivative, and whether there are any."""
    one = tl.where(real, own - tl.sum(own, axis=1, keep_dims=True) / NUMBER, 0.0)
    two = tl.where(real, theirs - tl.sum(theirs, axis=1, keep_dims=True) / NUMBER, 0.0)
    squares_one = tl.sum(one * one, axis=1, keep_dims=True)
    squares_two = tl.sum(two * two, axis=1, keep_dims=True)
    good = seen & (squares_one > _VARIANCE * NUMBER) & (squares_two > _VARIANCE * NUMBER)
    squares_two = tl.where(good, squares_two, 1.0)
    root = tl.sqrt(tl.where(good, squares_one, 1.0)) * tl.sqrt(squares_two)
    common = tl.sum(one * two, axis=1, keep_dims=True)
    rise = tl.sum(one * rate, axis=1, keep_dims=True) - common / squares_two * tl.sum(two * rate, axis=1, keep_dims=True)
    cost = 1.0 - common / root
    good = good & (cost < _HIDDEN)
    cost = tl.where(good, cost, _NOTHING)
    # Rank of each source: how many are better, or as good and named earlier.
    flat = tl.reshape(cost, (WIDE,))
    at, other = tl.arange(0, WIDE)[:, None], tl.arange(0, WIDE)[None, :]
    better = (flat[None, :] < cost) | ((flat[None, :] == cost) & (other < at))
    chosen = good & (tl.sum(better.to(tl.int32), axis=1, keep_dims=True) < BEST)
    number = tl.sum(tl.reshape(chosen.to(tl.int32), (WIDE,)), axis=0)
    share = 1.0 / tl.maximum(number, 1).to(tl.float32)
    loss = tl.sum(tl.reshape(tl.where(chosen, cost, 0.0), (WIDE,)), axis=0) * share
    to_t = tl.sum(tl.reshape(tl.where(chosen, -rise / root, 0.0), (WIDE,)), axis=0) * share
    return loss, to_t, number > 0


@triton.jit
def _backward(pulled_ptr, used_ptr, inside_ptr, slope_ptr, to_sdf_ptr, count, BLOCK: tl.constexpr):
    ray = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    ok = ray < count
    ok = ok & (tl.load(used_ptr + ray, mask=ok, other=0) != 0)
    pulled = tl.load(pulled_ptr + ray, mask=ok, other=0.0).to(tl.float32)
    inside = tl.load(inside_ptr + ray, mask=ok, other=1)
    tl.store(to_sdf_ptr + inside - 1, pulled * tl.load(slope_ptr + 2 * ray, mask=ok, other=0.0), mask=ok)
    tl.store(to_sdf_ptr + inside, pulled * tl.load(slope_ptr + 2 * ray + 1, mask=ok, other=0.0), mask=ok)
