"""Fully connected ReLU network in plain torch."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn.functional import linear, relu


def mlp(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> Tensor:
    """See `nsr.kernels.mlp.mlp`."""
    for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
        x = relu(linear(x, weight, bias))
    return linear(x, weights[-1], biases[-1])
