"""From opacities along rays to weights and sums."""

from __future__ import annotations

from torch import Tensor

from nsr.kernels.backend import choose
from nsr.kernels.composite import reference
from nsr.kernels.packed import Packed

__all__ = ["composite", "transmittance_weights"]

_IMPLEMENTATIONS = {"reference": reference.transmittance_weights}


def transmittance_weights(alpha: Tensor, packed: Packed, *, backend: str = "reference") -> Tensor:
    """Weights `w_i = alpha_i * prod over the ray's earlier samples of (1 - alpha_j)` (Max 1995, discrete form).

    Args:
        alpha: (S,) in [0, 1]. packed: rays of the samples.

    Returns:
        (S,) in [0, 1]; a ray's weights add up to its opacity. Differentiable in `alpha`.
    """
    weights: Tensor = choose("composite", _IMPLEMENTATIONS, backend)(alpha, packed)
    return weights


def composite(weights: Tensor, values: Tensor, packed: Packed) -> Tensor:
    """Sum of `weights * values` over each ray: (S,), (S, C) -> (R, C); rays without samples give 0. Differentiable."""
    return reference.composite(weights, values, packed)
