"""Sparse Adam in plain torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from nsr.kernels.adam import AdamSettings, AdamState


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
    first, second = settings.betas
    touched = gradient != 0
    mean = torch.where(touched, first * state.mean + (1 - first) * gradient, state.mean)
    square = torch.where(touched, second * state.square + (1 - second) * gradient.square(), state.square)
    count = step.to(torch.float64) + 1
    corrected_mean = mean / (1 - first**count).to(mean.dtype)
    corrected_square = square / (1 - second**count).to(mean.dtype)
    moved = parameter * (1 - rate * settings.weight_decay) - rate * corrected_mean / (corrected_square.sqrt() + settings.eps)
    parameter.copy_(torch.where(touched, moved, parameter))
    state.mean.copy_(mean)
    state.square.copy_(square)
    gradient.zero_()
    if copy is not None:
        copy.copy_(parameter)
