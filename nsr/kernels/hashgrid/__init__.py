"""Multiresolution hash encoding (Mueller et al. 2022), in the parameter layout of tiny-cuda-nn."""

from __future__ import annotations

from torch import Tensor

from nsr.kernels.backend import choose
from nsr.kernels.hashgrid import reference
from nsr.kernels.hashgrid.spec import HashGridSpec

__all__ = ["HashGridSpec", "hash_encode"]

_IMPLEMENTATIONS = {"reference": reference.encode}


def hash_encode(x: Tensor, table: Tensor, spec: HashGridSpec, *, active: int | None = None, backend: str = "reference") -> Tensor:
    """Encode positions.

    Args:
        x: (S, 3) in the unit cube [0, 1]; not differentiated.
        table: (spec.entries, F) parameters.
        spec: level sizes.
        active: levels computed, from the coarsest; the others' features are 0 and cost nothing. None: all.

    Returns:
        (S, L * F), level-major. Once differentiable in `table`.

    Raises:
        ValueError: shapes do not fit. BackendUnavailable: see `choose`.
    """
    if x.ndim != 2 or x.shape[1] != 3 or tuple(table.shape) != (spec.entries, spec.features):
        raise ValueError(f"hash_encode: x {tuple(x.shape)}, table {tuple(table.shape)} for {spec.entries} x {spec.features}")
    encoded: Tensor = choose("hash_encode", _IMPLEMENTATIONS, backend)(x, table, spec, spec.levels if active is None else active)
    return encoded
