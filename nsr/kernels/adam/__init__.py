"""Adam for hash tables: one pass, entries without gradient left alone."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

from nsr.kernels.backend import choose
from nsr.kernels.gpu import require_triton

__all__ = ["AdamSettings", "AdamState", "adam_step"]


class AdamSettings(NamedTuple):
    """Constants of Adam (Kingma and Ba 2015) with decoupled weight decay (Loshchilov and Hutter 2019)."""

    betas: tuple[float, float]
    eps: float
    weight_decay: float


class AdamState(NamedTuple):
    """Running means of the gradient and of its square, both like the parameter, float32."""

    mean: Tensor
    square: Tensor


def _triton(parameter: Tensor, *arrays: Any, **options: Any) -> None:
    require_triton(parameter.device)
    from nsr.kernels.adam import triton

    triton.adam_step(parameter, *arrays, **options)


def _reference(*arrays: Any, **options: Any) -> None:
    from nsr.kernels.adam import reference

    reference.adam_step(*arrays, **options)


_IMPLEMENTATIONS = {"reference": _reference, "triton": _triton}


def adam_step(
    parameter: Tensor,
    gradient: Tensor,
    state: AdamState,
    copy: Tensor | None,
    *,
    rate: Tensor,
    step: Tensor,
    settings: AdamSettings,
    backend: str,
) -> None:
    """One step, in place; the gradient is cleared on the way.

    A number whose gradient is exactly 0 keeps its value and its running means, which for a hash table means that entries no
    sample touched cost one read. (Dense Adam would move them by their old mean.)

    Args:
        parameter, gradient: same shape, float32, contiguous.
        copy: float16 copy of the parameter to keep up to date, or None.
        rate: (1,) learning rate. step: (1,) int, number of this step from 0, for the bias correction; both stay on the
            device, so that a captured graph follows their schedule.
    """
    choose("adam_step", _IMPLEMENTATIONS, backend)(parameter, gradient, state, copy, rate=rate, step=step, settings=settings)
