"""Samples behind the region of interest and their sum over a ray, in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import softplus

from nsr.kernels.march.reference import ball_interval
from nsr.kernels.shading.reference import spherical_harmonics

DENSITY_SHIFT = -1.0  # of the logits, so that space starts thin
LAST = 1 - 1e-3  # of inverse distance: the farthest sample is a thousand units away
ENDLESS = 1e3  # length of the last interval, unit frame


def contract(x: Tensor) -> Tensor:
    """Map all of space into the ball of radius 2 (Barron et al. 2022, mip-NeRF 360, eq. 10): x (..., 3) -> (..., 3)."""
    norm = x.norm(dim=-1, keepdim=True).clamp(min=1e-9)
    return torch.where(norm <= 1, x, (2 - 1 / norm) * x / norm)


def background_samples(
    origin: Tensor, direction: Tensor, shift: Tensor, *, samples: int, degree: int
) -> tuple[Tensor, Tensor, Tensor]:
    """See `nsr.kernels.background.background_samples`."""
    _, far = ball_interval(origin, direction)
    nearest = -(origin * direction).sum(-1)
    start = torch.where(far > 0, far, nearest.clamp(min=0))  # rays that miss the ball begin where they pass it
    edges = torch.arange(samples + 1, device=origin.device, dtype=origin.dtype) / samples
    middle = (edges[:-1] + shift[:, None] / samples).clamp(max=LAST)
    t = start[:, None] + middle / (1 - middle)
    ends = start[:, None] + edges[:-1] / (1 - edges[:-1])
    lengths = torch.cat([ends.diff(dim=1), torch.full_like(ends[:, :1], ENDLESS)], dim=1)
    position = origin[:, None] + direction[:, None] * t[..., None]
    unit = (contract(position.reshape(-1, 3)) + 2) / 4
    harmonics = spherical_harmonics(direction, degree).repeat_interleave(samples, 0)
    return unit, harmonics, lengths


def background_composite(logit: Tensor, colour: Tensor, lengths: Tensor) -> Tensor:
    """See `nsr.kernels.background.background_composite`."""
    depth = softplus(logit + DENSITY_SHIFT).reshape(lengths.shape) * lengths
    before = torch.cumsum(depth, 1) - depth
    weights = torch.exp(-before) * -torch.expm1(-depth)  # transmittance times opacity
    return (weights[..., None] * colour.reshape(*lengths.shape, 3)).sum(1)
