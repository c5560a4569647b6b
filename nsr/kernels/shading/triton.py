"""The colour network's columns in Triton, a thread a sample: one kernel forward, one backward.

Codes get their gradients from a third, which sums over rays, a warp each. With `w = d - 2 (d . n) n` the mirrored direction and u
the gradient by it, that by the normal is `-2 ((d . n) u + (u . n) d)`.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from nsr.kernels.gpu import interpreted
from nsr.kernels.packed import Packed
from nsr.kernels.shading.reference import SHORTEST, Directions, harmonics_width
from nsr.kernels.shading.triton_device import pull_harmonics, store_harmonics

# The interpreter's time goes by operations, not by samples.
_BLOCK, _RAYS = (4096, 64) if interpreted() else (256, 1)
_LANES = 32


def colour_inputs(
    position: Tensor | None,
    features: Tensor,
    gradient: Tensor,
    direction: Tensor,
    packed: Packed,
    *,
    degree: int,
    codes: Tensor | None = None,
    directions: Directions = "view",
) -> Tensor:
    """See `nsr.kernels.shading.colour_inputs`; rows whose `ray` is no row of `direction` must not exist."""
    own = None if codes is None else codes.float().contiguous()
    fixed = position, direction.contiguous(), packed, degree, directions
    out: Tensor = _ColourInputs.apply(features.float(), gradient.float(), own, *fixed)
    return out.T


class _ColourInputs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, gradient: Tensor, codes: Tensor | None, *rest: Any) -> Tensor:
        position, direction, packed, degree, directions = rest
        samples, count = features.shape
        before, own = 0 if position is None else 3, 0 if codes is None else codes.shape[1]
        columns = before + count + 3 + harmonics_width(degree, directions) + own
        out = torch.empty(columns, samples, device=features.device)
        if samples:
            _forward[(triton.cdiv(samples, _BLOCK),)](
                features if position is None else position.contiguous(), features, *features.stride(), gradient,
                *gradient.stride(), direction, packed.ray, direction if codes is None else codes, out, samples, SHORTEST,
                POSITION=position is not None, FEATURES=count, DEGREE=degree, CODES=own,
                PLAIN=directions != "mirrored", MIRRORED=directions != "view", BLOCK=_BLOCK,
            )  # fmt: skip
        ctx.save_for_backward(gradient, direction, *packed)
        ctx.place = before, count, own, degree, directions
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, to_out: Tensor) -> tuple[Tensor | None, ...]:
        gradient, direction, ray, starts, counts = ctx.saved_tensors
        before, count, own, degree, directions = ctx.place
        to_gradient = torch.empty(3, len(gradient), device=gradient.device)
        to_out = to_out.contiguous()
        if len(gradient):
            _backward[(triton.cdiv(len(gradient), _BLOCK),)](
                gradient, *gradient.stride(), direction, ray, to_out[before + count :], to_gradient, len(gradient), SHORTEST,
                DEGREE=degree, PLAIN=directions != "mirrored", MIRRORED=directions != "view", BLOCK=_BLOCK,
            )  # fmt: skip
        to_codes = None
        if own:
            to_codes = torch.empty(len(starts), own, device=gradient.device)
            if len(starts):
                _sum_over_rays[(triton.cdiv(len(starts), _RAYS),)](
                    to_out[-own:], len(gradient), starts.contiguous(), counts.contiguous(), to_codes, len(starts), CODES=own,
                    RAYS=_RAYS, LANES=_LANES, num_warps=1,
                )  # fmt: skip
        return to_out[before : before + count].T, to_gradient.T, to_codes, *[None] * 5


@triton.jit
def _normal(gradient_ptr, row, axis, sample, ok, SHORTEST):
    place = gradient_ptr + sample.to(tl.int64) * row
    x = tl.load(place, mask=ok, other=0.0)
    y = tl.load(place + axis, mask=ok, other=0.0)
    z = tl.load(place + 2 * axis, mask=ok, other=0.0)
    length = tl.maximum(tl.sqrt_rn(x * x + y * y + z * z), SHORTEST)
    return x / length, y / length, z / length, length


@triton.jit
def _direction(direction_ptr, ray_ptr, sample, ok):
    ray = 3 * tl.load(ray_ptr + sample, mask=ok, other=0).to(tl.int32)
    x = tl.load(direction_ptr + ray, mask=ok, other=0.0)
    y = tl.load(direction_ptr + ray + 1, mask=ok, other=0.0)
    z = tl.load(direction_ptr + ray + 2, mask=ok, other=0.0)
    return x, y, z


@triton.jit
def _forward(
    position_ptr, features_ptr, feature_row, feature_column, gradient_ptr, gradient_row, gradient_axis, direction_ptr, ray_ptr,
    codes_ptr, out_ptr, samples, SHORTEST, POSITION: tl.constexpr, FEATURES: tl.constexpr, DEGREE: tl.constexpr,
    CODES: tl.constexpr, PLAIN: tl.constexpr, MIRRORED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    sample = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    ok = sample < samples
    place = out_ptr + sample
    stride = tl.cast(samples, tl.int64)  # Triton makes a constant of a single sample, which has no method
    if POSITION:
        for axis in tl.static_range(3):
            tl.store(place, tl.load(position_ptr + 3 * sample.to(tl.int64) + axis, mask=ok), mask=ok)
            place += stride
    feature = features_ptr + sample.to(tl.int64) * feature_row
    for _ in range(FEATURES):
        tl.store(place, tl.load(feature, mask=ok), mask=ok)
        place += stride
        feature += feature_column
    nx, ny, nz, _ = _normal(gradient_ptr, gradient_row, gradient_axis, sample, ok, SHORTEST)
    tl.store(place, nx, mask=ok)
    tl.store(place + stride, ny, mask=ok)
    tl.store(place + 2 * stride, nz, mask=ok)
    place += 3 * stride
    if DEGREE > 0:
        x, y, z = _direction(direction_ptr, ray_ptr, sample, ok)
        if PLAIN:
            store_harmonics(place, stride, x, y, z, ok, DEGREE)
            place += DEGREE * DEGREE * stride
        if MIRRORED:
            twice = 2.0 * (x * nx + y * ny + z * nz)
            store_harmonics(place, stride, x - twice * nx, y - twice * ny, z - twice * nz, ok, DEGREE)
            place += DEGREE * DEGREE * stride
    if CODES > 0:
        code = codes_ptr + CODES * tl.load(ray_ptr + sample, mask=ok, other=0).to(tl.int32)
        for _ in range(CODES):
            tl.store(place, tl.load(code, mask=ok), mask=ok)
            place += stride
            code += 1


@triton.jit
def _backward(
    gradient_ptr, gradient_row, gradient_axis, direction_ptr, ray_ptr, to_normal_ptr, to_gradient_ptr, samples, SHORTEST,
    DEGREE: tl.constexpr, PLAIN: tl.constexpr, MIRRORED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Through `n = g / max(|g|, SHORTEST)`: the part of the normal's gradient across n, over that length."""
    sample = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    ok = sample < samples
    nx, ny, nz, length = _normal(gradient_ptr, gradient_row, gradient_axis, sample, ok, SHORTEST)
    stride = tl.cast(samples, tl.int64)  # Triton makes a constant of a single sample, which has no method
    ux = tl.load(to_normal_ptr + sample, mask=ok, other=0.0)
    uy = tl.load(to_normal_ptr + stride + sample, mask=ok, other=0.0)
    uz = tl.load(to_normal_ptr + 2 * stride + sample, mask=ok, other=0.0)
    if MIRRORED:
        first = 3 + DEGREE * DEGREE if PLAIN else 3
        x, y, z = _direction(direction_ptr, ray_ptr, sample, ok)
        twice = 2.0 * (x * nx + y * ny + z * nz)
        mirrored = x - twice * nx, y - twice * ny, z - twice * nz
        vx, vy, vz = pull_harmonics(to_normal_ptr + first * stride + sample, stride, *mirrored, ok, DEGREE)
        pulled = 2.0 * (vx * nx + vy * ny + vz * nz)
        ux -= twice * vx + pulled * x
        uy -= twice * vy + pulled * y
        uz -= twice * vz + pulled * z
    # Shorter gradients are divided by a constant: nothing is lost along them.
    along = tl.where(length > SHORTEST, ux * nx + uy * ny + uz * nz, 0.0)
    tl.store(to_gradient_ptr + sample, (ux - along * nx) / length, mask=ok)
    tl.store(to_gradient_ptr + stride + sample, (uy - along * ny) / length, mask=ok)
    tl.store(to_gradient_ptr + 2 * stride + sample, (uz - along * nz) / length, mask=ok)


@triton.jit
def _sum_over_rays(
    to_code_ptr, samples, starts_ptr, counts_ptr, out_ptr, rays, CODES: tl.constexpr, RAYS: tl.constexpr, LANES: tl.constexpr
):  # fmt: skip
    """Rows (CODES, S) of gradients, summed over each ray's samples in a fixed order: (R, CODES)."""
    ray = tl.program_id(0) * RAYS + tl.arange(0, RAYS)
    ok = ray < rays
    start = tl.load(starts_ptr + ray, mask=ok, other=0).to(tl.int64)[:, None]
    count = tl.load(counts_ptr + ray, mask=ok, other=0).to(tl.int32)
    most, lane = tl.max(count), tl.arange(0, LANES)[None, :]
    row = to_code_ptr + start + lane
    for code in range(CODES):
        total = tl.zeros((RAYS, LANES), dtype=tl.float32)
        first = 0
        while first < most:
            total += tl.load(row + first, mask=first + lane < count[:, None], other=0.0)
            first += LANES
        tl.store(out_ptr + CODES * ray + code, tl.sum(total, axis=1), mask=ok)
        row += tl.cast(samples, tl.int64)
