"""The columns that a colour network sees of a sample: position, features of the geometry, normal, view direction."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from nsr.kernels.backend import choose
from nsr.kernels.gpu import require_triton
from nsr.kernels.shading import reference
from nsr.kernels.shading.reference import spherical_harmonics

__all__ = ["colour_inputs", "spherical_harmonics"]


def _triton(position: Tensor | None, features: Tensor, *rest: Any, **options: Any) -> Tensor:
    require_triton(features.device)
    from nsr.kernels.shading import triton

    return triton.colour_inputs(position, features, *rest, **options)


_IMPLEMENTATIONS = {"reference": reference.colour_inputs, "triton": _triton, "tcnn": reference.colour_inputs}


def colour_inputs(
    position: Tensor | None,
    features: Tensor,
    gradient: Tensor,
    direction: Tensor,
    ray: Tensor,
    *,
    degree: int,
    backend: str = "reference",
) -> Tensor:
    """Join position, features, unit normal and the view direction's spherical harmonics.

    Args:
        position: (S, 3), not differentiated, or None to leave it out. features: (S, G). gradient: (S, 3) of the SDF, of any
            length. direction: (R, 3) of length 1. ray: (S,) integers, the samples' rays. degree: bands of the harmonics, 0..4.

    Returns:
        (S, C), `triton`: the transpose of a feature-major array. Once differentiable in `features` and `gradient`.
    """
    out: Tensor = choose("colour_inputs", _IMPLEMENTATIONS, backend)(position, features, gradient, direction, ray, degree=degree)
    return out
