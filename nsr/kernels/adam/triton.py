"""Sparse Adam in Triton: bound by the gradient's bytes, plus six times as many for the numbers that have one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl
from torch import Tensor

if TYPE_CHECKING:
    from nsr.kernels.adam import AdamSettings, AdamState

_BLOCK = 1024


@torch.no_grad()
def adam_step(
    parameter: Tensor,
    gradient: Tensor,
    state: AdamState,
    copy: Tensor | None,
    *,
    rate: Tensor,
    step: Tensor,
    settings: AdamSettings,
) -> None:
    """See `nsr.kernels.adam.adam_step`."""
    size = parameter.numel()
    _step[(triton.cdiv(size, _BLOCK),)](
        parameter, gradient, state.mean, state.square, parameter if copy is None else copy, rate, step, size,
        *settings.betas, settings.eps, settings.weight_decay, COPY=copy is not None, BLOCK=_BLOCK,
    )  # fmt: skip


@triton.jit
def _step(
    parameter_ptr, gradient_ptr, mean_ptr, square_ptr, copy_ptr, rate_ptr, step_ptr, size, first, second, eps, decay,
    COPY: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    gradient = tl.load(gradient_ptr + place, mask=place < size, other=0.0)
    touched = gradient != 0.0
    rate = tl.load(rate_ptr)
    count = (tl.load(step_ptr) + 1).to(tl.float32)
    # beta^count through exp2, the only power in both the compiler and the interpreter
    mean_share = 1.0 - tl.exp2(count * tl.log2(first + 0.0 * rate))
    square_share = 1.0 - tl.exp2(count * tl.log2(second + 0.0 * rate))
    value = tl.load(parameter_ptr + place, mask=touched, other=0.0)
    mean = first * tl.load(mean_ptr + place, mask=touched, other=0.0) + (1.0 - first) * gradient
    square = second * tl.load(square_ptr + place, mask=touched, other=0.0) + (1.0 - second) * gradient * gradient
    value = value * (1.0 - rate * decay) - rate * (mean / mean_share) / (tl.sqrt(square / square_share) + eps)
    tl.store(parameter_ptr + place, value, mask=touched)
    tl.store(mean_ptr + place, mean, mask=touched)
    tl.store(square_ptr + place, square, mask=touched)
    tl.store(gradient_ptr + place, tl.zeros((BLOCK,), dtype=tl.float32), mask=touched)
    if COPY:
        tl.store(copy_ptr + place, value.to(tl.float16), mask=touched)
