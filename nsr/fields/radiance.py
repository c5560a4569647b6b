"""Colour of a surface point seen from a direction."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from nsr.config import RadianceConfig
from nsr.kernels.mlp import mlp


def spherical_harmonics(direction: Tensor, degree: int) -> Tensor:
    """Real spherical harmonics of unit vectors.

    Args:
        direction: (S, 3), length 1. degree: number of bands, 0..4.

    Returns:
        (S, degree^2), orthonormal on the sphere (Sloan 2008, appendix A2).
    """
    if degree == 0:
        return direction[:, :0]
    x, y, z = direction.unbind(1)
    bands = [torch.full_like(x, 0.5 / math.sqrt(math.pi))]
    if degree > 1:
        c1 = math.sqrt(3 / (4 * math.pi))
        bands += [-c1 * y, c1 * z, -c1 * x]
    if degree > 2:
        c2 = math.sqrt(15 / (4 * math.pi))
        bands += [c2 * x * y, -c2 * y * z, math.sqrt(5 / (16 * math.pi)) * (3 * z * z - 1), -c2 * x * z, c2 / 2 * (x * x - y * y)]
    if degree > 3:
        a, b, c = math.sqrt(35 / (32 * math.pi)), math.sqrt(105 / (4 * math.pi)), math.sqrt(21 / (32 * math.pi))
        bands += [
            -a * y * (3 * x * x - y * y),
            b * x * y * z,
            -c * y * (5 * z * z - 1),
            math.sqrt(7 / (16 * math.pi)) * z * (5 * z * z - 3),
            -c * x * (5 * z * z - 1),
            b / 2 * z * (x * x - y * y),
            -a * x * (x * x - 3 * y * y),
        ]
    return torch.stack(bands, dim=1)


def join_columns(parts: list[Tensor], backend: str) -> Tensor:
    """Concatenate (S, *) columns; for `triton` as the transpose of a feature-major array, which its kernels read fastest."""
    return torch.cat([part.T for part in parts]).T if backend == "triton" else torch.cat(parts, dim=1)


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

    def forward(self, x: Tensor, count: Tensor | None = None) -> Tensor:
        """(S, sizes[0]) -> (S, sizes[-1]); `count`: (1,) int32, rows in use, see `mlp`."""
        return mlp(x, list(self.weights), self.bias_terms(), count=count, backend=self.backend)

    def bias_terms(self) -> list[Tensor | None]:
        """The biases as the kernel takes them: one (out,) per layer, None for none."""
        return list(self.biases) if len(self.biases) else [None] * len(self.weights)


class RadianceField(nn.Module):
    """Colour from geometry features, normal and view direction (and the position, if configured)."""

    def __init__(self, config: RadianceConfig, geometry_features: int, generator: torch.Generator, backend: str = "reference"):
        super().__init__()
        self.config = config
        inputs = 3 * config.position + geometry_features + 3 + config.view_degree**2
        self.network = ReluNetwork([inputs] + [config.hidden] * config.layers + [3], generator, backend, bias=config.bias)

    def forward(self, x: Tensor, features: Tensor, normal: Tensor, direction: Tensor) -> Tensor:
        """sRGB colour (S, 3) in [0, 1].

        Args:
            x: (S, 3) unit frame. features: (S, G). normal: (S, 3) unit length. direction: (S, 3) from the camera, unit length.
        """
        return self.shade(x, features, normal, self.harmonics(direction))

    def harmonics(self, direction: Tensor) -> Tensor:
        """Spherical harmonics (R, degree^2) of unit directions (R, 3), as `shade` takes them."""
        return spherical_harmonics(direction, self.config.view_degree)

    def shade(self, x: Tensor, features: Tensor, normal: Tensor, harmonics: Tensor, count: Tensor | None = None) -> Tensor:
        """As `forward`, from the direction's spherical harmonics (S, degree^2); `count` as in `mlp`."""
        parts = [x] * self.config.position + [features, normal, harmonics]
        return torch.sigmoid(self.network(join_columns(parts, self.network.backend), count))
