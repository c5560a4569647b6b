"""Small fully connected networks."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from nsr.kernels.backend import choose
from nsr.kernels.mlp import reference

__all__ = ["mlp"]

_IMPLEMENTATIONS = {"reference": reference.mlp}


def mlp(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], *, backend: str = "reference") -> Tensor:
    """ReLU network without output activation.

    Args:
        x: (S, I). weights: one (out, in) per layer. biases: one (out,) per layer.

    Returns:
        (S, O). Differentiable in all arguments.
    """
    out: Tensor = choose("mlp", _IMPLEMENTATIONS, backend)(x, weights, biases)
    return out
