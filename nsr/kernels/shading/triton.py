"""The colour network's columns in Triton, a thread a sample: one kernel forward, one backward."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from nsr.kernels.gpu import interpreted
from nsr.kernels.shading.reference import SHORTEST
from nsr.kernels.shading.triton_device import store_harmonics

# The interpreter's time goes by operations, not by samples.
_BLOCK = 4096 if interpreted() else 256


def colour_inputs(
    position: Tensor | None, features: Tensor, gradient: Tensor, direction: Tensor, ray: Tensor, *, degree: int
) -> Tensor:
    """See `nsr.kernels.shading.colour_inputs`; rows whose `ray` is no row of `direction` must not exist."""
    out: Tensor = _ColourInputs.apply(features.float(), gradient.float(), position, direction.contiguous(), ray, degree)
    return out.T


class _ColourInputs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, gradient: Tensor, position: Tensor | None, *rest: Any) -> Tensor:
        direction, ray, degree = rest
        samples, count = features.shape
        before = 0 if position is None else 3
        out = torch.empty(before + count + 3 + degree**2, samples, device=features.device)
        if samples:
            _forward[(triton.cdiv(samples, _BLOCK),)](
                features if position is None else position.contiguous(), features, *features.stride(), gradient,
                *gradient.stride(), direction, ray, out, samples, SHORTEST, POSITION=position is not None, FEATURES=count,
                DEGREE=degree, BLOCK=_BLOCK,
            )  # fmt: skip
        ctx.save_for_backward(gradient)
        ctx.place = before, count
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, to_out: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        before, count = ctx.place
        to_gradient = torch.empty(3, len(gradient), device=gradient.device)
        to_out = to_out.contiguous()
        if len(gradient):
            _backward[(triton.cdiv(len(gradient), _BLOCK),)](
                gradient, *gradient.stride(), to_out[before + count :], to_gradient, len(gradient), SHORTEST, BLOCK=_BLOCK
            )
        return to_out[before : before + count].T, to_gradient.T, None, None, None, None


@triton.jit
def _normal(gradient_ptr, row, axis, sample, ok, SHORTEST):
    place = gradient_ptr + sample.to(tl.int64) * row
    x = tl.load(place, mask=ok, other=0.0)
    y = tl.load(place + axis, mask=ok, other=0.0)
    z = tl.load(place + 2 * axis, mask=ok, other=0.0)
    length = tl.maximum(tl.sqrt_rn(x * x + y * y + z * z), SHORTEST)
    return x / length, y / length, z / length, length


@triton.jit
def _forward(
    position_ptr, features_ptr, feature_row, feature_column, gradient_ptr, gradient_row, gradient_axis, direction_ptr, ray_ptr,
    out_ptr, samples, SHORTEST, POSITION: tl.constexpr, FEATURES: tl.constexpr, DEGREE: tl.constexpr, BLOCK: tl.constexpr,
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
    if DEGREE > 0:
        ray = 3 * tl.load(ray_ptr + sample, mask=ok, other=0).to(tl.int32)
        x = tl.load(direction_ptr + ray, mask=ok, other=0.0)
        y = tl.load(direction_ptr + ray + 1, mask=ok, other=0.0)
        z = tl.load(direction_ptr + ray + 2, mask=ok, other=0.0)
        store_harmonics(place + 3 * stride, stride, x, y, z, ok, DEGREE)


@triton.jit
def _backward(
    gradient_ptr, gradient_row, gradient_axis, to_normal_ptr, to_gradient_ptr, samples, SHORTEST, BLOCK: tl.constexpr
):  # fmt: skip
    """Through `n = g / max(|g|, SHORTEST)`: the part of the normal's gradient across n, over that length."""
    sample = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    ok = sample < samples
    nx, ny, nz, length = _normal(gradient_ptr, gradient_row, gradient_axis, sample, ok, SHORTEST)
    stride = tl.cast(samples, tl.int64)  # Triton makes a constant of a single sample, which has no method
    ux = tl.load(to_normal_ptr + sample, mask=ok, other=0.0)
    uy = tl.load(to_normal_ptr + stride + sample, mask=ok, other=0.0)
    uz = tl.load(to_normal_ptr + 2 * stride + sample, mask=ok, other=0.0)
    # Shorter gradients are divided by a constant: nothing is lost along them.
    along = tl.where(length > SHORTEST, ux * nx + uy * ny + uz * nz, 0.0)
    tl.store(to_gradient_ptr + sample, (ux - along * nx) / length, mask=ok)
    tl.store(to_gradient_ptr + stride + sample, (uy - along * ny) / length, mask=ok)
    tl.store(to_gradient_ptr + 2 * stride + sample, (uz - along * nz) / length, mask=ok)
