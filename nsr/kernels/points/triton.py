"""Random points in Triton, a thread a point."""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from nsr.kernels.gpu import interpreted
from nsr.kernels.points.reference import LEAST_UNIFORM
from nsr.kernels.rays.philox import BALL_STREAM, CELL_STREAM, TABLE_STREAM
from nsr.kernels.rays.triton_philox import random_words, uniform

# The interpreter's time goes by operations, not by points.
_BLOCK = 4096 if interpreted() else 128


def points_in_ball(out: Tensor, *, seed: int, step: Tensor) -> Tensor:
    """See `nsr.kernels.points.points_in_ball`."""
    if len(out):
        _in_ball[(triton.cdiv(len(out), _BLOCK),)](
            out, step, seed, len(out), STREAM=BALL_STREAM, LEAST=LEAST_UNIFORM, TURN=2 * math.pi, BLOCK=_BLOCK
        )
    return out


def points_in_cells(cells: Tensor, resolution: int, *, seed: int, step: Tensor) -> Tensor:
    """See `nsr.kernels.points.points_in_cells`."""
    out = torch.empty(len(cells), 3, device=cells.device)
    if len(cells):
        _in_cells[(triton.cdiv(len(cells), _BLOCK),)](
            cells.contiguous(), out, step, seed, len(cells), resolution, 2 / resolution, STREAM=CELL_STREAM, BLOCK=_BLOCK
        )
    return out


def points_of_table(out: Tensor, table: Tensor, entries: Tensor, *, seed: int, step: Tensor) -> Tensor:
    """See `nsr.kernels.points.points_of_table`."""
    more = table.shape[1] - 3
    facts = torch.empty(len(out), more, device=out.device)
    if len(out):
        _of_table[(triton.cdiv(len(out), _BLOCK),)](
            table, entries, out, facts, step, seed, len(entries), len(out), STREAM=TABLE_STREAM, MORE=more, BLOCK=_BLOCK
        )
    return facts


@triton.jit(do_not_specialize=["seed"])
def _in_ball(out_ptr, step_ptr, seed, count, STREAM: tl.constexpr, LEAST: tl.constexpr, TURN: tl.constexpr, BLOCK: tl.constexpr):
    point = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    volume, height, angle, _ = random_words(seed, step_ptr, point, STREAM, 0)
    radius = tl.exp2(tl.log2(tl.maximum(uniform(volume), LEAST)) * (1.0 / 3.0))
    z = 2.0 * uniform(height) - 1.0
    across = radius * tl.sqrt(1.0 - z * z)
    turned = uniform(angle) * TURN
    _store_point(out_ptr, point, across * tl.cos(turned), across * tl.sin(turned), radius * z, point < count)


@triton.jit(do_not_specialize=["seed"])
def _in_cells(cells_ptr, out_ptr, step_ptr, seed, count, G, stretch, STREAM: tl.constexpr, BLOCK: tl.constexpr):
    point = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    ok = point < count
    cell = tl.load(cells_ptr + point, mask=ok, other=0).to(tl.int32)
    rx, ry, rz, _ = random_words(seed, step_ptr, point, STREAM, 0)
    x = ((cell // (G * G)).to(tl.float32) + uniform(rx)) * stretch - 1.0
    y = ((cell // G % G).to(tl.float32) + uniform(ry)) * stretch - 1.0
    z = ((cell % G).to(tl.float32) + uniform(rz)) * stretch - 1.0
    _store_point(out_ptr, point, x, y, z, ok)


@triton.jit(do_not_specialize=["seed", "entries"])
def _of_table(
    table_ptr, entries_ptr, out_ptr, facts_ptr, step_ptr, seed, entries, count,
    STREAM: tl.constexpr, MORE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    point = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    ok = point < count
    word, _, _, _ = random_words(seed, step_ptr, point, STREAM, 0)
    row = tl.load(entries_ptr + (word % entries.to(tl.uint32)).to(tl.int32), mask=ok, other=0)
    source = table_ptr + row * (3 + MORE)
    for axis in tl.static_range(3):
        tl.store(out_ptr + 3 * point + axis, tl.load(source + axis, mask=ok, other=0.0), mask=ok)
    for fact in tl.static_range(MORE):
        tl.store(facts_ptr + MORE * point + fact, tl.load(source + 3 + fact, mask=ok, other=0.0), mask=ok)


@triton.jit
def _store_point(out_ptr, point, x, y, z, ok):
    """Coordinates within rounding of the cube's faces are put inside."""
    tl.store(out_ptr + 3 * point, tl.minimum(tl.maximum(x, -1.0), 1.0), mask=ok)
    tl.store(out_ptr + 3 * point + 1, tl.minimum(tl.maximum(y, -1.0), 1.0), mask=ok)
    tl.store(out_ptr + 3 * point + 2, tl.minimum(tl.maximum(z, -1.0), 1.0), mask=ok)
