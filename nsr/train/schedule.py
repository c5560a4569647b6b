"""What training takes from its settings at a step: plain numbers, so that a loop can tabulate them for all steps in advance."""

from __future__ import annotations

from collections.abc import Sequence

from nsr.config import ModelConfig, TrainConfig
from nsr.fields.schedule import schedule_value
from nsr.fields.sdf import difference_length
from nsr.train.optim import rate_factor

__all__ = ["cosine_ratio", "inverse_cutoff", "loss_weight", "schedule_value", "tabulated"]


def cosine_ratio(config: TrainConfig, step: int) -> float:
    """Share of the true cosine in the NeuS opacity: rises from 0 to 1 over `anneal_steps`."""
    return min(1.0, step / config.anneal_steps) if config.anneal_steps > 0 else 1.0


def loss_weight(config: TrainConfig, name: str, step: int) -> float:
    """Weight of the loss term `name`, a field of `LossConfig`."""
    return schedule_value(getattr(config.loss, name), step)


def inverse_cutoff(config: TrainConfig, step: int) -> float:
    """1 over `loss.points_cutoff`, 0 for no cutoff."""
    cutoff = schedule_value(config.loss.points_cutoff, step)
    return 1 / cutoff if cutoff > 0 else 0.0


def tabulated(config: TrainConfig, model: ModelConfig, terms: Sequence[str]) -> tuple[tuple[str, ...], list[list[float]]]:
    """Names of everything that a step looks up, the weights of `terms` among it, and a row of values for each step."""
    names = ("cosine", "rate", "difference", "inverse_cutoff", *terms)
    rows = [
        [
            cosine_ratio(config, step),
            rate_factor(config.optim, step, config.steps),
            difference_length(model.encoding, model.sdf, step),
            inverse_cutoff(config, step),
            *(loss_weight(config, name, step) for name in terms),
        ]
        for step in range(config.steps)
    ]
    return names, rows
