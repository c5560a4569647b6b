"""Terms that shape the field by itself."""

from __future__ import annotations

import torch
from torch import Tensor


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
