"""Terms that shape the field by itself."""

from __future__ import annotations

import torch
from torch import Tensor

from nsr.kernels.packed import Packed


def eikonal(gradient: Tensor) -> Tensor:
    """Squared deviation of the gradient's length from 1 (Gropp et al. 2020, eq. 3): (P, 3) -> (P,)."""
    # The small term keeps the derivative of the length finite where the gradient vanishes.
    return ((gradient.square().sum(1) + 1e-12).sqrt() - 1).square()


def curvature(laplacian: Tensor) -> Tensor:
    """Absolute Laplacian of the SDF (Li et al. 2023, Neuralangelo, eq. 8): (P,) -> (P,)."""
    return laplacian.abs()


def sparsity(sdf: Tensor, scale: float) -> Tensor:
    """`exp(-scale |sdf|)` (Long et al. 2022, SparseNeuS, eq. 11): (P,) -> (P,); discourages surface where nothing is seen."""
    return torch.exp(-scale * sdf.abs())


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
