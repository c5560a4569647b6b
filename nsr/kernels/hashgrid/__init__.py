"""Multiresolution hash encoding (Mueller et al. 2022), in the parameter layout of tiny-cuda-nn."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from nsr.kernels.backend import choose
from nsr.kernels.gpu import require_triton
from nsr.kernels.hashgrid import reference
from nsr.kernels.hashgrid.spec import HashGridSpec
from nsr.kernels.hashgrid.storage import TableStorage

__all__ = ["HashGridSpec", "TableStorage", "hash_encode"]


def _reference(*arguments: Any) -> Tensor:
    return reference.encode(*arguments[:4])


def _triton(x: Tensor, *arguments: Any) -> Tensor:
    require_triton(x.device)
    from nsr.kernels.hashgrid import triton

    return triton.encode(x, *arguments)


def _tcnn(*arguments: Any) -> Tensor:
    from nsr.kernels.hashgrid import tcnn

    return tcnn.encode(*arguments[:4])


_IMPLEMENTATIONS = {"reference": _reference, "triton": _triton, "tcnn": _tcnn}


def hash_encode(
    x: Tensor,
    table: Tensor,
    spec: HashGridSpec,
    *,
    active: int | Tensor | None = None,
    storage: TableStorage | None = None,
    count: Tensor | None = None,
    backend: str = "reference",
) -> Tensor:
    """Encode positions.

    Args:
        x: (S, 3) in the unit cube [0, 1]; not differentiated.
        table: (spec.entries, F) parameters.
        spec: level sizes.
        active: levels computed, from the coarsest; the others' features are 0 and cost nothing. None: all.
        storage, count: for `triton`: where the table is read and its gradient is left; (1,) int32, positions in use, past
            which the result is undefined and gradients are not read.

    Returns:
        (S, L * F), level-major. Once differentiable in `table`.

    Raises:
        ValueError: shapes do not fit. BackendUnavailable: see `choose`.
    """
    if x.ndim != 2 or x.shape[1] != 3 or tuple(table.shape) != (spec.entries, spec.features):
        raise ValueError(f"hash_encode: x {tuple(x.shape)}, table {tuple(table.shape)} for {spec.entries} x {spec.features}")
    run = choose("hash_encode", _IMPLEMENTATIONS, backend)
    encoded: Tensor = run(x, table, spec, spec.levels if active is None else active, storage, count)
    return encoded
