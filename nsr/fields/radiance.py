"""Colour of a surface point seen from a direction."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from nsr.config import RadianceConfig
from nsr.kernels.mlp import mlp
from nsr.kernels.packed import Packed
from nsr.kernels.shading import colour_inputs, harmonics_width


class ReluNetwork(nn.Module):
    """Fully connected ReLU network with He initialisation, evaluated by the `mlp` kernel.

    Attributes:
        weights: one (out, in) per layer. biases: one (out,) per layer, or none at all.
    """

    def __init__(self, sizes: list[int], generator: torch.Generator, backend: str = "reference", *, bias: bool = True):
        super().__init__()
        self.backend = backend
        pairs = list(zip(sizes[:-1], sizes[1:], strict=True))
        self.weights = nn.ParameterList(
            [nn.Parameter(torch.randn(b, a, generator=generator) * math.sqrt(2 / a)) for a, b in pairs]
        )
        self.biases = nn.ParameterList([nn.Parameter(torch.zeros(b)) for _, b in pairs if bias])

    def forward(self, x: Tensor, count: Tensor | None = None, *, sigmoid: bool = False) -> Tensor:
        """(S, sizes[0]) -> (S, sizes[-1]); `count`: (1,) int32, rows in use, see `mlp`."""
        return mlp(x, *self.parts(), count=count, sigmoid=sigmoid, backend=self.backend)

    def parts(self) -> tuple[list[Tensor], list[Tensor | None]]:
        """Weights and biases as the kernels take them, None for a bias that is not there."""
        return list(self.weights), list(self.biases) if len(self.biases) else [None] * len(self.weights)


class RadianceField(nn.Module):
    """Colour from geometry features, normal and view direction; the position, if configured, and `codes` numbers of the photograph."""

    def __init__(
        self, config: RadianceConfig, geometry_features: int, generator: torch.Generator, backend: str = "reference", *, codes: int = 0
    ):  # fmt: skip
        super().__init__()
        self.config = config
        inputs = 3 * config.position + geometry_features + 3 + harmonics_width(config.view_degree, config.directions) + codes
        self.network = ReluNetwork([inputs] + [config.hidden] * config.layers + [3], generator, backend, bias=config.bias)

    def forward(self, x: Tensor, features: Tensor, normal: Tensor, direction: Tensor, codes: Tensor | None = None) -> Tensor:
        """sRGB colour (S, 3) in [0, 1].

        Args:
            x: (S, 3) unit frame. features: (S, G). normal: (S, 3) unit length. direction: (S, 3) from the camera, unit length.
            codes: (S, A) of photographs, if the field takes any.
        """
        every = torch.arange(len(direction), device=direction.device)
        alone = Packed(every, every, torch.ones_like(every))
        return self.shade(x, features, normal, direction, alone, codes=codes)

    def shade(
        self,
        x: Tensor,
        features: Tensor,
        gradient: Tensor,
        direction: Tensor,
        packed: Packed,
        *,
        codes: Tensor | None = None,
        count: Tensor | None = None,
    ) -> Tensor:
        """As `forward`, of packed samples (S,) on rays with directions (R, 3) and codes (R, A), whose SDF has a gradient of any length.

        Args:
            count: (1,) int32, samples in use, see `mlp`.
        """
        inputs = colour_inputs(
            x if self.config.position else None, features, gradient, direction, packed, degree=self.config.view_degree,
            codes=codes, directions=self.config.directions, backend=self.network.backend,
        )  # fmt: skip
        return self.network(inputs, count, sigmoid=True)
