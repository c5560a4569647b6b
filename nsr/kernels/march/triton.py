"""Ray marching in Triton: count the samples of each ray, sum up the counts, then march again and write.

Neither pass fuses multiplications with additions: both then see the same samples, and these are the reference's.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from nsr.kernels.gpu import interpreted
from nsr.kernels.march.layout import BLOCK_EDGE, OccupancyBits, PaddedSamples, blocks, words

# A warp marches one ray, four candidates a thread. The interpreter's time goes by operations, not by rays.
_LANES, _WARPS, _RAYS = 128, 1, 64 if interpreted() else 1
_WORDS = 64


def march(origin: Tensor, direction: Tensor, occupied: Tensor, step: float, jitter: Tensor) -> tuple[Tensor, Tensor]:
    """See `nsr.kernels.march.march`; returns midpoints (S,) float32 and counts (R,). Waits for the device."""
    rays = len(origin)
    if not rays:
        return jitter.new_zeros(0), torch.zeros(0, dtype=torch.int64, device=origin.device)
    live = torch.full((1,), rays, dtype=torch.int32, device=origin.device)
    arguments = _arguments(origin, direction, pack_occupancy(occupied, None), step, jitter, live)
    counts, ends = _count(arguments, rays)
    total = int(ends[-1])
    t = torch.empty(total, device=origin.device)
    if total:
        grid = (triton.cdiv(rays, _RAYS),)
        _write[grid](
            *arguments, counts, ends, t, *[None] * 7, total, 0, RAYS=_RAYS, LANES=_LANES, num_warps=_WARPS, enable_fp_fusion=False
        )
    return t, counts


def march_padded(
    origin: Tensor, direction: Tensor, bits: OccupancyBits, *, step: float, jitter: Tensor, live: Tensor, budget: int, first: int
) -> PaddedSamples:
    """See `nsr.kernels.march.march_padded`."""
    rays, rows, device = len(origin), first + budget, origin.device
    arguments = _arguments(origin, direction, bits, step, jitter, live)
    counts, ends = _count(arguments, rays)
    # One buffer, so that one operation clears all three arrays.
    buffer = torch.zeros(5 * rows, device=device)
    numbers = torch.empty(2 * rays + 2, dtype=torch.int32, device=device)
    samples = PaddedSamples(
        t=buffer[3 * rows : 4 * rows],
        position=buffer[: 3 * rows].view(rows, 3),
        ray=buffer[4 * rows :].view(torch.int32),
        starts=numbers[:rays],
        counts=numbers[rays : 2 * rays],
        kept=torch.empty(rays, dtype=torch.bool, device=device),
        total=numbers[2 * rays : 2 * rays + 1],
        wanted=numbers[2 * rays + 1 :],
    )
    _write[(triton.cdiv(rays, _RAYS),)](
        *arguments, counts, ends, *samples, budget, first, RAYS=_RAYS, LANES=_LANES, num_warps=_WARPS, enable_fp_fusion=False
    )
    return samples


def pack_occupancy(occupied: Tensor, out: OccupancyBits | None) -> OccupancyBits:
    """See `nsr.kernels.march.pack_occupancy`."""
    size, number = occupied.shape[0], blocks(occupied.shape[0])
    occupied, bits = occupied.contiguous(), out
    if bits is None:
        fine, coarse = (torch.empty(words(edge**3), dtype=torch.int32, device=occupied.device) for edge in (size, number))
        bits = OccupancyBits(fine, coarse, size)
    _pack_fine[(triton.cdiv(len(bits.fine), _WORDS),)](occupied, bits.fine, size**3, len(bits.fine), WORDS=_WORDS)
    _pack_coarse[(len(bits.coarse),)](occupied, bits.coarse, size, number, EDGE=BLOCK_EDGE)
    return bits


def _arguments(
    origin: Tensor, direction: Tensor, bits: OccupancyBits, step: float, jitter: Tensor, live: Tensor
) -> tuple[Any, ...]:
    """The parameters that both passes share."""
    rays = (part.float().contiguous() for part in (origin, direction, jitter))
    return *rays, bits.fine, bits.coarse, live, step, len(origin), bits.resolution, blocks(bits.resolution)


def _count(arguments: tuple[Any, ...], rays: int) -> tuple[Tensor, Tensor]:
    """Samples of each ray, 0 from `live` on, and their running sum: (R,) int64."""
    counts = torch.empty(rays, dtype=torch.int64, device=arguments[0].device)
    _count_samples[(triton.cdiv(rays, _RAYS),)](
        *arguments, counts, RAYS=_RAYS, LANES=_LANES, num_warps=_WARPS, enable_fp_fusion=False
    )
    return counts, counts.cumsum(0)


@triton.jit
def _load_rays(origin_ptr, direction_ptr, jitter_ptr, ray, ok):
    """Components of rays, their interval in the ball (empty where not `ok`) and jitter, as columns."""
    place = 3 * ray.to(tl.int64)
    ox = tl.load(origin_ptr + place, mask=ok, other=0.0)
    oy = tl.load(origin_ptr + place + 1, mask=ok, other=0.0)
    oz = tl.load(origin_ptr + place + 2, mask=ok, other=0.0)
    dx = tl.load(direction_ptr + place, mask=ok, other=0.0)
    dy = tl.load(direction_ptr + place + 1, mask=ok, other=0.0)
    dz = tl.load(direction_ptr + place + 2, mask=ok, other=0.0)
    jitter = tl.load(jitter_ptr + ray, mask=ok, other=0.0)
    along = -(ox * dx + oy * dy + oz * dz)
    square = along * along - (ox * ox + oy * oy + oz * oz) + 1.0
    half = tl.sqrt_rn(tl.maximum(square, 0.0))
    near = tl.maximum(along - half, 0.0)
    far = tl.where(ok & (square > 0), along + half, -1.0)
    return (
        ox[:, None],
        oy[:, None],
        oz[:, None],
        dx[:, None],
        dy[:, None],
        dz[:, None],
        near[:, None],
        far[:, None],
        jitter[:, None],
    )


@triton.jit
def _most_candidates(near, far, step):
    """Bound on the candidates of any ray of the tile; 0 if none meets the ball."""
    return tl.max(tl.where(far > near, (far - near) / step + 2.0, 0.0)).to(tl.int32)


@triton.jit
def _cell(x, G):
    """Cell along an axis that holds a coordinate, of those outside [-1, 1] the nearest; 0 if it is not a number."""
    return tl.minimum(tl.maximum((x + 1.0) * (G * 0.5), 0.0), G - 1.0).to(tl.int32)


@triton.jit
def _hit(x, y, z, fine_ptr, coarse_ptr, G, BLOCKS, ok):
    """1 where the cell is occupied, else 0. Most cells are ruled out by their block's bit, which is in the nearest cache."""
    cx, cy, cz = _cell(x, G), _cell(y, G), _cell(z, G)
    block = ((cx >> 3) * BLOCKS + (cy >> 3)) * BLOCKS + (cz >> 3)
    coarse = tl.load(coarse_ptr + (block >> 5), mask=ok, other=0) >> (block & 31)
    cell = (cx * G + cy) * G + cz
    fine = tl.load(fine_ptr + (cell >> 5), mask=ok & ((coarse & 1) != 0), other=0) >> (cell & 31)
    return fine & 1


@triton.jit
def _count_samples(
    origin_ptr, direction_ptr, jitter_ptr, fine_ptr, coarse_ptr, live_ptr, step, rays, G, BLOCKS, counts_ptr,
    RAYS: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    ray = tl.program_id(0) * RAYS + tl.arange(0, RAYS)
    ok = ray < tl.minimum(rays, tl.load(live_ptr))
    ox, oy, oz, dx, dy, dz, near, far, jitter = _load_rays(origin_ptr, direction_ptr, jitter_ptr, ray, ok)
    found = tl.zeros((RAYS, LANES), dtype=tl.int32)
    most, base = _most_candidates(near, far, step), 0
    while base < most:
        number = (base + tl.arange(0, LANES)).to(tl.float32)[None, :]
        t = near + (number + jitter) * step
        found += _hit(ox + dx * t, oy + dy * t, oz + dz * t, fine_ptr, coarse_ptr, G, BLOCKS, t < far)
        base += LANES
    tl.store(counts_ptr + ray, tl.sum(found, axis=1), mask=ray < rays)


@triton.jit
def _write(
    origin_ptr, direction_ptr, jitter_ptr, fine_ptr, coarse_ptr, live_ptr, step, rays, G, BLOCKS, wanted_ptr, ends_ptr,
    t_ptr, position_ptr, ray_ptr, starts_ptr, counts_ptr, kept_ptr, total_ptr, sum_ptr, budget, first,
    RAYS: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """Samples of the rays that fit into the budget; `t` alone if there is no `position_ptr`."""
    ray = tl.program_id(0) * RAYS + tl.arange(0, RAYS)
    live = tl.minimum(rays, tl.load(live_ptr))
    end = tl.load(ends_ptr + ray, mask=ray < rays, other=0)
    start = end - tl.load(wanted_ptr + ray, mask=ray < rays, other=0)
    kept = (ray < live) & (end <= budget)
    if position_ptr is not None:
        after = tl.load(ends_ptr + ray + 1, mask=ray + 1 < live, other=budget + 1)
        _write_rays(starts_ptr, counts_ptr, kept_ptr, ray, start, end, kept, rays, budget, first)
        # The last kept ray knows the total; without any, the first ray does.
        tl.store(total_ptr + ray * 0, (first + end).to(tl.int32), mask=kept & (after > budget))
        tl.store(total_ptr + ray * 0, (first + ray * 0).to(tl.int32), mask=(ray == 0) & (kept == 0))
        tl.store(sum_ptr + ray * 0, end.to(tl.int32), mask=ray == rays - 1)
    ox, oy, oz, dx, dy, dz, near, far, jitter = _load_rays(origin_ptr, direction_ptr, jitter_ptr, ray, kept)
    done = (first + start)[:, None]
    most, base = _most_candidates(near, far, step), 0
    while base < most:
        number = (base + tl.arange(0, LANES)).to(tl.float32)[None, :]
        t = near + (number + jitter) * step
        x, y, z = ox + dx * t, oy + dy * t, oz + dz * t
        hit = _hit(x, y, z, fine_ptr, coarse_ptr, G, BLOCKS, t < far)
        place = done + tl.cumsum(hit, axis=1) - 1
        tl.store(t_ptr + place, t, mask=hit != 0)
        if position_ptr is not None:
            tl.store(position_ptr + 3 * place, tl.minimum(tl.maximum(x, -1.0), 1.0), mask=hit != 0)
            tl.store(position_ptr + 3 * place + 1, tl.minimum(tl.maximum(y, -1.0), 1.0), mask=hit != 0)
            tl.store(position_ptr + 3 * place + 2, tl.minimum(tl.maximum(z, -1.0), 1.0), mask=hit != 0)
            tl.store(ray_ptr + place, ray[:, None] + tl.zeros((RAYS, LANES), dtype=tl.int32), mask=hit != 0)
        done += tl.sum(hit, axis=1)[:, None]
        base += LANES


@triton.jit
def _write_rays(starts_ptr, counts_ptr, kept_ptr, ray, start, end, kept, rays, budget, first):
    tl.store(starts_ptr + ray, (first + tl.minimum(start, budget)).to(tl.int32), mask=ray < rays)
    tl.store(counts_ptr + ray, tl.where(kept, end - start, 0).to(tl.int32), mask=ray < rays)
    tl.store(kept_ptr + ray, kept, mask=ray < rays)


@triton.jit
def _pack_fine(occupied_ptr, fine_ptr, cells, size, WORDS: tl.constexpr):
    word = tl.program_id(0) * WORDS + tl.arange(0, WORDS)
    lane = tl.arange(0, 32)
    cell = word[:, None] * 32 + lane[None, :]
    flag = tl.load(occupied_ptr + cell, mask=cell < cells, other=0).to(tl.int32)
    tl.store(fine_ptr + word, tl.sum(flag << lane[None, :], axis=1), mask=word < size)


@triton.jit
def _pack_coarse(occupied_ptr, coarse_ptr, G, BLOCKS, EDGE: tl.constexpr):
    """One word, of 32 blocks of cells, a program."""
    lane = tl.arange(0, 32)
    block = tl.program_id(0) * 32 + lane
    bx, by, bz = block // (BLOCKS * BLOCKS), block // BLOCKS % BLOCKS, block % BLOCKS
    inner = tl.arange(0, EDGE * EDGE)
    y = (by * EDGE)[:, None] + (inner // EDGE)[None, :]
    z = (bz * EDGE)[:, None] + (inner % EDGE)[None, :]
    inside = (block < BLOCKS * BLOCKS * BLOCKS)[:, None] & (y < G) & (z < G)
    some = tl.zeros((32, EDGE * EDGE), dtype=tl.int32)
    for dx in range(EDGE):
        x = (bx * EDGE + dx)[:, None]
        some |= tl.load(occupied_ptr + (x * G + y) * G + z, mask=inside & (x < G), other=0).to(tl.int32)
    tl.store(coarse_ptr + tl.program_id(0), tl.sum(tl.max(some, axis=1) << lane))
