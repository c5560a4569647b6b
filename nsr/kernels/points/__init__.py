"""Random points of the unit frame: in the whole ball, one in each of given cells, or drawn from a table.

All random numbers follow from the seed, the step and the point's index (see `nsr.kernels.rays.philox`), the same for all back
ends. None of them waits for the device.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nsr.kernels.backend import choose
from nsr.kernels.gpu import require_triton
from nsr.kernels.points import reference

__all__ = ["points_in_ball", "points_in_cells", "points_of_table"]


def _triton_ball(out: Tensor, *, seed: int, step: Tensor) -> Tensor:
    require_triton(out.device)
    from nsr.kernels.points import triton

    return triton.points_in_ball(out, seed=seed, step=step)


def _triton_cells(cells: Tensor, resolution: int, *, seed: int, step: Tensor) -> Tensor:
    require_triton(cells.device)
    from nsr.kernels.points import triton

    return triton.points_in_cells(cells, resolution, seed=seed, step=step)


def _triton_table(out: Tensor, table: Tensor, entries: Tensor, *, seed: int, step: Tensor) -> Tensor:
    require_triton(out.device)
    from nsr.kernels.points import triton

    return triton.points_of_table(out, table, entries, seed=seed, step=step)


_BALL = {"reference": reference.points_in_ball, "triton": _triton_ball}
_CELLS = {"reference": reference.points_in_cells, "triton": _triton_cells}
_TABLE = {"reference": reference.points_of_table, "triton": _triton_table}


def points_in_ball(out: Tensor, *, seed: int, step: Tensor, backend: str = "reference") -> Tensor:
    """Fill `out` (N, 3) float32, contiguous, with points uniform in the unit ball; returns it.

    Args:
        seed: in [-2^63, 2^63). step: (1,) integer on the device of `out`.

    Raises:
        ValueError: shapes do not fit. BackendUnavailable: see `choose`.
    """
    if out.ndim != 2 or out.shape[1] != 3 or not out.is_contiguous():
        raise ValueError(f"points_in_ball: out {tuple(out.shape)}, strides {out.stride()}; needed are contiguous rows of 3")
    _check_step(step)
    points: Tensor = choose("points_in_ball", _BALL, backend)(out, seed=seed, step=step)
    return points


def points_in_cells(cells: Tensor, resolution: int, *, seed: int, step: Tensor, backend: str = "reference") -> Tensor:
    """A point (N, 3) float32 in each cell, uniform in it.

    Args:
        cells: (N,) integers, flat indices `(x * G + y) * G + z` of G^3 cells over [-1, 1]^3. resolution: G.
        seed: in [-2^63, 2^63). step: (1,) integer on the cells' device.

    Raises:
        ValueError: shapes do not fit. BackendUnavailable: see `choose`.
    """
    if cells.ndim != 1 or cells.is_floating_point():
        raise ValueError(f"points_in_cells: cells {tuple(cells.shape)} {cells.dtype}")
    _check_step(step)
    points: Tensor = choose("points_in_cells", _CELLS, backend)(cells, resolution, seed=seed, step=step)
    return points


def points_of_table(
    out: Tensor, table: Tensor, entries: Tensor, *, seed: int, step: Tensor, backend: str = "reference"
) -> Tensor:
    """Fill `out` (N, 3) float32, contiguous, with points of a table; every entry is as likely as any other.

    Args:
        table: (P, 3 + K) float32, contiguous: position and K facts of a point.
        entries: (E,) int32 rows of the table, one for each chance to be drawn; at least one.
        seed: in [-2^63, 2^63). step: (1,) integer on the device of `out`.

    Returns:
        Facts (N, K) of the drawn points.

    Raises:
        ValueError: shapes do not fit. BackendUnavailable: see `choose`.
    """
    for name, rows in (("out", out), ("table", table)):
        if rows.ndim != 2 or rows.shape[1] < 3 or not rows.is_contiguous():
            raise ValueError(f"points_of_table: {name} {tuple(rows.shape)}; needed are contiguous rows of a position")
    if out.shape[1] != 3 or entries.ndim != 1 or not len(entries) or entries.dtype != torch.int32:
        raise ValueError(f"points_of_table: out {tuple(out.shape)}, entries {tuple(entries.shape)} {entries.dtype}")
    _check_step(step)
    facts: Tensor = choose("points_of_table", _TABLE, backend)(out, table, entries, seed=seed, step=step)
    return facts


def _check_step(step: Tensor) -> None:
    if tuple(step.shape) != (1,) or step.is_floating_point():
        raise ValueError(f"random points: step {tuple(step.shape)} {step.dtype}, needed is one integer")
