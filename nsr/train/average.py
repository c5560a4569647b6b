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
        # Their memory is taken at once: it must not run out in the last steps.
        self.means: list[Tensor] = [torch.zeros_like(parameter) for parameter in parameters] if self.first < steps else []

    @torch.no_grad()
    def add(self, step: int) -> None:
        """Count the parameters as they are after step `step`, numbered from 1, if it is one of those that count."""
        if step <= self.first or (self.steps - step) % EVERY:
            return
        self.count += 1
        for mean, parameter in zip(self.means, self.parameters, strict=True):
            mean.lerp_(parameter, 1 / self.count)

    @torch.no_grad()
    def install(self) -> None:
        """Give the model the mean; before the first step that counts it stays as it is."""
        if self.count:
            for parameter, mean in zip(self.parameters, self.means, strict=True):
                parameter.copy_(mean)

    def state(self) -> dict[str, Any]:
        """For the checkpoint."""
        return {"count": self.count, "means": self.means if self.count else []}

    def load(self, state: dict[str, Any]) -> None:
        """Continue from `state`."""
        self.count = state["count"]
        if self.count:
            self.means = state["means"]
