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


def zero_level(sdf: Tensor, width: Tensor, inverse_cutoff: Tensor | float = 0.0) -> Tensor:
    """Distance of known surface points from the zero level, robustly: (P,) -> (P,); unit-frame length.

    `h / (1 + h / cutoff)` with h the Huber loss (Huber 1964) over its width: |sdf| beyond `width`, a parabola within. Its
    pull falls with the square of the distance beyond the cutoff (Geman and Reynolds 1992), so that outliers let go.

    Args:
        width: (P,) positive, what is known of a point's position. inverse_cutoff: 1 over the cutoff, 0 for none.
    """
    distance = sdf.abs()
    huber = torch.where(distance < width, distance.square() / (2 * width), distance - width / 2)
    return huber / (1 + huber * inverse_cutoff)
