"""What lies outside the unit ball: a density field in contracted space."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nsr.config import BackgroundConfig
from nsr.fields.radiance import ReluNetwork
from nsr.kernels.background import background_composite, background_samples
from nsr.kernels.hashgrid import HashGridSpec, TableStorage, hash_encode
from nsr.kernels.mlp import mlp_pair

_FEATURES = 8


class BackgroundField(nn.Module):
    """`origin (R, 3), direction (R, 3), shift (R,) -> colour (R, 3)` of what rays meet behind the unit ball.

    Attributes:
        storage: where fast back ends read the table and leave its gradient, while training; None: the parameter itself.
    """

    storage: TableStorage | None = None

    def __init__(
        self,
        config: BackgroundConfig,
        generator: torch.Generator,
        backend: str = "reference",
        *,
        bias: bool = True,
        codes: int = 0,
    ):
        super().__init__()
        self.config, self.backend = config, backend
        self.spec = HashGridSpec(config.levels, 2, config.log2_table, config.base_resolution, config.finest_resolution)
        self.table = nn.Parameter((2 * torch.rand(self.spec.entries, 2, generator=generator) - 1) * 1e-4)
        self.density = ReluNetwork([config.levels * 2, config.hidden, 1 + _FEATURES], generator, backend, bias=bias)
        sizes = [_FEATURES + config.view_degree**2 + codes, *[config.hidden] * config.layers, 3]
        self.colour = ReluNetwork(sizes, generator, backend, bias=bias)

    def forward(
        self, origin: Tensor, direction: Tensor, shift: Tensor, live: Tensor | None = None, codes: Tensor | None = None
    ) -> Tensor:
        """sRGB colours.

        Args:
            origin, direction: unit frame, directions of length 1. shift: of a ray's samples within their intervals, in [0, 1).
            live: (1,) int32: only the first rays are in use, the others' colours are undefined. None: all.
            codes: (R, A) of photographs, if the field takes any.
        """
        config, backend = self.config, self.backend
        count = None if live is None else live * config.samples
        samples = background_samples(origin, direction, shift, samples=config.samples, degree=config.view_degree, backend=backend)
        encoded = hash_encode(samples.position, self.table, self.spec, storage=self.storage, count=count, backend=backend)
        networks = self.density.parts(), self.colour.parts()
        extra = samples.harmonics
        if codes is not None:
            every = codes.T[:, :, None].expand(-1, -1, config.samples).flatten(1)
            extra = torch.cat([extra.T, every]).T
        logit, colour = mlp_pair(encoded, *networks, extra, count=count, backend=backend)
        return background_composite(logit, colour, samples.lengths, backend=backend)
