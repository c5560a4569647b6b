"""Ray marching in plain torch: all candidate midpoints of a ray as one row, then a mask."""

from __future__ import annotations

import math

import torch
from torch import Tensor


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
