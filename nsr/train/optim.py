"""AdamW with warm-up, a plateau and exponential decay."""

from __future__ import annotations

from typing import Any

import torch

from nsr.config import OptimConfig
from nsr.fields.model import SurfaceModel
from nsr.fields.schedule import schedule_value

_WARMUP_FLOOR = 0.01


def make_optimizer(model: SurfaceModel, config: OptimConfig) -> torch.optim.AdamW:
    """Groups: hash tables and networks, each with its weight decay; sharpness, and what is learned for each photograph if
    anything is, each with its own rate and no weight decay."""
    groups: list[dict[str, Any]] = [
        {"params": model.table_parameters(), "lr": config.learning_rate, "weight_decay": config.table_weight_decay},
        {"params": model.network_parameters(), "lr": config.learning_rate, "weight_decay": config.weight_decay},
        {"params": [model.log_sharpness], "lr": config.sharpness_rate, "weight_decay": 0.0},
    ]
    if own := model.photograph_parameters():
        groups.append({"params": own, "lr": config.photograph_rate, "weight_decay": 0.0})
    for group in groups:
        group["base_lr"] = group["lr"]
    on_gpu = next(model.parameters()).is_cuda
    return torch.optim.AdamW(groups, betas=config.betas, eps=config.eps, fused=on_gpu)


def rate_factor(config: OptimConfig, step: int, steps: int) -> float:
    """Factor on the learning rates.

    Linear from 1 % to 1 over `warmup_steps`, 1 for `hold_steps`, then exponential down to `decay` at the end; all times `rate`.
    """
    drop = schedule_value(config.rate, step)
    warmup = min(config.warmup_steps, steps)
    if step < warmup:
        return drop * (_WARMUP_FLOOR + (1 - _WARMUP_FLOOR) * step / warmup)
    begin = warmup + config.hold_steps
    return drop * float(config.decay ** (max(0, step - begin) / max(1, steps - begin)))


def set_rates(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Scale every group's learning rate from its base."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor
