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
    spread = distortion(weights, t[rows], step, own)
    every = torch.zeros_like(sdf).index_copy(0, rows, weights).detach()
    return sums[:, :3], sums[:, 3:6], sums[:, 6], sums[:, 7], eikonal, spread, every


def distortion(weights: Tensor, t: Tensor, delta: float, packed: Packed) -> Tensor:
    """Spread of the weights along each ray (Barron et al. 2022, mip-NeRF 360, eq. 15), in linear time.

    Args:
        weights: (S,) compositing weights. t: (S,) midpoints, near to far in each ray. delta: length of the segments.
        packed: rays of the samples.

    Returns:
        (R,): `sum_ij w_i w_j |t_i - t_j| + sum_i w_i^2 delta / 3`.
    """
    if not len(weights):
        return weights.new_zeros(len(packed.counts))
    moment = weights * t
    earlier_weight = _before(weights, packed)
    earlier_moment = _before(moment, packed)
    pairs = 2 * weights * (t * earlier_weight - earlier_moment)
    return weights.new_zeros(len(packed.counts)).index_add(0, packed.ray, pairs + weights.square() * (delta / 3))


def _before(values: Tensor, packed: Packed) -> Tensor:
    """Sum of a ray's earlier values, for each sample; in double precision, as one running sum serves all rays."""
    total = values.double().cumsum(0) - values.double()
    start = total[packed.starts.clamp(max=len(values) - 1)]
    return (total - start[packed.ray]).to(values.dtype)
