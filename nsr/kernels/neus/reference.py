"""NeuS volume rendering in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from nsr.kernels.composite import composite, transmittance_weights
from nsr.kernels.neus.alpha import annealed_cosine, neus_alpha
from nsr.kernels.packed import Packed


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
    distortion: bool,
) -> tuple[Tensor, ...]:
    """See `nsr.kernels.neus.neus_composite`; returns the fields of `RaySums`."""
    own = Packed.from_counts(packed.counts.long())
    # Row of each sample: the rows of no ray are left out.
    rows = torch.arange(len(own.ray), device=sdf.device) + (packed.starts - own.starts)[own.ray]
    slope = gradient[rows]
    normal = normalize(slope, dim=1, eps=1e-6)
    cosine = annealed_cosine((direction[own.ray] * normal).sum(1), cosine_ratio)
    weights = transmittance_weights(neus_alpha(sdf[rows], cosine, step, sharpness.reshape(())), own)
    ones = torch.ones_like(weights)
    sums = composite(weights, torch.cat([colour[rows], normal, t[rows, None], ones[:, None]], dim=1), own)
    # The small term keeps the derivative of the length finite where the gradient vanishes.
    deviation = ((slope.square().sum(1) + 1e-12).sqrt() - 1).square()
    eikonal = composite(deviation, ones[:, None], own)[:, 0]
    spread = _distortion(weights, t[rows], step, own) if distortion else torch.zeros_like(eikonal)
    every = torch.zeros_like(sdf).index_copy(0, rows, weights).detach()
    return sums[:, :3], sums[:, 3:6], sums[:, 6], sums[:, 7], eikonal, spread, every


def _distortion(weights: Tensor, t: Tensor, step: float, own: Packed) -> Tensor:
    """All pairs of samples, ray by ray."""
    parts = []
    for w, middle in zip(weights.split(own.counts.tolist()), t.split(own.counts.tolist()), strict=True):
        apart = (middle[:, None] - middle).abs()
        parts.append((w[:, None] * w * apart).sum() + w.square().sum() * (step / 3))
    return torch.stack(parts) if parts else weights.new_zeros(0)
