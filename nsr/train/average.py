"""The mean of the parameters over the last steps as the result, instead of the last step's, whose noise it takes away."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

EVERY = 8  # steps between those that count: neighbours differ little, and reading large tables takes time


class ParameterMean:
    """Equal mean of a model's parameters over a share of the steps (Polyak and Juditsky 1992; of networks: Izmailov et al. 2018).

    Args:
        parameters: of the model, in an order that stays. share: of all steps, the last ones, in [0, 1]; 0: no mean.
        steps: of the training.
    """

    def __init__(self, parameters: list[nn.Parameter], share: float, steps: int):
        self.parameters, self.steps, self.first = parameters, steps, steps - round(share * steps)
        self.count = 0
        self.means: list[Tensor] = []

    @torch.no_grad()
    def add(self, step: int) -> None:
        """Count the parameters as they are after step `step`, numbered from 1, if it is one of those that count."""
        if step <= self.first or (self.steps - step) % EVERY:
            return
        self.count += 1
        if not self.means:
            self.means = [torch.zeros_like(parameter) for parameter in self.parameters]
        for mean, parameter in zip(self.means, self.parameters, strict=True):
            mean.lerp_(parameter, 1 / self.count)

    @torch.no_grad()
    def install(self) -> None:
        """Give the model the mean; without one it stays as it is."""
        for parameter, mean in zip(self.parameters, self.means, strict=False):
            parameter.copy_(mean)

    def state(self) -> dict[str, Any]:
        """For the checkpoint."""
        return {"count": self.count, "means": self.means}

    def load(self, state: dict[str, Any]) -> None:
        """Continue from `state`."""
        self.count, self.means = state["count"], list(state["means"])
