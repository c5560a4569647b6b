"""Samples behind the unit ball and their sums in Triton: a thread a sample to place them, a warp a ray to add them up."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from nsr.kernels.background.reference import DENSITY_SHIFT, ENDLESS, LAST
from nsr.kernels.gpu import interpreted
from nsr.kernels.shading.triton_device import store_harmonics

# The interpreter's time goes by operations, not by samples.
_BLOCK, _RAYS = (4096, 64) if interpreted() else (256, 1)


def background_samples(
    origin: Tensor, direction: Tensor, shift: Tensor, *, samples: int, degree: int
) -> tuple[Tensor, Tensor, Tensor]:
    """See `nsr.kernels.background.background_samples`."""
    total, device = len(origin) * samples, origin.device
    position = torch.empty(total, 3, device=device)
    harmonics = torch.empty(degree**2, total, device=device)
    lengths = torch.empty(len(origin), samples, device=device)
    if total:
        _place[(triton.cdiv(total, _BLOCK),)](
            origin.contiguous(), direction.contiguous(), shift.contiguous(), position, harmonics, lengths, total, samples,
            1.0 / samples, LAST, ENDLESS, DEGREE=degree, BLOCK=_BLOCK,
        )  # fmt: skip
    return position, harmonics.T, lengths


def background_composite(logit: Tensor, colour: Tensor, lengths: Tensor) -> Tensor:
    """See `nsr.kernels.background.background_composite`."""
    out: Tensor = _Composite.apply(logit, colour, lengths.contiguous())
    return out


class _Composite(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logit: Tensor, colour: Tensor, lengths: Tensor) -> Tensor:
        rays, samples = lengths.shape
        logit, out = logit.contiguous(), torch.empty(rays, 3, device=lengths.device)
        if rays:
            _sum[_grid(rays)](logit, colour, *colour.stride(), lengths, out, rays, samples, DENSITY_SHIFT, **_tile_sizes(samples))
        ctx.save_for_backward(logit, colour, lengths)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, to_out: Tensor) -> tuple[Tensor, Tensor, None]:
        logit, colour, lengths = ctx.saved_tensors
        rays, samples = lengths.shape
        to_logit, to_colour = torch.empty_like(logit), torch.empty(3, len(logit), device=logit.device)
        if rays:
            _spread[_grid(rays)](
                logit, colour, *colour.stride(), lengths, to_out.contiguous(), to_logit, to_colour, rays, samples,
                DENSITY_SHIFT, **_tile_sizes(samples),
            )  # fmt: skip
        return to_logit, to_colour.T, None


def _grid(rays: int) -> tuple[int]:
    return (triton.cdiv(rays, _RAYS),)


def _tile_sizes(samples: int) -> dict[str, int]:
    return {"RAYS": _RAYS, "LANES": max(2, triton.next_power_of_2(samples)), "num_warps": 1}


@triton.jit
def _place(
    origin_ptr, direction_ptr, shift_ptr, position_ptr, harmonics_ptr, lengths_ptr, total, samples, width, LAST, ENDLESS,
    DEGREE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Contracted positions in the unit cube (S, 3), harmonics (D, S) and interval lengths (S,)."""
    sample = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    ok = sample < total
    ray = sample // samples
    ox = tl.load(origin_ptr + 3 * ray, mask=ok, other=0.0)
    oy = tl.load(origin_ptr + 3 * ray + 1, mask=ok, other=0.0)
    oz = tl.load(origin_ptr + 3 * ray + 2, mask=ok, other=0.0)
    dx = tl.load(direction_ptr + 3 * ray, mask=ok, other=0.0)
    dy = tl.load(direction_ptr + 3 * ray + 1, mask=ok, other=0.0)
    dz = tl.load(direction_ptr + 3 * ray + 2, mask=ok, other=0.0)
    nearest = -(ox * dx + oy * dy + oz * dz)
    square = nearest * nearest - (ox * ox + oy * oy + oz * oz) + 1.0
    far = tl.where(square > 0, nearest + tl.sqrt(tl.maximum(square, 0.0)), -1.0)
    start = tl.where(far > 0, far, tl.maximum(nearest, 0.0))
    edge = (sample - ray * samples).to(tl.float32) * width
    middle = tl.minimum(edge + tl.load(shift_ptr + ray, mask=ok, other=0.0) * width, LAST)
    t = start + middle / (1.0 - middle)
    x, y, z = ox + dx * t, oy + dy * t, oz + dz * t
    norm = tl.maximum(tl.sqrt(x * x + y * y + z * z), 1e-9)
    shrink = tl.where(norm <= 1.0, 1.0, (2.0 - 1.0 / norm) / norm)
    tl.store(position_ptr + 3 * sample, (x * shrink + 2.0) * 0.25, mask=ok)
    tl.store(position_ptr + 3 * sample + 1, (y * shrink + 2.0) * 0.25, mask=ok)
    tl.store(position_ptr + 3 * sample + 2, (z * shrink + 2.0) * 0.25, mask=ok)
    store_harmonics(harmonics_ptr + sample, tl.cast(total, tl.int64), dx, dy, dz, ok, DEGREE)
    following = edge + width
    last = sample - ray * samples == samples - 1
    inner = following / tl.where(last, 1.0, 1.0 - following) - edge / (1.0 - edge)
    tl.store(lengths_ptr + sample, tl.where(last, ENDLESS, inner), mask=ok)


@triton.jit
def _weights(logit_ptr, lengths_ptr, first, lane, samples, ok, SHIFT):
    """Transmittance before and after each sample, logits with their shift, lengths: (RAYS, LANES)."""
    logit = tl.load(logit_ptr + first + lane, mask=ok, other=0.0) + SHIFT
    length = tl.load(lengths_ptr + first + lane, mask=ok, other=0.0)
    depth = (tl.maximum(logit, 0.0) + tl.log(1.0 + tl.exp(-tl.abs(logit)))) * length
    # Without the endless last interval, whose large number would round off what came before it.
    inner = tl.where(lane < samples - 1, depth, 0.0)
    before = tl.exp(inner - tl.cumsum(inner, axis=1))
    return before, before * tl.exp(-depth), logit, length


@triton.jit
def _rays(rays, samples, RAYS: tl.constexpr, LANES: tl.constexpr):
    ray = tl.program_id(0) * RAYS + tl.arange(0, RAYS)
    lane = tl.arange(0, LANES)[None, :]
    return ray, ray[:, None] * samples, lane, (ray < rays)[:, None] & (lane < samples)


@triton.jit
def _sum(
    logit_ptr, colour_ptr, colour_row, colour_axis, lengths_ptr, out_ptr, rays, samples, SHIFT,
    RAYS: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    ray, first, lane, ok = _rays(rays, samples, RAYS, LANES)
    before, after, _, _ = _weights(logit_ptr, lengths_ptr, first, lane, samples, ok, SHIFT)
    weight = tl.where(ok, before - after, 0.0)
    place = colour_ptr + (first + lane).to(tl.int64) * colour_row
    for channel in tl.static_range(3):
        value = tl.load(place + channel * colour_axis, mask=ok, other=0.0)
        tl.store(out_ptr + 3 * ray + channel, tl.sum(weight * value, axis=1), mask=ray < rays)


@triton.jit
def _spread(
    logit_ptr, colour_ptr, colour_row, colour_axis, lengths_ptr, to_out_ptr, to_logit_ptr, to_colour_ptr, rays, samples, SHIFT,
    RAYS: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """Gradients of the logits (S,) and of the colours (3, S).

    With v the gradient by a sample's weight and T its transmittance, that by its optical depth is `v T_after` less the sum
    of `v w` over the later samples.
    """
    ray, first, lane, ok = _rays(rays, samples, RAYS, LANES)
    before, after, logit, length = _weights(logit_ptr, lengths_ptr, first, lane, samples, ok, SHIFT)
    weight = tl.where(ok, before - after, 0.0)
    place = colour_ptr + (first + lane).to(tl.int64) * colour_row
    to_place = to_colour_ptr + first + lane
    total = tl.cast(rays * samples, tl.int64)
    pull = tl.zeros_like(weight)
    for channel in tl.static_range(3):
        value = tl.load(place + channel * colour_axis, mask=ok, other=0.0)
        given = tl.load(to_out_ptr + 3 * ray + channel, mask=ray < rays, other=0.0)[:, None]
        pull += given * value
        tl.store(to_place + channel * total, given * weight, mask=ok)
    share = pull * weight
    # Nothing is later than the last sample: a rounding error there would be multiplied by the endless length.
    later = tl.where(lane < samples - 1, tl.sum(share, axis=1)[:, None] - tl.cumsum(share, axis=1), 0.0)
    small = tl.exp(-tl.abs(logit))
    slope = tl.where(logit >= 0, 1.0, small) / (1.0 + small)
    tl.store(to_logit_ptr + first + lane, (pull * after - later) * length * slope, mask=ok)
