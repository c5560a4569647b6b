"""AdamW with warm-up and exponential decay."""

from __future__ import annotations

from typing import Any

import torch

from nsr.config import OptimConfig
from nsr.fields.model import SurfaceModel

_WARMUP_FLOOR = 0.01


def make_optimizer(model: SurfaceModel, config: OptimConfig) -> torch.optim.AdamW:
    """Three groups: hash tables (no weight decay), networks, sharpness (own rate, no weight decay)."""
    groups: list[dict[str, Any]] = [
        {"params": model.table_parameters(), "lr": config.learning_rate, "weight_decay": 0.0},
        {"params": model.network_parameters(), "lr": config.learning_rate, "weight_decay": config.weight_decay},
        {"params": [model.log_sharpness], "lr": config.sharpness_rate, "weight_decay": 0.0},
    ]
    for group in groups:
        group["base_lr"] = group["lr"]
    on_gpu = next(model.parameters()).is_cuda
    return torch.optim.AdamW(groups, betas=config.betas, eps=config.eps, fused=on_gpu)


def rate_factor(config: OptimConfig, step: int, steps: int) -> float:
    """Factor on the learning rates: linear from 1 % over `warmup_steps`, then exponential down to `decay` at the end."""
    warmup = min(config.warmup_steps, steps)
    if step < warmup:
        return _WARMUP_FLOOR + (1 - _WARMUP_FLOOR) * step / warmup
    return float(config.decay ** ((step - warmup) / max(1, steps - warmup)))


def set_rates(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Scale every group's learning rate from its base."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor
