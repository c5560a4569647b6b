"""Volume rendering of what lies behind the unit ball: where to look, and the sum of what is seen there."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

from nsr.kernels.backend import choose
from nsr.kernels.background import reference
from nsr.kernels.background.reference import contract
from nsr.kernels.gpu import require_triton

__all__ = ["BackgroundSamples", "background_composite", "background_samples", "contract"]


class BackgroundSamples(NamedTuple):
    """N samples on each of R rays, ray after ray.

    Attributes:
        position: (R N, 3), contracted (see `contract`) and scaled to the unit cube. harmonics: (R N, degree^2) of the rays'
        directions. lengths: (R, N) of the samples' intervals, unit frame.
    """

    position: Tensor
    harmonics: Tensor
    lengths: Tensor


def _triton_samples(origin: Tensor, *rest: Any, **options: Any) -> tuple[Tensor, ...]:
    require_triton(origin.device)
    from nsr.kernels.background import triton

    return triton.background_samples(origin, *rest, **options)


def _triton_composite(logit: Tensor, *rest: Any) -> Tensor:
    require_triton(logit.device)
    from nsr.kernels.background import triton

    return triton.background_composite(logit, *rest)


_SAMPLES = {"reference": reference.background_samples, "triton": _triton_samples, "tcnn": reference.background_samples}
_COMPOSITE = {
    "reference": reference.background_composite,
    "triton": _triton_composite,
    "tcnn": reference.background_composite,
}


def background_samples(
    origin: Tensor, direction: Tensor, shift: Tensor, *, samples: int, degree: int, backend: str = "reference"
) -> BackgroundSamples:
    """Place samples on rays from where they leave the unit ball, evenly spaced in inverse distance from there.

    Args:
        origin, direction: (R, 3) unit frame, directions of length 1. shift: (R,) in [0, 1), of a ray's samples within their
            intervals. samples: N, `triton`: a power of two at least 2. degree: bands of the harmonics, 0..4.

    Returns:
        BackgroundSamples; nothing is differentiated. Rays that miss the ball begin where they pass it.
    """
    found = choose("background_samples", _SAMPLES, backend)(origin, direction, shift, samples=samples, degree=degree)
    return BackgroundSamples(*found)


def background_composite(logit: Tensor, colour: Tensor, lengths: Tensor, *, backend: str = "reference") -> Tensor:
    """Sum colours over rays with the weights of volume rendering (Max 1995, eq. 1; Mildenhall et al. 2020, eq. 3).

    Args:
        logit: (R N,) of the density, which is `softplus(logit - 1)` per unit-frame length. colour: (R N, 3).
        lengths: (R, N), not differentiated.

    Returns:
        (R, 3); once differentiable in `logit` and `colour`.
    """
    out: Tensor = choose("background_composite", _COMPOSITE, backend)(logit, colour, lengths)
    return out
