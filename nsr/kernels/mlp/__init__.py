"""Small fully connected networks."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from nsr.kernels.backend import choose
from nsr.kernels.gpu import require_triton
from nsr.kernels.mlp import reference

__all__ = ["mlp"]


def _tcnn(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor | None], *, count: Tensor | None = None) -> Tensor:
    from nsr.kernels.mlp import tcnn

    return reference.rows_in_use(tcnn.mlp, x, weights, biases, count)


def _triton(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor | None], *, count: Tensor | None = None) -> Tensor:
    require_triton(x.device)
    from nsr.kernels.mlp import triton

    return triton.mlp(x, weights, biases, count=count)


_IMPLEMENTATIONS = {"reference": reference.mlp, "triton": _triton, "tcnn": _tcnn}


def mlp(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    *,
    count: Tensor | None = None,
    backend: str = "reference",
) -> Tensor:
    """ReLU network without output activation.

    Args:
        x: (S, I), of any strides; "triton" reads the transpose of a feature-major (I, S) array fastest, and returns such
            transposes.
        weights: one (out, in) per layer. biases: one (out,) per layer, None for none.
        count: (1,) int32, rows in use, the first ones; None: all. Rows past it may hold anything: their outputs and
            gradients are zero. Only "triton" saves their evaluation.

    Returns:
        (S, O). Once differentiable in all arguments; "reference" any number of times.

    Raises:
        BackendUnavailable: see `choose` and `require_triton`; "tcnn" has no biases.
    """
    out: Tensor = choose("mlp", _IMPLEMENTATIONS, backend)(x, weights, biases, count=count)
    return out
