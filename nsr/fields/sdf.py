"""Signed distance field: hash grid and one hidden layer, starting as a sphere."""

from __future__ import annotations

import math
import sys
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from nsr.config import EncodingConfig, SdfConfig
from nsr.fields.schedule import schedule_value
from nsr.kernels.hashgrid import HashGridSpec, TableStorage
from nsr.kernels.sdf import SdfOutput, SdfWeights, sdf_value, sdf_with_gradient

_TABLE_RANGE = 1e-4  # the table starts uniform in +- this, so that the sphere is not disturbed (Mueller et al. 2022)


def fibonacci_directions(count: int) -> Tensor:
    """`count` nearly evenly spread unit vectors (count, 3), float64 (Fibonacci lattice on the sphere)."""
    i = torch.arange(count, dtype=torch.float64) + 0.5
    z = 1 - 2 * i / count
    angle = math.pi * (1 + math.sqrt(5)) * i
    radius = (1 - z * z).sqrt()
    return torch.stack([radius * angle.cos(), radius * angle.sin(), z], dim=1)


def grid_spec(encoding: EncodingConfig) -> HashGridSpec:
    """Sizes of the encoding's levels."""
    return HashGridSpec(
        encoding.levels, encoding.features, encoding.log2_table, encoding.base_resolution, encoding.finest_resolution
    )


def active_levels(encoding: EncodingConfig, step: int) -> int:
    """Levels in use at a training step, from the coarsest."""
    per_level = encoding.level_steps
    opened = encoding.levels if per_level <= 0 else encoding.start_levels + step // per_level
    return max(1, min(encoding.levels, opened))


def difference_length(encoding: EncodingConfig, config: SdfConfig, step: int) -> float:
    """Step of finite differences at a training step, unit-frame length."""
    return _length(grid_spec(encoding), config, schedule_value(config.difference_length, step), active_levels(encoding, step))


def _length(spec: HashGridSpec, config: SdfConfig, fixed: float, active: int) -> float:
    """`fixed` where it is not 0, else `config.difference_step` cells of the finest of the active levels."""
    return fixed if fixed > 0 else config.difference_step * 2.0 / (spec.scales[active - 1] + 1.0)


class SdfField(nn.Module):
    """`x (P, 3) in the unit frame -> signed distance, geometry features, gradient`.

    Attributes:
        active: active levels of the encoding, set by `set_step`, a number or a device tensor; all of them before.
        storage: where fast back ends read the table and leave its gradient, while training; None: the parameter itself.
        difference: (1,) step of finite differences where it is kept on the device; None: the one `set_step` set.
    """

    storage: TableStorage | None = None
    difference: Tensor | None = None
    active: int | Tensor

    def __init__(self, encoding: EncodingConfig, config: SdfConfig, generator: torch.Generator, backend: str = "reference"):
        super().__init__()
        self.spec = grid_spec(encoding)
        self.config, self.encoding, self.backend = config, encoding, backend
        self.active = encoding.levels
        self._fixed_length = schedule_value(config.difference_length, sys.maxsize)
        start = torch.rand(self.spec.entries, encoding.features, generator=generator)
        self.table = nn.Parameter((2 * start - 1) * _TABLE_RANGE)
        inputs = 3 + encoding.levels * encoding.features
        self.W1 = nn.Parameter(torch.zeros(config.hidden, inputs))
        self.b1 = nn.Parameter(torch.zeros(config.hidden))
        self.W2 = nn.Parameter(torch.zeros(1 + config.geometry_features, config.hidden))
        self.b2 = nn.Parameter(torch.zeros(1 + config.geometry_features))
        self._start_as_sphere(generator)

    @torch.no_grad()
    def _start_as_sphere(self, generator: torch.Generator) -> None:
        """Set the network to `|x| - radius` to about 1 % in the unit ball.

        A sum of `relu(d . x)` over even directions d is proportional to |x| (Atzmon and Lipman 2020 draw the directions
        at random, which with 64 of them is no sphere). Even directions, and output weights by least squares on points of
        the ball, remove the error of the small sum. Input weights of the encoding are those of a usual linear layer:
        they change nothing as long as the table is near 0.
        """
        hidden, inputs = self.W1.shape
        bound = 1 / math.sqrt(inputs)
        self.W1.copy_((2 * torch.rand(hidden, inputs, generator=generator) - 1) * bound)
        self.W1[:, :3] = fibonacci_directions(hidden).float()
        points = (
            fibonacci_directions(512).repeat(8, 1)
            * torch.linspace(0.05, 1.0, 8, dtype=torch.float64).repeat_interleave(512)[:, None]
        )
        hidden_values = softplus(points @ self.W1[:, :3].double().T, self.config.softplus_beta)
        design = torch.cat([hidden_values, torch.ones(len(points), 1, dtype=torch.float64)], dim=1)
        wanted = points.norm(dim=1, keepdim=True) - self.config.sphere_radius
        # A little ridge keeps the weights even where the fit is nearly degenerate.
        normal = design.T @ design + 1e-4 * len(points) * torch.eye(hidden + 1, dtype=torch.float64) / hidden
        solution = torch.linalg.solve(normal, design.T @ wanted)[:, 0].float()
        self.W2.copy_((2 * torch.rand(self.W2.shape, generator=generator) - 1) / math.sqrt(hidden))
        self.W2[0], self.b2[0] = solution[:-1], solution[-1]

    def set_step(self, step: int) -> None:
        """Open the levels and set the step of finite differences that belong to a training step."""
        self.active = active_levels(self.encoding, step)
        self._fixed_length = schedule_value(self.config.difference_length, step)

    def weights(self) -> SdfWeights:
        """The network's parameters as the kernel takes them."""
        return SdfWeights(self.W1, self.b1, self.W2, self.b2, self.config.softplus_beta)

    def value(self, x: Tensor) -> Tensor:
        """Signed distance (P,) at x (P, 3)."""
        return self._value(x, None, features=False)[0]

    def forward(self, x: Tensor, count: Tensor | None = None) -> SdfOutput:
        """Signed distance, features and gradient at x (P, 3), the gradient as `config.normals` says.

        `count`: (1,) int32, positions in use, see `sdf_with_gradient`.
        """
        return self.with_laplacian(x, count)[0] if self._numeric() else self._closed_form(x, count)

    def with_laplacian(self, x: Tensor, count: Tensor | None = None) -> tuple[SdfOutput, Tensor]:
        """As `forward`, and the Laplacian (P,) of finite differences, whose taps a finite-difference gradient shares."""
        if not self._numeric():
            out = self._closed_form(x, count)
            # The centre of a second difference is evaluated as its taps are: their gradients nearly cancel.
            return out, self.finite_differences(x, self._value(x, count, features=False)[0], count)[1]
        sdf, features = self._value(x, count)
        gradient, laplacian = self.finite_differences(x, sdf, count)
        return SdfOutput(sdf, features, gradient), laplacian

    def _numeric(self) -> bool:
        return self.config.normals == "finite_difference"

    def _closed_form(self, x: Tensor, count: Tensor | None) -> SdfOutput:
        return sdf_with_gradient(x, self.table, self.spec, self.weights(), **self._how(count))

    def _value(self, x: Tensor, count: Tensor | None, *, features: bool = True) -> tuple[Tensor, Tensor]:
        return sdf_value(x, self.table, self.spec, self.weights(), features=features, **self._how(count))

    def _how(self, count: Tensor | None) -> dict[str, Any]:
        return {"active": self.active, "storage": self.storage, "count": count, "backend": self.backend}

    def difference_step(self) -> float | Tensor:
        """Step of finite differences now, unit-frame length; `difference_length` gives it for any training step."""
        if self.difference is not None:
            return self.difference
        return _length(self.spec, self.config, self._fixed_length, int(self.active))

    def finite_differences(self, x: Tensor, sdf: Tensor, count: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Gradient (P, 3) and Laplacian (P,) from six taps around x (Li et al. 2023, Neuralangelo, section 3.1).

        Taps beyond the cube [-1, 1]^3 are moved onto its surface, and the quotient uses the true distances. `count` as in
        `forward`: the taps of a position lie together.
        """
        step = self.difference_step()
        shift = torch.eye(3, dtype=x.dtype, device=x.device) * step
        taps = (x[:, None] + torch.cat([shift, -shift])).clamp(-1, 1)  # (P, 6, 3)
        values = self._value(taps.reshape(-1, 3), None if count is None else 6 * count, features=False)[0].reshape(-1, 2, 3)
        ahead = taps[:, :3].diagonal(dim1=1, dim2=2) - x
        behind = x - taps[:, 3:].diagonal(dim1=1, dim2=2)
        gradient = (values[:, 0] - values[:, 1]) / (ahead + behind)
        bend = (values[:, 0] + values[:, 1] - 2 * sdf[:, None]) / step**2
        inside = (ahead > 0.5 * step) & (behind > 0.5 * step)  # a second difference needs both taps
        return gradient, (bend * inside).sum(1)
