"""Fully connected ReLU network in plain torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import linear, relu

Network = Callable[[Tensor, Sequence[Tensor], Sequence[Tensor | None]], Tensor]
Parameters = tuple[Sequence[Tensor], Sequence[Tensor | None]]  # weights, biases


def mlp(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    *,
    count: Tensor | None = None,
    sigmoid: bool = False,
) -> Tensor:
    """See `nsr.kernels.mlp.mlp`."""
    return rows_in_use(with_sigmoid(_every_row) if sigmoid else _every_row, x, weights, biases, count)


def mlp_pair(
    x: Tensor, first: Parameters, second: Parameters, extra: Tensor, *, count: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """See `nsr.kernels.mlp.mlp_pair`."""
    return pair_of(mlp, x, first, second, extra, count)


def pair_of(
    run: Callable[..., Tensor], x: Tensor, first: Parameters, second: Parameters, extra: Tensor, count: Tensor | None
) -> tuple[Tensor, Tensor]:
    """`mlp_pair` composed of two calls of an `mlp`."""
    out = run(x, *first, count=count)
    return out[:, 0], run(torch.cat([out[:, 1:], extra], dim=1), *second, count=count, sigmoid=True)


def with_sigmoid(run: Network) -> Network:
    """A network followed by the logistic function."""
    return lambda *arguments: torch.sigmoid(run(*arguments))


def rows_in_use(
    run: Network, x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor | None], count: Tensor | None
) -> Tensor:
    """`run` with zeros in place of the rows past `count`, before it and after, so that none of them has an effect."""
    if count is None:
        return run(x, weights, biases)
    used = (torch.arange(len(x), device=x.device) < count)[:, None]
    return torch.where(used, run(torch.where(used, x, 0), weights, biases), 0)


def _every_row(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor | None]) -> Tensor:
    for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
        x = relu(linear(x, weight, bias))
    return linear(x, weights[-1], biases[-1])
