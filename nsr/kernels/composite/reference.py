"""Compositing in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor

from nsr.kernels.packed import Packed

_SMALLEST = 1e-10  # least factor by which one sample may reduce the transmittance, keeps the logarithm finite


def transmittance_weights(alpha: Tensor, packed: Packed) -> Tensor:
    """See `nsr.kernels.composite.transmittance_weights`."""
    # One running sum over all rays, less its value at each ray's start; double precision because the sum over a whole
    # batch is large beside the terms of one ray.
    log_pass = torch.log((1 - alpha.double()).clamp(min=_SMALLEST))
    before = torch.cumsum(log_pass, 0) - log_pass
    if not len(alpha):
        return alpha
    at_start = before[packed.starts.clamp(max=len(alpha) - 1)]
    return alpha * torch.exp(before - at_start[packed.ray]).to(alpha.dtype)


def composite(weights: Tensor, values: Tensor, packed: Packed) -> Tensor:
    """See `nsr.kernels.composite.composite`."""
    out = torch.zeros(len(packed.counts), values.shape[1], dtype=values.dtype, device=values.device)
    contributions = weights[:, None] * values
    # Columns one by one: torch's row-wise index_add is many times slower on the CPU than on flat vectors.
    return torch.stack([out[:, c].index_add(0, packed.ray, contributions[:, c]) for c in range(values.shape[1])], dim=1)
