"""Random points in plain torch."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nsr.kernels.rays.philox import BALL_STREAM, CELL_STREAM, TABLE_STREAM, random_words, uniform

# A uniform number may be 0, which has no logarithm.
LEAST_UNIFORM = 2.0**-25


def points_in_ball(out: Tensor, *, seed: int, step: Tensor) -> Tensor:
    """See `nsr.kernels.points.points_in_ball`."""
    volume, height, angle, _ = (uniform(word) for word in random_words(seed, step, len(out), stream=BALL_STREAM))
    radius = torch.exp2(torch.log2(volume.clamp(min=LEAST_UNIFORM)) / 3)
    height = 2 * height - 1
    across = (1 - height * height).sqrt()
    angle = 2 * math.pi * angle
    direction = torch.stack([across * angle.cos(), across * angle.sin(), height], dim=1)
    return out.copy_((radius[:, None] * direction).clamp(-1, 1))


def points_in_cells(cells: Tensor, resolution: int, *, seed: int, step: Tensor) -> Tensor:
    """See `nsr.kernels.points.points_in_cells`."""
    shift = torch.stack([uniform(word) for word in random_words(seed, step, len(cells), stream=CELL_STREAM)[:3]], dim=1)
    corner = torch.stack([cells // resolution**2, cells // resolution % resolution, cells % resolution], dim=1)
    return ((corner + shift) * (2 / resolution) - 1).clamp(-1, 1)


def points_of_table(out: Tensor, table: Tensor, entries: Tensor, *, seed: int, step: Tensor) -> Tensor:
    """See `nsr.kernels.points.points_of_table`."""
    word = random_words(seed, step, len(out), stream=TABLE_STREAM)[0]
    drawn = table[entries[word % len(entries)].long()]
    out.copy_(drawn[:, :3])
    return drawn[:, 3:]
