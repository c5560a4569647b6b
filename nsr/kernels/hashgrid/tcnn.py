"""Hash encoding by tiny-cuda-nn, whose table layout is ours."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import Tensor

from nsr.errors import BackendUnavailable
from nsr.kernels.hashgrid.spec import HashGridSpec
from nsr.kernels.tcnn import Native, evaluate, native, require_tinycudann


def encode(x: Tensor, table: Tensor, spec: HashGridSpec, active: int | Tensor) -> Tensor:
    """See `nsr.kernels.hashgrid.hash_encode`; computed in half precision, inactive levels computed and then set to 0."""
    require_tinycudann(x.device)
    encoded = evaluate(_grid(spec, x.device), x, table.reshape(-1))
    return encoded * (torch.arange(encoded.shape[1], device=x.device) < active * spec.features)


@cache
def _grid(spec: HashGridSpec, device: torch.device) -> Native:
    """The package's grid of this shape.

    Raises:
        BackendUnavailable: the package lays the table out otherwise.
    """
    package = require_tinycudann(device)
    grid = native(package, "Encoding", device, 3, grid_settings(spec))
    # Equal totals are equal levels: where resolutions are rounded apart, sizes differ by no common amount. The table of
    # twice the length tells whether a level that just fills its share counts as dense on both sides.
    longer = replace(spec, log2_table=spec.log2_table + 1)
    for shape, theirs in ((spec, grid), (longer, native(package, "Encoding", device, 3, grid_settings(longer)))):
        ours, count = shape.entries * spec.features, theirs.module.n_params()
        if ours != count:
            raise BackendUnavailable(
                f"back end 'tcnn': tiny-cuda-nn has {count} table parameters where {ours} are ours, because it rounds a level's "
                "resolution otherwise; change the encoding's finest_resolution by a little, or use backend=reference"
            )
    return grid


def grid_settings(spec: HashGridSpec) -> dict[str, Any]:
    """A grid's shape in tiny-cuda-nn's terms."""
    return {
        "otype": "HashGrid",
        "n_levels": spec.levels,
        "n_features_per_level": spec.features,
        "log2_hashmap_size": spec.log2_table,
        "base_resolution": spec.base,
        "per_level_scale": spec.growth,
        "interpolation": "Linear",
    }
