"""Ray marching in plain torch: all candidate midpoints of a ray as one row, then a mask."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import pad

from nsr.kernels.march.layout import BLOCK_EDGE, OccupancyBits, PaddedSamples, blocks


def ball_interval(origin: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
    """Entry and exit distance (R,) of rays through the unit ball, entry >= 0; exit < entry where a ray misses it."""
    along = -(origin * direction).sum(-1)
    square = along * along - (origin * origin).sum(-1) + 1.0
    half = square.clamp(min=0).sqrt()
    near = (along - half).clamp(min=0)
    far = torch.where(square > 0, along + half, torch.full_like(along, -1.0))
    return near, far


def march(origin: Tensor, direction: Tensor, occupied: Tensor, step: float, jitter: Tensor) -> tuple[Tensor, Tensor]:
    """See `nsr.kernels.march.march`; returns midpoints (S,) and counts (R,)."""
    near, far = ball_interval(origin, direction)
    most = math.ceil(2.0 / step) + 1
    t = near[:, None] + (torch.arange(most, device=origin.device, dtype=origin.dtype) + jitter[:, None]) * step
    inside = t < far[:, None]
    ray, column = inside.nonzero(as_tuple=True)
    position = origin[ray] + direction[ray] * t[ray, column, None]
    size = occupied.shape[0]
    cell = ((position + 1) * (size / 2)).long().clamp(0, size - 1)
    hit = occupied.reshape(-1)[(cell[:, 0] * size + cell[:, 1]) * size + cell[:, 2]]
    ray = ray[hit]
    counts = torch.bincount(ray, minlength=origin.shape[0])
    return t[ray, column[hit]], counts


def pack_occupancy(occupied: Tensor, out: OccupancyBits | None) -> OccupancyBits:
    """See `nsr.kernels.march.pack_occupancy`."""
    size, number = occupied.shape[0], blocks(occupied.shape[0])
    margin = number * BLOCK_EDGE - size
    padded = pad(occupied, (0, margin) * 3)
    coarse = padded.reshape(number, BLOCK_EDGE, number, BLOCK_EDGE, number, BLOCK_EDGE).any(5).any(3).any(1)
    bits = OccupancyBits(_to_words(occupied), _to_words(coarse), size)
    if out is None:
        return bits
    out.fine.copy_(bits.fine)
    out.coarse.copy_(bits.coarse)
    return out


def unpack_occupancy(bits: OccupancyBits) -> Tensor:
    """Occupied cells (G, G, G) bool."""
    size = bits.resolution
    lane = torch.arange(32, device=bits.fine.device, dtype=torch.int32)
    return (bits.fine[:, None] >> lane & 1).bool().reshape(-1)[: size**3].reshape(size, size, size)


def march_padded(
    origin: Tensor, direction: Tensor, bits: OccupancyBits, *, step: float, jitter: Tensor, live: Tensor, budget: int, first: int
) -> PaddedSamples:
    """See `nsr.kernels.march.march_padded`."""
    t, counts = march(origin, direction, unpack_occupancy(bits), step, jitter)
    number = torch.arange(len(origin), device=origin.device)
    alive = number < live
    owner = number.repeat_interleave(counts)
    wanted = counts * alive
    ends = wanted.cumsum(0)
    kept = alive & (ends <= budget)
    t, owner = t[kept[owner]], owner[kept[owner]]
    used = slice(first, first + len(t))
    samples = PaddedSamples(
        t=t.new_zeros(first + budget),
        position=t.new_zeros(first + budget, 3),
        ray=number.new_zeros(first + budget, dtype=torch.int32),
        starts=(first + (ends - wanted).clamp(max=budget)).int(),
        counts=(wanted * kept).int(),
        kept=kept,
        total=torch.full_like(live, used.stop, dtype=torch.int32),
        wanted=ends[-1:].int(),
    )
    samples.t[used] = t
    samples.position[used] = (origin[owner] + direction[owner] * t[:, None]).clamp(-1, 1)
    samples.ray[used] = owner.int()
    return samples


def _to_words(flags: Tensor) -> Tensor:
    """Bits of flags of any shape, flattened, as int32 words."""
    flat = flags.reshape(-1)
    rows = pad(flat, (0, -len(flat) % 32)).reshape(-1, 32)
    # The sum needs 33 bits with its sign; the conversion keeps the lower 32.
    return (rows.long() << torch.arange(32, device=flags.device)).sum(1).int()
