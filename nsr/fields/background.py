"""What lies outside the unit ball: a density field in contracted space."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nsr.config import BackgroundConfig
from nsr.fields.radiance import ReluNetwork, spherical_harmonics
from nsr.kernels.hashgrid import HashGridSpec, hash_encode

_FEATURES = 8
_VIEW_DEGREE = 2


def contract(x: Tensor) -> Tensor:
    """Map all of space into the ball of radius 2 (Barron et al. 2022, mip-NeRF 360, eq. 10): x (..., 3) -> (..., 3)."""
    norm = x.norm(dim=-1, keepdim=True).clamp(min=1e-9)
    return torch.where(norm <= 1, x, (2 - 1 / norm) * x / norm)


class BackgroundField(nn.Module):
    """`x (S, 3) beyond the unit ball, direction (S, 3) -> density (S,) per unit-frame length, colour (S, 3)`."""

    def __init__(self, config: BackgroundConfig, generator: torch.Generator, backend: str = "reference"):
        super().__init__()
        self.config, self.backend = config, backend
        self.spec = HashGridSpec(config.levels, 2, config.log2_table, config.base_resolution, config.finest_resolution)
        self.table = nn.Parameter((2 * torch.rand(self.spec.entries, 2, generator=generator) - 1) * 1e-4)
        self.density = ReluNetwork([config.levels * 2, config.hidden, 1 + _FEATURES], generator, backend)
        self.colour = ReluNetwork([_FEATURES + _VIEW_DEGREE**2, config.hidden, 3], generator, backend)

    def forward(self, x: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
        """Density and sRGB colour."""
        encoded = hash_encode((contract(x) + 2) / 4, self.table, self.spec, backend=self.backend)
        out = self.density(encoded)
        density = torch.nn.functional.softplus(out[:, 0] - 1)
        colour = self.colour(torch.cat([out[:, 1:], spherical_harmonics(direction, _VIEW_DEGREE)], dim=1))
        return density, torch.sigmoid(colour)
