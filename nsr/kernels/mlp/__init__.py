"""Small fully connected networks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from nsr.kernels.backend import choose
from nsr.kernels.gpu import require_triton
from nsr.kernels.mlp import reference

__all__ = ["mlp", "mlp_pair"]


def _tcnn(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    *,
    count: Tensor | None = None,
    sigmoid: bool = False,
) -> Tensor:
    from nsr.kernels.mlp import tcnn

    return reference.rows_in_use(reference.with_sigmoid(tcnn.mlp) if sigmoid else tcnn.mlp, x, weights, biases, count)


def _triton(x: Tensor, *arguments: Any, **options: Any) -> Tensor:
    require_triton(x.device)
    from nsr.kernels.mlp import triton

    return triton.mlp(x, *arguments, **options)


def _tcnn_pair(
    x: Tensor, first: reference.Parameters, second: reference.Parameters, extra: Tensor, *, count: Tensor | None
) -> tuple[Tensor, Tensor]:
    return reference.pair_of(_tcnn, x, first, second, extra, count)


def _triton_pair(x: Tensor, *arguments: Any, count: Tensor | None) -> tuple[Tensor, Tensor]:
    require_triton(x.device)
    from nsr.kernels.mlp import triton

    return triton.mlp_pair(x, *arguments, count=count)


_IMPLEMENTATIONS = {"reference": reference.mlp, "triton": _triton, "tcnn": _tcnn}
_PAIRS: dict[str, Callable[..., tuple[Tensor, Tensor]]] = {
    "reference": reference.mlp_pair,
    "triton": _triton_pair,
    "tcnn": _tcnn_pair,
}


def mlp(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    *,
    count: Tensor | None = None,
    sigmoid: bool = False,
    backend: str = "reference",
) -> Tensor:
    """ReLU network, with or without a logistic function at its end.

    Args:
        x: (S, I), of any strides; "triton" reads the transpose of a feature-major (I, S) array fastest, and returns such
            transposes.
        weights: one (out, in) per layer. biases: one (out,) per layer, None for none.
        count: (1,) int32, rows in use, the first ones; None: all. Rows past it may hold anything: their outputs and
            gradients are zero. Only "triton" saves their evaluation.
        sigmoid: map the outputs to (0, 1).

    Returns:
        (S, O). Once differentiable in all arguments; "reference" any number of times.

    Raises:
        BackendUnavailable: see `choose` and `require_triton`; "tcnn" has no biases.
    """
    out: Tensor = choose("mlp", _IMPLEMENTATIONS, backend)(x, weights, biases, count=count, sigmoid=sigmoid)
    return out


def mlp_pair(
    x: Tensor,
    first: reference.Parameters,
    second: reference.Parameters,
    extra: Tensor,
    *,
    count: Tensor | None = None,
    backend: str = "reference",
) -> tuple[Tensor, Tensor]:
    """Two networks in a row, as a density and a colour are made: the second sees all outputs of the first but one.

    Args:
        x: (S, I). first, second: weights and biases as in `mlp`. extra: (S, D) further inputs of the second network, which
            has the first's outputs from the second one on before them. count: as in `mlp`.

    Returns:
        Output 0 of the first network (S,); the logistic function of the second's outputs (S, O). Once differentiable.

    Raises:
        BackendUnavailable: as `mlp`.
    """
    value, out = choose("mlp_pair", _PAIRS, backend)(x, first, second, extra, count=count)
    return value, out
