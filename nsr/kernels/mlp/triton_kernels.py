"""The kernels of the ReLU networks, and the matrix operands they share with the SDF network. See `nsr.kernels.mlp.triton`."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def matrix(ptr, row, column, stride, ROWS: tl.constexpr, COLUMNS: tl.constexpr, TURNED: tl.constexpr, KIND: tl.constexpr):
    """ROWS x COLUMNS numbers at `ptr`, rows `stride` apart, zero-padded to the places `row` and `column`; TURNED: transposed.

    Read where it is used, in every block: from the cache it costs less than the registers that would keep it.
    """
    row, column = row[:, None], column[None, :]
    if TURNED:
        return tl.load(ptr + column * stride + row, mask=(row < COLUMNS) & (column < ROWS), other=0.0).to(KIND)
    return tl.load(ptr + row * stride + column, mask=(row < ROWS) & (column < COLUMNS), other=0.0).to(KIND)


@triton.jit
def _tile(ptr, start, row_stride, column_stride, row, lane):
    """Places (row, B) of a block in a feature-major array: 64 bits for the block, 32 within it, which save registers."""
    return ptr + start.to(tl.int64) * column_stride + (row[:, None] * row_stride + lane[None, :] * column_stride)


@triton.jit
def _layer(x, W_T, b_ptr, hidden, BIAS: tl.constexpr, KIND: tl.constexpr):
    """Values (B, HIDDEN) of a hidden layer; like torch's, its ReLU lets NaN through."""
    z = tl.dot(x, W_T, input_precision="tf32")
    if BIAS:
        z += tl.load(b_ptr + hidden)[None, :]
    return tl.maximum(z, 0.0, propagate_nan=tl.PropagateNan.ALL).to(KIND)


@triton.jit
def mlp_forward(
    x_ptr, x_row, x_column, count_ptr, W1_ptr, W2_ptr, W3_ptr, b1_ptr, b2_ptr, b3_ptr, out_ptr, samples,
    INPUTS: tl.constexpr, PADDED: tl.constexpr, HIDDEN: tl.constexpr, LAYERS: tl.constexpr, OUTPUTS: tl.constexpr,
    BIAS: tl.constexpr, SIGMOID: tl.constexpr, KIND: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Outputs (O, S), zero past `count`."""
    lane = tl.arange(0, BLOCK)
    hidden = tl.arange(0, HIDDEN)
    column = tl.arange(0, PADDED)
    out = tl.arange(0, 16)
    count = tl.minimum(tl.load(count_ptr), samples)
    block = tl.program_id(0)
    while block * BLOCK < count:
        start = block * BLOCK
        ok = start + lane < count
        place = _tile(x_ptr, start, x_column, x_row, column, lane)
        x = tl.trans(tl.load(place, mask=ok[None, :] & (column < INPUTS)[:, None], other=0.0).to(KIND))
        h = _layer(x, matrix(W1_ptr, column, hidden, INPUTS, HIDDEN, INPUTS, True, KIND), b1_ptr, hidden, BIAS, KIND)
        if LAYERS == 2:
            h = _layer(h, matrix(W2_ptr, hidden, hidden, HIDDEN, HIDDEN, HIDDEN, True, KIND), b2_ptr, hidden, BIAS, KIND)
        y = tl.dot(h, matrix(W3_ptr, hidden, out, HIDDEN, OUTPUTS, HIDDEN, True, KIND), input_precision="tf32")
        if BIAS:
            y += tl.load(b3_ptr + out, mask=out < OUTPUTS, other=0.0)[None, :]
        if SIGMOID:
            y = tl.sigmoid(y)
        y = tl.where(ok[:, None], y, 0.0)
        there = (start + lane < samples)[None, :] & (out < OUTPUTS)[:, None]
        tl.store(_tile(out_ptr, start, samples, 1, out, lane), tl.trans(y), mask=there)
        block += tl.num_programs(0)
    while block * BLOCK < samples:
        there = (block * BLOCK + lane < samples)[None, :] & (out < OUTPUTS)[:, None]
        tl.store(_tile(out_ptr, block * BLOCK, samples, 1, out, lane), 0.0, mask=there)
        block += tl.num_programs(0)


@triton.jit
def mlp_backward(
    x_ptr, x_row, x_column, count_ptr, W1_ptr, W2_ptr, W3_ptr, b1_ptr, b2_ptr, out_ptr, to_out_ptr, out_row,
    out_column, to_x_ptr, to_W1_ptr, to_W2_ptr, to_W3_ptr, to_b1_ptr, to_b2_ptr, to_b3_ptr, samples, INPUT: tl.constexpr,
    INPUTS: tl.constexpr, PADDED: tl.constexpr, HIDDEN: tl.constexpr, LAYERS: tl.constexpr, OUTPUTS: tl.constexpr,
    BIAS: tl.constexpr, SIGMOID: tl.constexpr, KIND: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Writes the gradient of the inputs (I, S), zero past `count`, if wanted; adds those of weights and biases."""
    lane = tl.arange(0, BLOCK)
    hidden = tl.arange(0, HIDDEN)
    column = tl.arange(0, PADDED)
    out = tl.arange(0, 16)
    sum_W1 = tl.zeros((HIDDEN, PADDED), dtype=tl.float32)
    sum_W3 = tl.zeros((HIDDEN, 16), dtype=tl.float32)
    if LAYERS == 2:
        sum_W2 = tl.zeros((HIDDEN, HIDDEN), dtype=tl.float32)
    if BIAS:
        # Sums over samples as products with ones need no reduction in the loop; columns 0 and 1 are layers 1 and 2.
        sum_b = tl.zeros((HIDDEN, 16), dtype=tl.float32)
        sum_b3 = tl.zeros((16, BLOCK), dtype=tl.float32)
        ones = tl.full((BLOCK, 1), 1.0, dtype=tl.float32)
        ones_1 = tl.where(out[None, :] == 0, ones, 0.0).to(KIND)
        ones_2 = tl.where(out[None, :] == 1, ones, 0.0).to(KIND)
    count = tl.minimum(tl.load(count_ptr), samples)
    block = tl.program_id(0)
    while block * BLOCK < count:
        start = block * BLOCK
        ok = (start + lane < count)[None, :]
        place = _tile(x_ptr, start, x_column, x_row, column, lane)
        x = tl.trans(tl.load(place, mask=ok & (column < INPUTS)[:, None], other=0.0).to(KIND))
        h = _layer(x, matrix(W1_ptr, column, hidden, INPUTS, HIDDEN, INPUTS, True, KIND), b1_ptr, hidden, BIAS, KIND)
        if LAYERS == 2:
            first = h
            h = _layer(h, matrix(W2_ptr, hidden, hidden, HIDDEN, HIDDEN, HIDDEN, True, KIND), b2_ptr, hidden, BIAS, KIND)
        place = _tile(to_out_ptr, start, out_row, out_column, out, lane)
        to_out = tl.load(place, mask=ok & (out < OUTPUTS)[:, None], other=0.0)
        if SIGMOID:
            y = tl.load(_tile(out_ptr, start, samples, 1, out, lane), mask=ok & (out < OUTPUTS)[:, None], other=0.0)
            to_out *= y * (1.0 - y)
        if BIAS:
            sum_b3 += to_out
        d = tl.trans(to_out.to(KIND))
        sum_W3 = tl.dot(tl.trans(h), d, sum_W3, input_precision="tf32")
        d = tl.dot(d, matrix(W3_ptr, out, hidden, HIDDEN, OUTPUTS, HIDDEN, False, KIND), input_precision="tf32")
        d = tl.where(h <= 0, 0.0, d).to(KIND)
        if LAYERS == 2:
            sum_W2 = tl.dot(tl.trans(d), first, sum_W2, input_precision="tf32")
            if BIAS:
                sum_b = tl.dot(tl.trans(d), ones_2, sum_b, input_precision="tf32")
            d = tl.dot(d, matrix(W2_ptr, hidden, hidden, HIDDEN, HIDDEN, HIDDEN, False, KIND), input_precision="tf32")
            d = tl.where(first <= 0, 0.0, d).to(KIND)
        sum_W1 = tl.dot(tl.trans(d), x, sum_W1, input_precision="tf32")
        if BIAS:
            sum_b = tl.dot(tl.trans(d), ones_1, sum_b, input_precision="tf32")
        if INPUT:
            to_x = tl.dot(d, matrix(W1_ptr, hidden, column, INPUTS, HIDDEN, INPUTS, False, KIND), input_precision="tf32")
            there = (start + lane < samples)[None, :] & (column < INPUTS)[:, None]
            tl.store(_tile(to_x_ptr, start, samples, 1, column, lane), tl.trans(to_x), mask=there)
        block += tl.num_programs(0)
    place = to_W1_ptr + hidden[:, None] * INPUTS + column[None, :]
    tl.atomic_add(place, sum_W1, mask=(column < INPUTS)[None, :], sem="relaxed")
    place = to_W3_ptr + out[None, :] * HIDDEN + hidden[:, None]
    tl.atomic_add(place, sum_W3, mask=(out < OUTPUTS)[None, :], sem="relaxed")
    if LAYERS == 2:
        tl.atomic_add(to_W2_ptr + hidden[:, None] * HIDDEN + hidden[None, :], sum_W2, sem="relaxed")
    if BIAS:
        tl.atomic_add(to_b1_ptr + hidden, tl.sum(tl.where((out == 0)[None, :], sum_b, 0.0), axis=1), sem="relaxed")
        if LAYERS == 2:
            tl.atomic_add(to_b2_ptr + hidden, tl.sum(tl.where((out == 1)[None, :], sum_b, 0.0), axis=1), sem="relaxed")
        tl.atomic_add(to_b3_ptr + out, tl.sum(sum_b3, axis=1), mask=out < OUTPUTS, sem="relaxed")
    if INPUT:
        while block * BLOCK < samples:
            there = (block * BLOCK + lane < samples)[None, :] & (column < INPUTS)[:, None]
            tl.store(_tile(to_x_ptr, block * BLOCK, samples, 1, column, lane), 0.0, mask=there)
            block += tl.num_programs(0)
