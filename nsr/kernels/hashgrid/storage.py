"""Where a fast back end reads a hash table from and where it leaves the gradient."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from nsr.kernels.hashgrid.spec import HashGridSpec


class TableStorage(NamedTuple):
    """Buffers beside a table parameter that live as long as a training run.

    Attributes:
        values: (E, F) float16 or float32, read instead of the parameter; whoever steps the parameter keeps it up to date.
        gradient: (E, F) float32; backward passes add to it instead of returning a gradient, so that it need not be
            cleared, allocated and summed for each use of the table in a step.
    """

    values: Tensor
    gradient: Tensor


class LevelTables(NamedTuple):
    """A `HashGridSpec` on a device, padded to 16 or 32 levels.

    Attributes:
        scale: (L,) float32. meta: (4, L) int32: resolution, size, offset, 1 where dense.
    """

    scale: Tensor
    meta: Tensor


@cache
def level_tables(spec: HashGridSpec, device: torch.device) -> LevelTables:
    """The levels as kernels read them; made once."""
    padded = 16 if spec.levels <= 16 else 32
    fill = padded - spec.levels
    scale = torch.tensor([*spec.scales, *[1.0] * fill], dtype=torch.float32, device=device)
    rows = [spec.resolutions, spec.sizes, spec.offsets[:-1], [int(dense) for dense in spec.dense]]
    meta = torch.tensor([[*row, *[1] * fill] for row in rows], dtype=torch.int32, device=device)
    return LevelTables(scale, meta)


@cache
def _constant(value: int, device: torch.device) -> Tensor:
    return torch.tensor([value], dtype=torch.int32, device=device)


def device_int(value: int | Tensor, device: torch.device) -> Tensor:
    """A one-element int32 tensor on the device: a tensor as it is, a number from a cache (so that graphs can capture it)."""
    return value if isinstance(value, Tensor) else _constant(value, device)
