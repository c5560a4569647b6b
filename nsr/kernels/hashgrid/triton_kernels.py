"""Kernels of the hash encoding in Triton: entries in, entries' gradients out, and the same for the encoding's slope.

Programs are (block of samples, level): all multiprocessors work on one level at a time, whose part of the table then stays in
the cache. Results are feature-major, (L * F, S), which makes every access contiguous.

For two features a level, the usual case, there are special kernels. Edges along x join two corners whose entries are, for every
second cell, an aligned pair (the hash multiplies x by 1, so there an even x and its successor differ in the lowest bit only).
"""

from __future__ import annotations

import triton
import triton.language as tl

from nsr.kernels.hashgrid.triton_device import add_pair, cell_of, corner_push, corner_row, corner_weight, load_edge


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
def gather_kernel(
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
def gather_halves_kernel(
    x_ptr, pairs_ptr, words_ptr, scale_ptr, meta_ptr, active_ptr, count_ptr, out_ptr, jacobian_ptr, samples, PADDED, LO, STRETCH,
    JACOBIAN: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """As `gather_kernel`, of a float16 table with two features, which is read as 32-bit words and as 64-bit pairs of words."""
    level = tl.program_id(1)
    count = tl.load(count_ptr)
    if tl.program_id(0) * BLOCK < count:
        sample = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        ok = sample < count
        none = tl.zeros((BLOCK,), dtype=tl.float32)
        first, second = none, none
        x_first, x_second, y_first, y_second, z_first, z_second = none, none, none, none, none, none
        scale = tl.load(scale_ptr + level)
        if level < tl.load(active_ptr):
            cx, cy, cz, fx, fy, fz = _cells(x_ptr, scale, LO, STRETCH, sample, ok)
            for edge in tl.static_range(4):
                row = _row(cx, cy, cz, meta_ptr, level, PADDED, 2 * edge)
                next_row = _row(cx, cy, cz, meta_ptr, level, PADDED, 2 * edge + 1)
                a_first, a_second, b_first, b_second = load_edge(pairs_ptr, words_ptr, row, next_row, ok)
                b_first -= a_first
                b_second -= a_second
                a_first += fx * b_first
                a_second += fx * b_second
                wy = fy if edge & 1 else 1.0 - fy
                wz = fz if edge & 2 else 1.0 - fz
                first += wy * wz * a_first
                second += wy * wz * a_second
                if JACOBIAN:
                    x_first += wy * wz * b_first
                    x_second += wy * wz * b_second
                    along_y = wz if edge & 1 else -wz
                    along_z = wy if edge & 2 else -wy
                    y_first += along_y * a_first
                    y_second += along_y * a_second
                    z_first += along_z * a_first
                    z_second += along_z * a_second
        place = (2 * level).to(tl.int64) * samples + sample
        tl.store(out_ptr + place, first, mask=ok)
        tl.store(out_ptr + place + samples, second, mask=ok)
        if JACOBIAN:
            slope = scale * STRETCH
            axis = (2 * tl.num_programs(1)).to(tl.int64) * samples
            kind = jacobian_ptr.dtype.element_ty
            tl.store(jacobian_ptr + place, (slope * x_first).to(kind), mask=ok)
            tl.store(jacobian_ptr + place + samples, (slope * x_second).to(kind), mask=ok)
            tl.store(jacobian_ptr + axis + place, (slope * y_first).to(kind), mask=ok)
            tl.store(jacobian_ptr + axis + place + samples, (slope * y_second).to(kind), mask=ok)
            tl.store(jacobian_ptr + 2 * axis + place, (slope * z_first).to(kind), mask=ok)
            tl.store(jacobian_ptr + 2 * axis + place + samples, (slope * z_second).to(kind), mask=ok)


@triton.jit
def scatter_kernel(
    x_ptr, scale_ptr, meta_ptr, active_ptr, count_ptr, grad_ptr, grad_row, grad_column, pull_ptr, push_ptr, push_row,
    push_column, sink_ptr, samples, PADDED, LO, STRETCH, F: tl.constexpr, PUSH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Adjoint of `gather_kernel`: adds `W grad`, and `(dW / dx . push) pull` for the derivatives, to the corners' entries.

    `grad` and `pull` are (L * F, S), `push` is (3, S); both paths share one atomic operation an entry.
    """
    level = tl.program_id(1)
    count = tl.load(count_ptr)
    if (tl.program_id(0) * BLOCK < count) & (level < tl.load(active_ptr)):
        sample = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        ok = sample < count
        scale = tl.load(scale_ptr + level)
        cx, cy, cz, fx, fy, fz = _cells(x_ptr, scale, LO, STRETCH, sample, ok)
        feature = (level * F + tl.arange(0, F))[:, None].to(tl.int64)
        g = tl.load(grad_ptr + feature * grad_row + sample[None, :].to(tl.int64) * grad_column, mask=ok[None, :], other=0.0).to(
            tl.float32
        )
        if PUSH:
            px, py, pz = _push(push_ptr, push_row, push_column, scale * STRETCH, sample, ok)
            v = tl.load(pull_ptr + feature * samples + sample[None, :], mask=ok[None, :], other=0.0).to(tl.float32)
        for corner in tl.static_range(8):
            row = _row(cx, cy, cz, meta_ptr, level, PADDED, corner)
            amount = corner_weight(fx, fy, fz, corner)[None, :] * g
            if PUSH:
                amount += corner_push(fx, fy, fz, px, py, pz, corner)[None, :] * v
            tl.atomic_add(sink_ptr + row[None, :] * F + tl.arange(0, F)[:, None], amount, mask=ok[None, :], sem="relaxed")


@triton.jit
def scatter_runs_kernel(
    x_ptr, scale_ptr, meta_ptr, active_ptr, count_ptr, grad_ptr, grad_row, grad_column, pull_ptr, push_ptr, push_row,
    push_column, sink_ptr, samples, PADDED, LO, STRETCH, PUSH: tl.constexpr, VECTOR: tl.constexpr, RUN: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """As `scatter_kernel`, of two features, for samples in the order of rays.

    A lane takes RUN samples one after another and adds to the table only when the cell changes: coarse cells hold many
    samples of a ray. Lanes are (run, side of the cell in x), so that the entries of an edge are added next to each other.
    """
    level = tl.program_id(1)
    count = tl.load(count_ptr)
    if (tl.program_id(0) * BLOCK * RUN < count) & (level < tl.load(active_ptr)):
        run = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        side = tl.arange(0, 2)[None, :]
        scale = tl.load(scale_ptr + level)
        last_x = tl.full((BLOCK,), -1, dtype=tl.int32)  # the cell whose sums are held, -1: none
        last_y, last_z = last_x, last_x
        none = tl.zeros((BLOCK, 2), dtype=tl.float32)
        a0, a1, b0, b1, c0, c1, d0, d1 = none, none, none, none, none, none, none, none
        for k in range(RUN):
            sample = run * RUN + k
            ok = sample < count
            cx, cy, cz, fx, fy, fz = _cells(x_ptr, scale, LO, STRETCH, sample, ok)
            moved = (ok == 0) | (cx != last_x) | (cy != last_y) | (cz != last_z)
            left = (moved & (last_x >= 0))[:, None] & (side >= 0)
            _add_cell(
                sink_ptr, last_x, last_y, last_z, side, meta_ptr, level, PADDED, a0, a1, b0, b1, c0, c1, d0, d1, left, VECTOR
            )
            keep = tl.where(moved, 0.0, 1.0)[:, None]
            last_x, last_y, last_z = tl.where(ok, cx, -1), cy, cz
            first = grad_ptr + (2 * level).to(tl.int64) * grad_row + sample.to(tl.int64) * grad_column
            g0 = tl.load(first, mask=ok, other=0.0).to(tl.float32)[:, None]
            g1 = tl.load(first + grad_row, mask=ok, other=0.0).to(tl.float32)[:, None]
            wx = tl.where(side == 1, fx[:, None], 1.0 - fx[:, None])
            y, z = fy[:, None], fz[:, None]
            down_y, down_z = 1.0 - y, 1.0 - z
            g0 *= wx
            g1 *= wx
            if PUSH:
                px, py, pz = _push(push_ptr, push_row, push_column, scale * STRETCH, sample, ok)
                px, py, pz = tl.where(side == 1, px[:, None], -px[:, None]), py[:, None], pz[:, None]
                second = pull_ptr + (2 * level).to(tl.int64) * samples + sample
                v0 = tl.load(second, mask=ok, other=0.0).to(tl.float32)[:, None]
                v1 = tl.load(second + samples, mask=ok, other=0.0).to(tl.float32)[:, None]
                g0 += px * v0
                g1 += px * v1
                v0 *= wx
                v1 *= wx
            a0 = a0 * keep + down_y * down_z * g0
            a1 = a1 * keep + down_y * down_z * g1
            b0 = b0 * keep + y * down_z * g0
            b1 = b1 * keep + y * down_z * g1
            c0 = c0 * keep + down_y * z * g0
            c1 = c1 * keep + down_y * z * g1
            d0 = d0 * keep + y * z * g0
            d1 = d1 * keep + y * z * g1
            if PUSH:
                turn = py * down_z + pz * down_y
                a0 -= turn * v0
                a1 -= turn * v1
                turn = py * down_z - pz * y
                b0 += turn * v0
                b1 += turn * v1
                turn = pz * down_y - py * z
                c0 += turn * v0
                c1 += turn * v1
                turn = py * z + pz * y
                d0 += turn * v0
                d1 += turn * v1
        held = (last_x >= 0)[:, None] & (side >= 0)
        _add_cell(sink_ptr, last_x, last_y, last_z, side, meta_ptr, level, PADDED, a0, a1, b0, b1, c0, c1, d0, d1, held, VECTOR)


@triton.jit
def _push(push_ptr, row, column, slope, sample, ok):
    """The derivatives' gradient of samples, in cells."""
    place = push_ptr + sample.to(tl.int64) * column
    px = slope * tl.load(place, mask=ok, other=0.0)
    py = slope * tl.load(place + row, mask=ok, other=0.0)
    pz = slope * tl.load(place + 2 * row, mask=ok, other=0.0)
    return px, py, pz


@triton.jit
def _add_cell(
    sink_ptr, x, y, z, side, meta_ptr, level, PADDED, a0, a1, b0, b1, c0, c1, d0, d1, mask, VECTOR: tl.constexpr
):  # fmt: skip
    """Add the sums of cells' corners (a: lower y and z, b: upper y, c: upper z, d: both), one side in x a column."""
    x, y, z = x[:, None] + side, y[:, None], z[:, None]
    add_pair(sink_ptr, _row(x, y, z, meta_ptr, level, PADDED, 0), a0, a1, mask, VECTOR)
    add_pair(sink_ptr, _row(x, y, z, meta_ptr, level, PADDED, 2), b0, b1, mask, VECTOR)
    add_pair(sink_ptr, _row(x, y, z, meta_ptr, level, PADDED, 4), c0, c1, mask, VECTOR)
    add_pair(sink_ptr, _row(x, y, z, meta_ptr, level, PADDED, 6), d0, d1, mask, VECTOR)


@triton.jit
def slope_forward_kernel(
    x_ptr, table_ptr, scale_ptr, meta_ptr, active_ptr, pull_ptr, pull_row, pull_column, out_ptr, samples, PADDED,
    LEVELS: tl.constexpr, F: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """`J^T pull` (3, S) of x (S, 3) in the unit cube, the sum over all levels in one program."""
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
def slope_backward_kernel(
    x_ptr, table_ptr, scale_ptr, meta_ptr, active_ptr, pull_ptr, pull_row, pull_column, grad_ptr, grad_row, grad_column,
    to_pull_ptr, sink_ptr, samples, PADDED, F: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Adjoint of `slope_forward_kernel`: writes the gradient of `pull` (L * F, S), adds that of the table."""
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
