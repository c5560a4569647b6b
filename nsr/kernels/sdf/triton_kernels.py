"""The SDF network in Triton: distance, features and closed-form gradient from encoded positions, and the backward of all.

The encoding and the sums over its table happen in `nsr.kernels.hashgrid.triton`; here everything is a product of small
matrices, with samples as rows (B) and weights as second operands. Per sample, `E` are the C encoded columns and `J` their
derivatives by the position:

    z = W1 [x, E] + b1,  a = softplus(z),  [sdf, features] = W2 a + b2,  q = w2 softplus'(z),  v = W1^T q,
    gradient = v_x + J^T v_E.

Backward, with `n` the gradient of the loss by that gradient and `u = J n`:

    to_q = W1 [n, u],  to_z = (W2^T to_out) softplus' + to_q w2 softplus'',
    to_W1 = to_z [x, E]^T + q [n, u]^T,  to_w2 += to_q softplus',  to_E = W1_E^T to_z.

Programs handle blocks `program, program + programs, ...`, so that weights are read, and their gradients added, once each.
"""

from __future__ import annotations

import triton
import triton.language as tl

from nsr.kernels.mlp.triton_kernels import matrix


@triton.jit
def _softplus(z, beta):
    """Softplus and its derivative, the logistic function."""
    small = tl.exp(-tl.abs(z) * beta)
    value = tl.maximum(z, 0.0) + tl.log(1.0 + small) / beta
    slope = tl.where(z >= 0, 1.0, small) / (1.0 + small)
    return value, slope


@triton.jit
def _axes(place, row, ok):
    """Three numbers for each sample, `row` elements apart."""
    a = tl.load(place, mask=ok, other=0.0)
    b = tl.load(place + row, mask=ok, other=0.0)
    c = tl.load(place + 2 * row, mask=ok, other=0.0)
    return a, b, c


@triton.jit
def _columns(a, b, c, last):
    """(B, 16) with the columns a, b, c, a constant, and zeros."""
    column = tl.arange(0, 16)[None, :]
    given = tl.where(column == 0, a[:, None], tl.where(column == 1, b[:, None], c[:, None]))
    return tl.where(column < 3, given, tl.where(column == 3, last, 0.0))


@triton.jit
def _round_up(count, ALIGNED: tl.constexpr):
    """`count`, or the next multiple of 16: masks that are known to be constant over 16 samples let accesses be wide."""
    if ALIGNED:
        count = tl.multiple_of((count + 15) // 16 * 16, 16)
    return count


@triton.jit
def sdf_network_forward(
    x_ptr, encoded_ptr, jacobian_ptr, count_ptr, W1_x_ptr, W1_ptr, b1_ptr, W2_ptr, b2_ptr, sdf_ptr, features_ptr, gradient_ptr,
    pre_ptr, samples, beta,
    COLUMNS: tl.constexpr, PADDED: tl.constexpr, HIDDEN: tl.constexpr, FEATURES: tl.constexpr, FEATURES_OUT: tl.constexpr,
    GRADIENT: tl.constexpr, KEEP: tl.constexpr, PRECISION: tl.constexpr, ALIGNED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Distance (S,), features (G, S), gradient (3, S) from x (S, 3), E (C, S), J (3, C, S); nothing past `count`.

    KEEP: z (H, S) too, for the backward pass.
    """
    hidden = tl.arange(0, HIDDEN)
    column = tl.arange(0, PADDED)
    out = tl.arange(0, 16)
    W1_T = matrix(W1_ptr, column, hidden, COLUMNS, HIDDEN, COLUMNS, True, tl.float32)
    w1x, w1y, w1z = _axes(W1_x_ptr + hidden * 3, 1, hidden < HIDDEN)
    b1 = tl.load(b1_ptr + hidden)
    w2 = tl.load(W2_ptr + hidden)
    b2 = tl.load(b2_ptr)
    count = tl.load(count_ptr)
    end = _round_up(count, ALIGNED)
    block = tl.program_id(0)
    while block * BLOCK < count:
        sample = block * BLOCK + tl.arange(0, BLOCK)
        ok = sample < count
        x, y, z = _axes(x_ptr + 3 * sample, 1, ok)
        entry = column[:, None] * samples + sample[None, :]
        near = (sample < end)[None, :]
        there = near & (column < COLUMNS)[:, None]
        encoded = tl.trans(tl.load(encoded_ptr + entry, mask=there, other=0.0))
        pre = x[:, None] * w1x[None, :] + y[:, None] * w1y[None, :] + z[:, None] * w1z[None, :] + b1[None, :]
        pre = tl.dot(encoded, W1_T, pre, input_precision=PRECISION)
        if KEEP:
            pre_place = pre_ptr + hidden[:, None] * samples + sample[None, :]
            tl.store(pre_place, tl.trans(pre).to(pre_ptr.dtype.element_ty), mask=near)
        act, slope = _softplus(pre, beta)
        # The distance itself in full precision, on the ordinary units: opacity multiplies its error by the sharpness.
        tl.store(sdf_ptr + sample, tl.sum(act * w2[None, :], axis=1) + b2, mask=ok)
        if FEATURES_OUT:
            W2_T = matrix(W2_ptr, hidden, out, HIDDEN, 1 + FEATURES, HIDDEN, True, tl.float32)
            b2_all = tl.load(b2_ptr + out, mask=out <= FEATURES, other=0.0)
            features = tl.trans(tl.dot(act, W2_T, input_precision="tf32") + b2_all[None, :])
            features_place = features_ptr + (out[:, None] - 1) * samples + sample[None, :]
            tl.store(features_place, features, mask=near & (out >= 1)[:, None] & (out <= FEATURES)[:, None])
        if GRADIENT:
            q = slope * w2[None, :]
            v = tl.trans(tl.dot(q, tl.trans(W1_T), input_precision="tf32"))
            axis = COLUMNS * samples
            jx = tl.load(jacobian_ptr + entry, mask=there, other=0.0).to(tl.float32)
            tl.store(gradient_ptr + sample, tl.sum(v * jx, axis=0) + tl.sum(q * w1x[None, :], axis=1), mask=ok)
            jy = tl.load(jacobian_ptr + axis + entry, mask=there, other=0.0).to(tl.float32)
            tl.store(gradient_ptr + samples + sample, tl.sum(v * jy, axis=0) + tl.sum(q * w1y[None, :], axis=1), mask=ok)
            jz = tl.load(jacobian_ptr + 2 * axis + entry, mask=there, other=0.0).to(tl.float32)
            tl.store(gradient_ptr + 2 * samples + sample, tl.sum(v * jz, axis=0) + tl.sum(q * w1z[None, :], axis=1), mask=ok)
        block += tl.num_programs(0)


@triton.jit
def sdf_network_backward(
    x_ptr, encoded_ptr, jacobian_ptr, pre_ptr, count_ptr, W1_x_ptr, W1_ptr, W2_ptr,
    to_sdf_ptr, to_features_ptr, feature_row, feature_column, to_gradient_ptr, gradient_row, gradient_column,
    to_encoded_ptr, pull_ptr, to_W1_ptr, to_b1_ptr, to_W2_ptr, to_b2_ptr, samples, beta,
    COLUMNS: tl.constexpr, PADDED: tl.constexpr, HIDDEN: tl.constexpr, FEATURES: tl.constexpr,
    FEATURES_IN: tl.constexpr, GRADIENT: tl.constexpr, KIND: tl.constexpr, PRECISION: tl.constexpr,
    ALIGNED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Writes the gradient of E (C, S) and `v_E` (C, S), adds those of the weights; operands of its products are `KIND`."""
    hidden = tl.arange(0, HIDDEN)
    column = tl.arange(0, PADDED)
    out = tl.arange(0, 16)
    w2 = tl.load(W2_ptr + hidden)
    sum_W1 = tl.zeros((HIDDEN, PADDED), dtype=tl.float32)
    sum_position = tl.zeros((HIDDEN, 16), dtype=tl.float32)  # columns x, y, z, bias
    sum_W2 = tl.zeros((HIDDEN, 16), dtype=tl.float32)
    sum_b2 = tl.zeros((16, BLOCK), dtype=tl.float32)
    count = tl.load(count_ptr)
    end = _round_up(count, ALIGNED)
    block = tl.program_id(0)
    while block * BLOCK < count:
        sample = block * BLOCK + tl.arange(0, BLOCK)
        ok = sample < count
        entry = column[:, None] * samples + sample[None, :]
        near = (sample < end)[None, :]
        there = near & (column < COLUMNS)[:, None]
        W1 = matrix(W1_ptr, hidden, column, COLUMNS, HIDDEN, COLUMNS, False, KIND)
        pre_place = pre_ptr + hidden[:, None] * samples + sample[None, :]
        act, slope = _softplus(tl.trans(tl.load(pre_place, mask=near, other=0.0)).to(tl.float32), beta)
        to_out = tl.load(to_sdf_ptr + sample, mask=ok, other=0.0)[None, :] * (out == 0)[:, None].to(tl.float32)
        if FEATURES_IN:
            features_place = (out[:, None] - 1) * feature_row + sample[None, :] * feature_column
            given = near & (out >= 1)[:, None] & (out <= FEATURES)[:, None]
            to_features = tl.load(to_features_ptr + features_place, mask=given, other=0.0)
            to_out += tl.where(ok[None, :], to_features, 0.0)
        sum_b2 += to_out
        to_out_kind = tl.trans(to_out.to(KIND))
        sum_W2 = tl.dot(tl.trans(act.to(KIND)), to_out_kind, sum_W2, input_precision=PRECISION)
        W2 = matrix(W2_ptr, out, hidden, HIDDEN, 1 + FEATURES, HIDDEN, False, KIND)
        to_pre = tl.dot(to_out_kind, W2, input_precision=PRECISION) * slope
        if GRADIENT:
            nx, ny, nz = _axes(to_gradient_ptr + sample * gradient_column, gradient_row, ok)
            axis = COLUMNS * samples
            u = nx[None, :] * tl.load(jacobian_ptr + entry, mask=there, other=0.0).to(tl.float32)
            u += ny[None, :] * tl.load(jacobian_ptr + axis + entry, mask=there, other=0.0).to(tl.float32)
            u += nz[None, :] * tl.load(jacobian_ptr + 2 * axis + entry, mask=there, other=0.0).to(tl.float32)
            pushed = tl.trans(u.to(KIND))
            normal = _columns(nx, ny, nz, 0.0).to(KIND)
            to_q = tl.dot(normal, matrix(W1_x_ptr, out, hidden, 3, HIDDEN, 3, True, KIND), input_precision=PRECISION)
            to_q = tl.dot(pushed, tl.trans(W1), to_q, input_precision=PRECISION) * slope
            # The sum of to_q over the samples belongs to row 0 of W2, so a column of ones adds it there.
            ones = (out[None, :] == 0).to(KIND) + tl.zeros((BLOCK, 16), dtype=KIND)
            sum_W2 = tl.dot(tl.trans(to_q.to(KIND)), ones, sum_W2, input_precision=PRECISION)
            to_pre += to_q * w2[None, :] * (beta * (1.0 - slope))
            q = (slope * w2[None, :]).to(KIND)
            v = tl.dot(q, W1, input_precision=PRECISION)
            tl.store(pull_ptr + entry, tl.trans(v).to(pull_ptr.dtype.element_ty), mask=there)
            q_T = tl.trans(q)
            sum_W1 = tl.dot(q_T, pushed, sum_W1, input_precision=PRECISION)
            sum_position = tl.dot(q_T, normal, sum_position, input_precision=PRECISION)
        to_pre_kind = to_pre.to(KIND)
        to_pre_T = tl.trans(to_pre_kind)
        x, y, z = _axes(x_ptr + 3 * sample, 1, ok)
        sum_position = tl.dot(to_pre_T, _columns(x, y, z, 1.0).to(KIND), sum_position, input_precision=PRECISION)
        encoded = tl.trans(tl.load(encoded_ptr + entry, mask=there, other=0.0).to(KIND))
        sum_W1 = tl.dot(to_pre_T, encoded, sum_W1, input_precision=PRECISION)
        to_encoded = tl.dot(to_pre_kind, W1, input_precision=PRECISION)
        tl.store(to_encoded_ptr + entry, tl.trans(to_encoded).to(to_encoded_ptr.dtype.element_ty), mask=there)
        block += tl.num_programs(0)
    place = to_W1_ptr + hidden[:, None] * (3 + COLUMNS)
    tl.atomic_add(place + 3 + column[None, :], sum_W1, mask=(column < COLUMNS)[None, :], sem="relaxed")
    tl.atomic_add(place + out[None, :], sum_position, mask=(out < 3)[None, :], sem="relaxed")
    bias = tl.sum(tl.where((out == 3)[None, :], sum_position, 0.0), axis=1)
    tl.atomic_add(to_b1_ptr + hidden, bias, sem="relaxed")
    tl.atomic_add(to_W2_ptr + out[None, :] * HIDDEN + hidden[:, None], sum_W2, mask=(out <= FEATURES)[None, :], sem="relaxed")
    tl.atomic_add(to_b2_ptr + out, tl.sum(sum_b2, axis=1), mask=out <= FEATURES, sem="relaxed")
