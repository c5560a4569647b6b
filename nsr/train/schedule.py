"""What training takes from its settings at a step: plain numbers, so that a loop can tabulate them for all steps in advance."""

from __future__ import annotations

from nsr.config import TrainConfig
from nsr.fields.schedule import schedule_value

__all__ = ["cosine_ratio", "loss_weight", "schedule_value"]


def cosine_ratio(config: TrainConfig, step: int) -> float:
    """Share of the true cosine in the NeuS opacity: rises from 0 to 1 over `anneal_steps`."""
    return min(1.0, step / config.anneal_steps) if config.anneal_steps > 0 else 1.0


def loss_weight(config: TrainConfig, name: str, step: int) -> float:
    """Weight of the loss term `name`, a field of `LossConfig`."""
    return schedule_value(getattr(config.loss, name), step)
