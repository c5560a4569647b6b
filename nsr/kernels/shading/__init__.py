"""The columns that a colour network sees of a sample: position, features of the geometry, normal, view direction, its ray's code."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from nsr.kernels.backend import choose
from nsr.kernels.gpu import require_triton
from nsr.kernels.packed import Packed
from nsr.kernels.shading import reference
from nsr.kernels.shading.reference import Directions, harmonics_width, spherical_harmonics

__all__ = ["Directions", "colour_inputs", "harmonics_width", "spherical_harmonics"]


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
    packed: Packed,
    *,
    degree: int,
    codes: Tensor | None = None,
    directions: Directions = "view",
    backend: str = "reference",
) -> Tensor:
    """Join position, features, unit normal, the view direction's spherical harmonics and the ray's code.

    Args:
        position: (S, 3), not differentiated, or None to leave it out. features: (S, G). gradient: (S, 3) of the SDF, of any
            length. direction: (R, 3) of length 1. packed: the samples' rays, integers of any width; rows of no ray by `starts`
            and `counts` name one in `ray` all the same, and `triton` returns their gradients to no code.
        degree: bands of the harmonics, 0..4. codes: (R, A) of the rays, or None for none. directions: the harmonics are those of the
            view direction d, of the one mirrored about the unit normal, `d - 2 (d . n) n` (Verbin et al. 2022, Ref-NeRF, eq. 4,
            whose `w_o` is `-d`), or of the one and then of the other.

    Returns:
        (S, C), `triton`: the transpose of a feature-major array. Once differentiable in `features`, `gradient` and `codes`.
    """
    out: Tensor = choose("colour_inputs", _IMPLEMENTATIONS, backend)(
        position, features, gradient, direction, packed, degree=degree, codes=codes, directions=directions
    )  # fmt: skip
    return out
