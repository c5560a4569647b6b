"""The whole field: SDF, radiance, sharpness and background, built from its configuration."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from nsr.config import ModelConfig
from nsr.errors import ConfigError
from nsr.fields.background import BackgroundField
from nsr.fields.photograph import Exposure
from nsr.fields.radiance import RadianceField
from nsr.fields.sdf import SdfField

_SHARPNESS_SCALE = 10.0  # NeuS learns v with 1/s = exp(10 v)
_SHARPNESS_LIMIT = 1e6


class SurfaceModel(nn.Module):
    """All learned parameters of a scene.

    Args:
        views: photographs it is trained with, for what is learned for each of them.
    """

    def __init__(self, config: ModelConfig, generator: torch.Generator, backend: str = "reference", *, views: int = 0):
        super().__init__()
        self.config = config
        self.sdf = SdfField(config.encoding, config.sdf, generator, backend)
        self.radiance = RadianceField(config.radiance, config.sdf.geometry_features, generator, backend, codes=config.appearance)
        self.log_sharpness = nn.Parameter(torch.tensor(math.log(config.sharpness_start) / _SHARPNESS_SCALE))
        learned = config.background.kind == "learned"
        self.background = (
            BackgroundField(config.background, generator, backend, bias=config.radiance.bias, codes=config.appearance)
            if learned
            else None
        )
        if views < 1 and (config.exposure != "none" or config.appearance):
            raise ConfigError(
                "model.exposure, model.appearance: are learned for each photograph, but there is none; set none and 0"
            )
        self.exposure = None if config.exposure == "none" else Exposure(config.exposure, views)
        # All photographs look the same at the start, and the random weights tell them apart from the first gradient on.
        self.appearance = nn.Parameter(torch.zeros(views, config.appearance)) if config.appearance else None

    def sharpness(self) -> Tensor:
        """NeuS inverse standard deviation 1/s, per unit-frame length; scalar."""
        return torch.exp(self.log_sharpness * _SHARPNESS_SCALE).clamp(max=_SHARPNESS_LIMIT)

    def set_step(self, step: int) -> None:
        """Bring everything that follows a schedule to a training step."""
        self.sdf.set_step(step)

    def table_parameters(self) -> list[nn.Parameter]:
        """Hash tables."""
        return [self.sdf.table] + ([self.background.table] if self.background is not None else [])

    def codes(self, count: int, view: Tensor | None = None) -> Tensor | None:
        """Appearance codes (count, A) of photographs `view` (count,), None: their mean; None if the model has none.

        A code for each photograph, as in NeRF in the Wild (Martin-Brualla et al. 2021, section 4.1), lets what is seen there
        have other colours without another shape (generative latent optimisation, Bojanowski et al. 2018).
        """
        if self.appearance is None:
            return None
        return self.appearance.mean(0).expand(count, -1) if view is None else self.appearance.index_select(0, view)

    def photograph_parameters(self) -> list[nn.Parameter]:
        """What is learned for each photograph."""
        exposure = [] if self.exposure is None else [self.exposure.table]
        return exposure + ([] if self.appearance is None else [self.appearance])

    def network_parameters(self) -> list[nn.Parameter]:
        """Everything but hash tables, sharpness and what is learned for each photograph."""
        special = {id(p) for p in [*self.table_parameters(), self.log_sharpness, *self.photograph_parameters()]}
        return [p for p in self.parameters() if id(p) not in special]

    def dense_parameters(self) -> list[nn.Parameter]:
        """Everything but hash tables."""
        return [*self.network_parameters(), self.log_sharpness, *self.photograph_parameters()]
