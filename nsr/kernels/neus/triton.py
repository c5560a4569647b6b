"""NeuS volume rendering in Triton: one kernel forward, one backward, each one sweep along the rays, a ray a warp.

With `a, b = (sdf ± h) s`, `h = cosine * step / 2 <= 0`, a sample lets `exp(c)` pass, `c = log Phi(a) - log Phi(b)`, Phi the
logistic function. `C` is the sum of `c` over the ray's earlier samples, the weight `w = exp(C) - exp(C + c)`. With `v` the
derivative of the loss by `w`, its derivative by `c` is `-v exp(C + c)` plus the sum of `v w` over the later samples; that sum
is the whole ray's, known from the forward sums, less what the sweep has passed. No small constant is added anywhere.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from nsr.kernels.gpu import interpreted
from nsr.kernels.packed import Packed

# The interpreter's time goes by operations, not by rays.
_LANES, _WARPS, _RAYS = 32, 1, 16 if interpreted() else 1
# Logarithms of the transmittance at which a ray ends, and of the least that one sample lets pass: the large sum of a sample
# in a solid would round off what came before it.
_END = tl.constexpr(-11.512925)
_LEAST = tl.constexpr(-23.0)
_SHORTEST = tl.constexpr(1e-6)


def neus_composite(
    sdf: Tensor,
    gradient: Tensor,
    colour: Tensor,
    t: Tensor,
    direction: Tensor,
    packed: Packed,
    *,
    sharpness: Tensor,
    cosine_ratio: Tensor,
    step: float,
) -> tuple[Tensor, ...]:
    """See `nsr.kernels.neus.neus_composite`; returns the fields of `RaySums`, float32."""
    fixed = (part.contiguous() for part in (t, direction, packed.starts, packed.counts, cosine_ratio))
    sums: tuple[Tensor, ...] = _Composite.apply(sdf, gradient, colour, sharpness, step, *fixed)
    return sums


class _Composite(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, sdf: Tensor, gradient: Tensor, colour: Tensor, sharpness: Tensor, *rest: Any) -> tuple[Tensor, ...]:
        step, *fixed = rest
        rays, device = len(fixed[1]), sdf.device
        sums = [torch.empty(shape, device=device) for shape in ((rays, 3), (rays, 3), rays, rays, rays, rays)]
        weights = torch.zeros(len(sdf), device=device)
        inputs = sdf.contiguous(), gradient, colour, sharpness
        if rays:
            _forward[(triton.cdiv(rays, _RAYS),)](
                *inputs, *fixed, *_numbers(gradient, colour, rays, step), *sums, weights,
                RAYS=_RAYS, LANES=_LANES, num_warps=_WARPS,
            )  # fmt: skip
        ctx.save_for_backward(*inputs, *fixed, *sums[:4], sums[5])
        ctx.step = step
        ctx.mark_non_differentiable(weights)
        return *sums, weights

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *pulled: Tensor) -> tuple[Tensor | None, ...]:
        inputs, fixed, sums = ctx.saved_tensors[:4], ctx.saved_tensors[4:9], ctx.saved_tensors[9:]
        sdf, gradient, colour, sharpness = inputs
        rays, device = len(fixed[1]), sdf.device
        # Rows of no ray stay 0, one operation clears all.
        to_rows = torch.zeros(7, len(sdf), device=device)
        to_sharpness = torch.empty(rays, device=device)
        if rays:
            _backward[(triton.cdiv(rays, _RAYS),)](
                *inputs, *fixed, *_numbers(gradient, colour, rays, ctx.step), *sums,
                *(part.contiguous() for part in pulled[:6]), to_rows, to_sharpness, len(sdf),
                RAYS=_RAYS, LANES=_LANES, num_warps=_WARPS,
            )  # fmt: skip
        to_sdf, to_gradient, to_colour = to_rows[0], to_rows[1:4].T, to_rows[4:].T
        return to_sdf, to_gradient, to_colour, to_sharpness.sum().reshape(sharpness.shape), *[None] * 6


def _numbers(gradient: Tensor, colour: Tensor, rays: int, step: float) -> tuple[int | float, ...]:
    return *gradient.stride(), *colour.stride(), rays, step


@triton.jit
def _log1p(x):
    """log(1 + x) of x in [0, 1], as 2 artanh(x / (2 + x)): exact for small x too."""
    z = x / (2.0 + x)
    square = z * z
    series = square * (1.0 / 15) + 1.0 / 13
    series = series * square + 1.0 / 11
    series = series * square + 1.0 / 9
    series = series * square + 1.0 / 7
    series = series * square + 1.0 / 5
    series = series * square + 1.0 / 3
    return 2.0 * z * (series * square + 1.0)


@triton.jit
def _one_minus_exp(x):
    """1 - exp(x) of x <= 0: exact for small x too."""
    near = tl.maximum(x, -0.5)
    series = near * (1.0 / 8) + 1.0
    series = series * near * (1.0 / 7) + 1.0
    series = series * near * (1.0 / 6) + 1.0
    series = series * near * (1.0 / 5) + 1.0
    series = series * near * (1.0 / 4) + 1.0
    series = series * near * (1.0 / 3) + 1.0
    series = series * near * (1.0 / 2) + 1.0
    return tl.where(x < -0.5, 1.0 - tl.exp(x), -near * series)


@triton.jit
def _load3(ptr, row, row_stride, stride, ok):
    place = row * row_stride
    x = tl.load(ptr + place, mask=ok, other=0.0).to(tl.float32)
    y = tl.load(ptr + place + stride, mask=ok, other=0.0).to(tl.float32)
    z = tl.load(ptr + place + 2 * stride, mask=ok, other=0.0).to(tl.float32)
    return x, y, z


@triton.jit
def _store3(ptr, row, row_stride, stride, x, y, z, ok):
    place = row * row_stride
    tl.store(ptr + place, x, mask=ok)
    tl.store(ptr + place + stride, y, mask=ok)
    tl.store(ptr + place + 2 * stride, z, mask=ok)


@triton.jit
def _load_rays(direction_ptr, starts_ptr, counts_ptr, ray, ok):
    """Direction, first row and number of rows, as columns."""
    dx, dy, dz = _load3(direction_ptr, ray, 3, 1, ok)
    start = tl.load(starts_ptr + ray, mask=ok, other=0).to(tl.int32)
    count = tl.load(counts_ptr + ray, mask=ok, other=0).to(tl.int32)
    return dx[:, None], dy[:, None], dz[:, None], start[:, None], count[:, None]


@triton.jit
def _normal(gx, gy, gz):
    """Unit normal and the length it was divided by."""
    length = tl.maximum(tl.sqrt_rn(gx * gx + gy * gy + gz * gz), _SHORTEST)
    return gx / length, gy / length, gz / length, length


@triton.jit
def _softened_length(gx, gy, gz):
    """Length whose derivative stays finite where it vanishes."""
    return tl.sqrt_rn(gx * gx + gy * gy + gz * gz + 1e-12)


@triton.jit
def _segment(sdf, cosine, ratio, sharpness, step):
    """Opacity of a sample, log of what it lets pass, h, and Phi(-a), Phi(-b), Phi(-a) - Phi(-b)."""
    annealed = -((1.0 - ratio) * tl.maximum(0.5 - 0.5 * cosine, 0.0) + ratio * tl.maximum(-cosine, 0.0))
    half = annealed * (step * 0.5)
    a, b = (sdf + half) * sharpness, (sdf - half) * sharpness
    small_a, small_b = tl.exp(-tl.abs(a)), tl.exp(-tl.abs(b))
    behind = tl.where(a < 0, 1.0, small_a) / (1.0 + small_a)
    before = tl.where(b < 0, 1.0, small_b) / (1.0 + small_b)
    rest = tl.where(b < 0, small_b, 1.0) / (1.0 + small_b)
    # a - b, written without the difference of large numbers; so are the next three.
    drop = 2.0 * half * sharpness
    alpha = behind * _one_minus_exp(drop)
    passed = tl.where(b < 0, drop, tl.minimum(a, 0.0)) + (_log1p(small_b) - _log1p(small_a))
    return alpha, tl.minimum(tl.maximum(passed, _LEAST), 0.0), half, behind, before, alpha * rest


@triton.jit
def _forward(
    sdf_ptr, gradient_ptr, colour_ptr, sharpness_ptr, t_ptr, direction_ptr, starts_ptr, counts_ptr, ratio_ptr,
    gradient_row, gradient_axis, colour_row, colour_axis, rays, step,
    to_colour_ptr, to_normal_ptr, depth_ptr, opacity_ptr, eikonal_ptr, distortion_ptr, weights_ptr,
    RAYS: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    ray = tl.program_id(0) * RAYS + tl.arange(0, RAYS)
    here = ray < rays
    dx, dy, dz, start, count = _load_rays(direction_ptr, starts_ptr, counts_ptr, ray, here)
    sharpness, ratio = tl.load(sharpness_ptr).to(tl.float32), tl.load(ratio_ptr).to(tl.float32)
    lane = tl.arange(0, LANES)[None, :]
    none = tl.zeros((RAYS, LANES), dtype=tl.float32)
    red, green, blue, depth, opacity, eikonal = none, none, none, none, none, none
    sum_x, sum_y, sum_z = none, none, none
    first = tl.load(t_ptr + start, mask=count > 0, other=0.0).to(tl.float32)
    distortion = none
    carry = tl.zeros((RAYS, 1), dtype=tl.float32)
    mass, moment = carry, carry
    most, base = tl.max(count), 0
    while base < most:
        row = start + base + lane
        ok = base + lane < count
        live = ok & (carry > _END)
        gx, gy, gz = _load3(gradient_ptr, row, gradient_row, gradient_axis, ok)
        sdf = tl.load(sdf_ptr + row, mask=live, other=0.0).to(tl.float32)
        t = tl.load(t_ptr + row, mask=live, other=0.0).to(tl.float32)
        r, g, b = _load3(colour_ptr, row, colour_row, colour_axis, live)
        nx, ny, nz, _ = _normal(gx, gy, gz)
        alpha, passed, _, _, _, _ = _segment(sdf, dx * nx + dy * ny + dz * nz, ratio, sharpness, step)
        passed = tl.where(live, passed, 0.0)
        weight = tl.where(live, alpha * tl.exp(carry + (tl.cumsum(passed, axis=1) - passed)), 0.0)
        tl.store(weights_ptr + row, weight, mask=live)
        red += weight * r
        green += weight * g
        blue += weight * b
        sum_x += weight * nx
        sum_y += weight * ny
        sum_z += weight * nz
        depth += weight * t
        opacity += weight
        near, mass, moment = _nearer(weight, t - first, mass, moment)
        distortion += weight * (2.0 * near + weight * (step / 3.0))
        off = _softened_length(gx, gy, gz) - 1.0
        eikonal += tl.where(ok, off * off, 0.0)
        carry += tl.sum(passed, axis=1)[:, None]
        base += LANES
    _store3(to_colour_ptr, ray, 3, 1, tl.sum(red, axis=1), tl.sum(green, axis=1), tl.sum(blue, axis=1), here)
    _store3(to_normal_ptr, ray, 3, 1, tl.sum(sum_x, axis=1), tl.sum(sum_y, axis=1), tl.sum(sum_z, axis=1), here)
    tl.store(depth_ptr + ray, tl.sum(depth, axis=1), mask=here)
    tl.store(opacity_ptr + ray, tl.sum(opacity, axis=1), mask=here)
    tl.store(eikonal_ptr + ray, tl.sum(eikonal, axis=1), mask=here)
    tl.store(distortion_ptr + ray, tl.sum(distortion, axis=1), mask=here)


@triton.jit
def _nearer(weight, t, mass, moment):
    """Sum of `w_j (t - t_j)` over a ray's earlier samples j, and the sums of `w` and `w t` up to this block's end.

    `mass` and `moment` are these sums before the block, `t` may be counted from anywhere.
    """
    part = weight * t
    before = t * (mass + tl.cumsum(weight, axis=1) - weight) - (moment + tl.cumsum(part, axis=1) - part)
    return before, mass + tl.sum(weight, axis=1)[:, None], moment + tl.sum(part, axis=1)[:, None]


@triton.jit
def _load_sums(colour_ptr, normal_ptr, depth_ptr, opacity_ptr, ray, ok):
    """Eight numbers of each ray."""
    r, g, b = _load3(colour_ptr, ray, 3, 1, ok)
    x, y, z = _load3(normal_ptr, ray, 3, 1, ok)
    depth = tl.load(depth_ptr + ray, mask=ok, other=0.0).to(tl.float32)
    opacity = tl.load(opacity_ptr + ray, mask=ok, other=0.0).to(tl.float32)
    return r[:, None], g[:, None], b[:, None], x[:, None], y[:, None], z[:, None], depth[:, None], opacity[:, None]


@triton.jit
def _backward(
    sdf_ptr, gradient_ptr, colour_ptr, sharpness_ptr, t_ptr, direction_ptr, starts_ptr, counts_ptr, ratio_ptr,
    gradient_row, gradient_axis, colour_row, colour_axis, rays, step,
    colour_sum_ptr, normal_sum_ptr, depth_ptr, opacity_ptr, distortion_ptr,
    pull_colour_ptr, pull_normal_ptr, pull_depth_ptr, pull_opacity_ptr, pull_eikonal_ptr, pull_distortion_ptr,
    to_rows_ptr, to_sharpness_ptr, rows,
    RAYS: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """Gradients by row, feature-major (7, rows): of the distance, of its gradient, of the colour."""
    ray = tl.program_id(0) * RAYS + tl.arange(0, RAYS)
    here = ray < rays
    dx, dy, dz, start, count = _load_rays(direction_ptr, starts_ptr, counts_ptr, ray, here)
    sharpness, ratio = tl.load(sharpness_ptr).to(tl.float32), tl.load(ratio_ptr).to(tl.float32)
    sr, sg, sb, sx, sy, sz, depth, opacity = _load_sums(colour_sum_ptr, normal_sum_ptr, depth_ptr, opacity_ptr, ray, here)
    pr, pg, pb, px, py, pz, pull_depth, pull_opacity = _load_sums(
        pull_colour_ptr, pull_normal_ptr, pull_depth_ptr, pull_opacity_ptr, ray, here
    )
    pull_eikonal = 2.0 * tl.load(pull_eikonal_ptr + ray, mask=here, other=0.0).to(tl.float32)[:, None]
    later = pr * sr + pg * sg + pb * sb + px * sx + py * sy + pz * sz + pull_depth * depth + pull_opacity * opacity
    first = tl.load(t_ptr + start, mask=count > 0, other=0.0).to(tl.float32)
    # Of second degree in the weights: their products with its derivatives add up to twice the sum itself.
    pull_distortion = 2.0 * tl.load(pull_distortion_ptr + ray, mask=here, other=0.0).to(tl.float32)[:, None]
    later += pull_distortion * tl.load(distortion_ptr + ray, mask=here, other=0.0)[:, None]
    lane = tl.arange(0, LANES)[None, :]
    to_sharpness = tl.zeros((RAYS, LANES), dtype=tl.float32)
    carry = tl.zeros((RAYS, 1), dtype=tl.float32)
    mass, moment = carry, carry
    most, base = tl.max(count), 0
    while base < most:
        row = start + base + lane
        ok = base + lane < count
        live = ok & (carry > _END)
        gx, gy, gz = _load3(gradient_ptr, row, gradient_row, gradient_axis, ok)
        sdf = tl.load(sdf_ptr + row, mask=live, other=0.0).to(tl.float32)
        t = tl.load(t_ptr + row, mask=live, other=0.0).to(tl.float32)
        r, g, b = _load3(colour_ptr, row, colour_row, colour_axis, live)
        nx, ny, nz, length = _normal(gx, gy, gz)
        cosine = dx * nx + dy * ny + dz * nz
        alpha, passed, half, behind, before, change = _segment(sdf, cosine, ratio, sharpness, step)
        passed = tl.where(live, passed, 0.0)
        logs = carry + (tl.cumsum(passed, axis=1) - passed)
        weight = tl.where(live, alpha * tl.exp(logs), 0.0)
        value = pr * r + pg * g + pb * b + px * nx + py * ny + pz * nz + pull_depth * t + pull_opacity
        near, mass, moment = _nearer(weight, t - first, mass, moment)
        # Of the sum over all samples j of `w_j |t - t_j|`, the farther ones' part follows from the whole ray's sums.
        value += pull_distortion * (2.0 * near + (depth - t * opacity) + weight * (step / 3.0))
        share = value * weight
        to_passed = tl.where(live, later - tl.cumsum(share, axis=1) - value * tl.exp(logs + passed), 0.0)
        tl.store(to_rows_ptr + row, to_passed * sharpness * change, mask=live)
        _store3(to_rows_ptr + 4 * rows, row, 1, rows, weight * pr, weight * pg, weight * pb, live)
        to_sharpness += to_passed * (sdf * change + half * (behind + before))
        slope = (1.0 - ratio) * tl.where(cosine < 1.0, 0.5, 0.0) + ratio * tl.where(cosine < 0.0, 1.0, 0.0)
        to_cosine = to_passed * sharpness * (behind + before) * (step * 0.5) * slope
        ux, uy, uz = weight * px + to_cosine * dx, weight * py + to_cosine * dy, weight * pz + to_cosine * dz
        # Shorter gradients are divided by a constant: nothing is lost along them.
        along = tl.where(length > _SHORTEST, ux * nx + uy * ny + uz * nz, 0.0)
        soft = _softened_length(gx, gy, gz)
        off = pull_eikonal * ((soft - 1.0) / soft)
        to_x = (ux - along * nx) / length + off * gx
        to_y = (uy - along * ny) / length + off * gy
        to_z = (uz - along * nz) / length + off * gz
        _store3(to_rows_ptr + rows, row, 1, rows, to_x, to_y, to_z, ok)
        later -= tl.sum(share, axis=1)[:, None]
        carry += tl.sum(passed, axis=1)[:, None]
        base += LANES
    tl.store(to_sharpness_ptr + ray, tl.sum(to_sharpness, axis=1), mask=here)
