"""What lies outside the unit ball: a density field in contracted space."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nsr.config import BackgroundConfig
from nsr.fields.radiance import ReluNetwork, join_columns, spherical_harmonics
from nsr.kernels.hashgrid import HashGridSpec, TableStorage, hash_encode

_FEATURES = 8


def contract(x: Tensor) -> Tensor:
    """Map all of space into the ball of radius 2 (Barron et al. 2022, mip-NeRF 360, eq. 10): x (..., 3) -> (..., 3)."""
    norm = x.norm(dim=-1, keepdim=True).clamp(min=1e-9)
    return torch.where(norm <= 1, x, (2 - 1 / norm) * x / norm)


class BackgroundField(nn.Module):
    """`x (S, 3) beyond the unit ball, direction (S, 3) -> density (S,) per unit-frame length, colour (S, 3)`.

    Attributes:
        storage: where fast back ends read the table and leave its gradient, while training; None: the parameter itself.
    """

    storage: TableStorage | None = None

    def __init__(self, config: BackgroundConfig, generator: torch.Generator, backend: str = "reference", *, bias: bool = True):
        super().__init__()
        self.config, self.backend = config, backend
        self.spec = HashGridSpec(config.levels, 2, config.log2_table, config.base_resolution, config.finest_resolution)
        self.table = nn.Parameter((2 * torch.rand(self.spec.entries, 2, generator=generator) - 1) * 1e-4)
        self.density = ReluNetwork([config.levels * 2, config.hidden, 1 + _FEATURES], generator, backend, bias=bias)
        sizes = [_FEATURES + config.view_degree**2, *[config.hidden] * config.layers, 3]
        self.colour = ReluNetwork(sizes, generator, backend, bias=bias)

    def forward(self, x: Tensor, direction: Tensor, count: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Density and sRGB colour; `count`: (1,) int32, positions in use, see `hash_encode`."""
        unit = (contract(x) + 2) / 4
        encoded = hash_encode(unit, self.table, self.spec, storage=self.storage, count=count, backend=self.backend)
        out = self.density(encoded, count)
        density = torch.nn.functional.softplus(out[:, 0] - 1)
        harmonics = spherical_harmonics(direction, self.config.view_degree)
        colour = self.colour(join_columns([out[:, 1:], harmonics], self.backend), count)
        return density, torch.sigmoid(colour)
