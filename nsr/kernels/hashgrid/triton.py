"""Hash encoding and its slope in Triton, for any number of features a level.

Programs are (block of samples, level): all multiprocessors work on one level at a time, whose part of the table then stays
in the cache. Results are stored feature-major, (L * F, S), which makes every access contiguous; callers get the transpose.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from nsr.kernels.gpu import vector_atomics
from nsr.kernels.hashgrid.spec import HashGridSpec
from nsr.kernels.hashgrid.storage import TableStorage, device_int, level_tables
from nsr.kernels.hashgrid.triton_device import add_edge, cell_of, corner_push, corner_row, corner_weight

_BLOCK = 256


class Cube(NamedTuple):
    """Positions x have the unit cube's coordinate `(x - low) * stretch`."""

    low: float
    stretch: float


UNIT_CUBE, UNIT_FRAME = Cube(0.0, 1.0), Cube(-1.0, 0.5)


def encode(
    x: Tensor,
    table: Tensor,
    spec: HashGridSpec,
    active: int | Tensor,
    storage: TableStorage | None = None,
    count: Tensor | None = None,
) -> Tensor:
    """See `nsr.kernels.hashgrid.hash_encode`; `active` may be a device tensor."""
    used = device_int(len(x) if count is None else count, x.device)
    encoded: Tensor = _Encode.apply(x, table, spec, device_int(active, x.device), used, storage)
    return encoded.T


def pulled_slope(
    x: Tensor, table: Tensor, pull: Tensor, spec: HashGridSpec, active: int | Tensor, storage: TableStorage | None = None
) -> Tensor:
    """`J(x)^T pull`, J the encoding's Jacobian by the unit cube's position: x (S, 3), pull (S, L * F) -> (S, 3).

    Once differentiable in `table` and `pull`.
    """
    slope: Tensor = _PulledSlope.apply(x, table, pull.T, spec, device_int(active, x.device), storage)
    return slope.T


def gather(
    x: Tensor, values: Tensor, spec: HashGridSpec, cube: Cube, *, active: Tensor, count: Tensor, jacobian: bool
) -> tuple[Tensor, Tensor]:
    """Entries (L * F, S) float32 interpolated at x (S, 3), and their derivatives by x (3, L * F, S) float16 if wanted.

    Args:
        values: (E, F) float16 or float32. active, count: (1,) int32, levels and positions in use; nothing is written past
            `count`, and nothing costs anything past `active`.
    """
    rows = spec.levels * spec.features
    out = torch.empty(rows, len(x), device=x.device)
    derivatives = torch.empty(3 if jacobian else 0, rows, len(x), device=x.device, dtype=torch.float16)
    levels = level_tables(spec, x.device)
    if len(x):
        _gather[(triton.cdiv(len(x), _BLOCK), spec.levels)](
            x, values, levels.scale, levels.meta, active, count, out, derivatives, len(x), len(levels.scale), *cube,
            F=spec.features, JACOBIAN=jacobian, BLOCK=_BLOCK,
        )  # fmt: skip
    return out, derivatives


def scatter(
    x: Tensor, grad: Tensor, spec: HashGridSpec, cube: Cube, *, active: Tensor, count: Tensor, sink: Tensor,
    pull: Tensor | None = None, push: Tensor | None = None,
) -> None:  # fmt: skip
    """Adjoint of `gather`: adds to `sink` (E, F) float32 what `grad` (L * F, S) and the derivatives' gradient amount to.

    The derivatives' gradient is the product of `pull` (L * F, S) and `push` (3, S).
    """
    levels = level_tables(spec, x.device)
    if len(x):
        strides = (push.stride(0), push.stride(1)) if push is not None else (0, 0)
        _scatter[(triton.cdiv(len(x), _BLOCK), spec.levels)](
            x, levels.scale, levels.meta, active, count, grad, grad.stride(0), grad.stride(1),
            grad if pull is None else pull, grad if push is None else push, *strides, sink, len(x), len(levels.scale), *cube,
            F=spec.features, PUSH=pull is not None, VECTOR=vector_atomics(x.device), BLOCK=_BLOCK,
        )  # fmt: skip


class _Encode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, table: Tensor, *rest: Any) -> Tensor:
        spec, active, count, storage = rest
        x, values = x.float().contiguous(), (storage.values if storage else table.detach()).contiguous()
        ctx.save_for_backward(x, table, active, count)
        ctx.spec, ctx.storage = spec, storage
        return gather(x, values, spec, UNIT_CUBE, active=active, count=count, jacobian=False)[0]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, table, active, count = ctx.saved_tensors
        storage = ctx.storage
        sink = storage.gradient if storage else torch.zeros_like(table, dtype=torch.float32)
        scatter(x, grad.float(), ctx.spec, UNIT_CUBE, active=active, count=count, sink=sink)
        return None, None if storage else sink.to(table.dtype), None, None, None, None


class _PulledSlope(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, table: Tensor, pull: Tensor, *rest: Any) -> Tensor:
        spec, active, storage = rest
        x, values = x.float().contiguous(), (storage.values if storage else table.detach()).contiguous()
        pull = pull.float()
        out = torch.empty(3, len(x), device=x.device)
        levels = level_tables(spec, x.device)
        if len(x):
            _slope_forward[(triton.cdiv(len(x), _BLOCK),)](
                x, values, levels.scale, levels.meta, active, pull, pull.stride(0), pull.stride(1), out, len(x),
                len(levels.scale), LEVELS=spec.levels, F=spec.features, BLOCK=_BLOCK,
            )  # fmt: skip
        ctx.save_for_backward(x, table, pull, active)
        ctx.spec, ctx.storage = spec, storage
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor | None, Tensor, None, None, None]:
        x, table, pull, active = ctx.saved_tensors
        spec, storage = ctx.spec, ctx.storage
        values = (storage.values if storage else table.detach()).contiguous()
        sink = storage.gradient if storage else torch.zeros_like(table, dtype=torch.float32)
        to_pull = torch.empty(spec.levels * spec.features, len(x), device=x.device)
        levels = level_tables(spec, x.device)
        grad = grad.float()
        if len(x):
            grid = (triton.cdiv(len(x), _BLOCK), spec.levels)
            _slope_backward[grid](
                x, values, levels.scale, levels.meta, active, pull, pull.stride(0), pull.stride(1), grad, grad.stride(0),
                grad.stride(1), to_pull, sink, len(x), len(levels.scale), F=spec.features, BLOCK=_BLOCK,
            )  # fmt: skip
        return None, None if storage else sink.to(table.dtype), to_pull, None, None, None


@triton.jit
def _cells(x_ptr, scale, LO, STRETCH, sample, ok):
    """Lower vertices and fractions, on a level, of samples whose unit cube coordinate is `(x - LO) STRETCH`."""
    x = tl.load(x_ptr + 3 * sample, mask=ok, other=0.0)
    y = tl.load(x_ptr + 3 * sample + 1, mask=ok, other=0.0)
    z = tl.load(x_ptr + 3 * sample + 2, mask=ok, other=0.0)
    cx, fx = cell_of((x - LO) * STRETCH, scale)
    cy, fy = cell_of((y - LO) * STRETCH, scale)
    cz, fz = cell_of((z - LO) * STRETCH, scale)
    return cx, cy, cz, fx, fy, fz


@triton.jit
def _row(cx, cy, cz, meta_ptr, level, PADDED, CORNER: tl.constexpr):
    resolution = tl.load(meta_ptr + level)
    size = tl.load(meta_ptr + PADDED + level)
    offset = tl.load(meta_ptr + 2 * PADDED + level)
    dense = tl.load(meta_ptr + 3 * PADDED + level)
    return corner_row(cx + (CORNER & 1), cy + (CORNER >> 1 & 1), cz + (CORNER >> 2), resolution, size, offset, dense)


@triton.jit
def _gather(
    x_ptr, table_ptr, scale_ptr, meta_ptr, active_ptr, count_ptr, out_ptr, jacobian_ptr, samples, PADDED, LO, STRETCH,
    F: tl.constexpr, JACOBIAN: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Interpolated entries (L * F, S), and their derivatives by the position (3, L * F, S); zero on inactive levels."""
    level = tl.program_id(1)
    count = tl.load(count_ptr)
    if tl.program_id(0) * BLOCK < count:
        sample = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        ok = sample < count
        feature = tl.arange(0, F)
        value = tl.zeros((F, BLOCK), dtype=tl.float32)
        along_x = tl.zeros((F, BLOCK), dtype=tl.float32)
        along_y = tl.zeros((F, BLOCK), dtype=tl.float32)
        along_z = tl.zeros((F, BLOCK), dtype=tl.float32)
        if level < tl.load(active_ptr):
            scale = tl.load(scale_ptr + level)
            cx, cy, cz, fx, fy, fz = _cells(x_ptr, scale, LO, STRETCH, sample, ok)
            slope = tl.full((BLOCK,), 1.0, dtype=tl.float32) * (scale * STRETCH)
            none = tl.zeros((BLOCK,), dtype=tl.float32)
            for corner in tl.static_range(8):
                row = _row(cx, cy, cz, meta_ptr, level, PADDED, corner)
                entry = tl.load(table_ptr + row[None, :] * F + feature[:, None], mask=ok[None, :], other=0.0).to(tl.float32)
                value += corner_weight(fx, fy, fz, corner)[None, :] * entry
                if JACOBIAN:
                    along_x += corner_push(fx, fy, fz, slope, none, none, corner)[None, :] * entry
                    along_y += corner_push(fx, fy, fz, none, slope, none, corner)[None, :] * entry
                    along_z += corner_push(fx, fy, fz, none, none, slope, corner)[None, :] * entry
        place = (level * F + feature)[:, None].to(tl.int64) * samples + sample[None, :]
        tl.store(out_ptr + place, value, mask=ok[None, :])
        if JACOBIAN:
            axis = (tl.num_programs(1) * F).to(tl.int64) * samples
            kind = jacobian_ptr.dtype.element_ty
            tl.store(jacobian_ptr + place, along_x.to(kind), mask=ok[None, :])
            tl.store(jacobian_ptr + axis + place, along_y.to(kind), mask=ok[None, :])
            tl.store(jacobian_ptr + 2 * axis + place, along_z.to(kind), mask=ok[None, :])


@triton.jit
def _scatter(
    x_ptr, scale_ptr, meta_ptr, active_ptr, count_ptr, grad_ptr, grad_row, grad_column, pull_ptr, push_ptr, push_row,
    push_column, sink_ptr, samples, PADDED, LO, STRETCH,
    F: tl.constexpr, PUSH: tl.constexpr, VECTOR: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Adjoint of `_gather`: adds `W grad`, and `(dW / dx . push) pull` for the derivatives, to the corners' entries.

    `grad` and `pull` are (L * F, S), `push` is (3, S); both paths share one atomic operation an entry.
    """
    level = tl.program_id(1)
    count = tl.load(count_ptr)
    if (tl.program_id(0) * BLOCK < count) & (level < tl.load(active_ptr)):
        sample = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        ok = sample < count
        scale = tl.load(scale_ptr + level)
        cx, cy, cz, fx, fy, fz = _cells(x_ptr, scale, LO, STRETCH, sample, ok)
        if PUSH:
            push_place = push_ptr + sample.to(tl.int64) * push_column
            px = scale * STRETCH * tl.load(push_place, mask=ok, other=0.0)
            py = scale * STRETCH * tl.load(push_place + push_row, mask=ok, other=0.0)
            pz = scale * STRETCH * tl.load(push_place + 2 * push_row, mask=ok, other=0.0)
        first = grad_ptr + (level * F).to(tl.int64) * grad_row + sample.to(tl.int64) * grad_column
        second = pull_ptr + (level * F).to(tl.int64) * samples + sample
        if F == 2:
            g0 = tl.load(first, mask=ok, other=0.0).to(tl.float32)
            g1 = tl.load(first + grad_row, mask=ok, other=0.0).to(tl.float32)
            if PUSH:
                v0 = tl.load(second, mask=ok, other=0.0).to(tl.float32)
                v1 = tl.load(second + samples, mask=ok, other=0.0).to(tl.float32)
            for edge in tl.static_range(4):  # corners in pairs along x
                row = _row(cx, cy, cz, meta_ptr, level, PADDED, 2 * edge)
                next_row = _row(cx, cy, cz, meta_ptr, level, PADDED, 2 * edge + 1)
                weight = corner_weight(fx, fy, fz, 2 * edge)
                next_weight = corner_weight(fx, fy, fz, 2 * edge + 1)
                a0 = weight * g0
                a1 = weight * g1
                b0 = next_weight * g0
                b1 = next_weight * g1
                if PUSH:
                    along = corner_push(fx, fy, fz, px, py, pz, 2 * edge)
                    next_along = corner_push(fx, fy, fz, px, py, pz, 2 * edge + 1)
                    a0 += along * v0
                    a1 += along * v1
                    b0 += next_along * v0
                    b1 += next_along * v1
                add_edge(sink_ptr, row, next_row, a0, a1, b0, b1, ok, VECTOR)
        else:
            feature = tl.arange(0, F)
            g = tl.load(first[None, :] + feature[:, None] * grad_row, mask=ok[None, :], other=0.0).to(tl.float32)
            if PUSH:
                v = tl.load(second[None, :] + feature[:, None] * samples, mask=ok[None, :], other=0.0).to(tl.float32)
            for corner in tl.static_range(8):
                row = _row(cx, cy, cz, meta_ptr, level, PADDED, corner)
                amount = corner_weight(fx, fy, fz, corner)[None, :] * g
                if PUSH:
                    amount += corner_push(fx, fy, fz, px, py, pz, corner)[None, :] * v
                tl.atomic_add(sink_ptr + row[None, :] * F + feature[:, None], amount, mask=ok[None, :], sem="relaxed")


@triton.jit
def _slope_forward(
    x_ptr, table_ptr, scale_ptr, meta_ptr, active_ptr, pull_ptr, pull_row, pull_column, out_ptr, samples, PADDED,
    LEVELS: tl.constexpr, F: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    sample = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    ok = sample < samples
    feature = tl.arange(0, F)
    nx = tl.zeros((BLOCK,), dtype=tl.float32)
    ny = tl.zeros((BLOCK,), dtype=tl.float32)
    nz = tl.zeros((BLOCK,), dtype=tl.float32)
    one = tl.full((BLOCK,), 1.0, dtype=tl.float32)
    none = tl.zeros((BLOCK,), dtype=tl.float32)
    active = tl.load(active_ptr)
    for level in range(0, LEVELS):
        here = sample < tl.where(active > level, samples, 0)
        scale = tl.load(scale_ptr + level)
        cx, cy, cz, fx, fy, fz = _cells(x_ptr, scale, 0.0, 1.0, sample, ok)
        place = (level * F + feature)[:, None].to(tl.int64) * pull_row + sample[None, :].to(tl.int64) * pull_column
        pull = tl.load(pull_ptr + place, mask=here[None, :], other=0.0) * scale
        for corner in tl.static_range(8):
            row = _row(cx, cy, cz, meta_ptr, level, PADDED, corner)
            entry = tl.load(table_ptr + row[None, :] * F + feature[:, None], mask=here[None, :], other=0.0)
            along = tl.sum(pull * entry.to(tl.float32), axis=0)
            nx += along * corner_push(fx, fy, fz, one, none, none, corner)
            ny += along * corner_push(fx, fy, fz, none, one, none, corner)
            nz += along * corner_push(fx, fy, fz, none, none, one, corner)
    tl.store(out_ptr + sample, nx, mask=ok)
    tl.store(out_ptr + samples + sample, ny, mask=ok)
    tl.store(out_ptr + 2 * samples + sample, nz, mask=ok)


@triton.jit
def _slope_backward(
    x_ptr, table_ptr, scale_ptr, meta_ptr, active_ptr, pull_ptr, pull_row, pull_column, grad_ptr, grad_row, grad_column,
    to_pull_ptr, sink_ptr, samples, PADDED, F: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    level = tl.program_id(1)
    sample = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    ok = sample < samples
    feature = tl.arange(0, F)
    to_pull = tl.zeros((F, BLOCK), dtype=tl.float32)
    if level < tl.load(active_ptr):
        scale = tl.load(scale_ptr + level)
        cx, cy, cz, fx, fy, fz = _cells(x_ptr, scale, 0.0, 1.0, sample, ok)
        px = scale * tl.load(grad_ptr + sample.to(tl.int64) * grad_column, mask=ok, other=0.0)
        py = scale * tl.load(grad_ptr + grad_row + sample.to(tl.int64) * grad_column, mask=ok, other=0.0)
        pz = scale * tl.load(grad_ptr + 2 * grad_row + sample.to(tl.int64) * grad_column, mask=ok, other=0.0)
        place = (level * F + feature)[:, None].to(tl.int64) * pull_row + sample[None, :].to(tl.int64) * pull_column
        pull = tl.load(pull_ptr + place, mask=ok[None, :], other=0.0)
        for corner in tl.static_range(8):
            row = _row(cx, cy, cz, meta_ptr, level, PADDED, corner)
            push = corner_push(fx, fy, fz, px, py, pz, corner)[None, :]
            entries = row[None, :] * F + feature[:, None]
            to_pull += push * tl.load(table_ptr + entries, mask=ok[None, :], other=0.0).to(tl.float32)
            tl.atomic_add(sink_ptr + entries, push * pull, mask=ok[None, :], sem="relaxed")
    place = (level * F + feature)[:, None].to(tl.int64) * samples + sample[None, :]
    tl.store(to_pull_ptr + place, to_pull, mask=ok[None, :])
