"""Samples along rays inside the unit ball, empty cells skipped."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from nsr.kernels.backend import choose
from nsr.kernels.march import reference
from nsr.kernels.packed import Packed

__all__ = ["Samples", "march"]

_IMPLEMENTATIONS = {"reference": reference.march}


class Samples(NamedTuple):
    """S samples: midpoints `t` (S,) along unit-length directions, and which ray each belongs to."""

    t: Tensor
    packed: Packed


def march(
    origin: Tensor, direction: Tensor, occupied: Tensor, *, step: float, jitter: Tensor, backend: str = "reference"
) -> Samples:
    """Equal steps through the unit ball, keeping midpoints that lie in occupied cells.

    Args:
        origin, direction: (R, 3) unit frame, directions of length 1.
        occupied: (G, G, G) bool over [-1, 1]^3, indexed [x, y, z].
        step: step length, unit frame.
        jitter: (R,) in [0, 1), shift of a ray's samples in steps.

    Returns:
        Samples, near to far within each ray. Rays that miss the ball or meet no occupied cell have none. Not
        differentiable.
    """
    t, counts = choose("march", _IMPLEMENTATIONS, backend)(origin, direction, occupied, step, jitter)
    return Samples(t, Packed.from_counts(counts))
