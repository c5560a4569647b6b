"""Spherical harmonics in Triton, for every kernel that feeds a colour network."""

from __future__ import annotations

import math

import triton
import triton.language as tl

# Factors of the bands (Sloan 2008, appendix A2), named as in the reference.
_C0, _C1, _C2 = (tl.constexpr(math.sqrt(square / math.pi)) for square in (1 / 4, 3 / 4, 15 / 4))
_Z2, _Z3 = (tl.constexpr(math.sqrt(square / math.pi)) for square in (5 / 16, 7 / 16))
_A3, _B3, _C3 = (tl.constexpr(math.sqrt(square / math.pi)) for square in (35 / 32, 105 / 4, 21 / 32))


@triton.jit
def store_harmonics(out_ptr, stride, x, y, z, mask, DEGREE: tl.constexpr):
    """Harmonics of the first DEGREE bands of unit vectors, each row of them `stride` numbers after the one before."""
    if DEGREE > 0:
        tl.store(out_ptr, tl.zeros_like(x) + _C0, mask=mask)
    if DEGREE > 1:
        tl.store(out_ptr + stride, y * -_C1, mask=mask)
        tl.store(out_ptr + 2 * stride, z * _C1, mask=mask)
        tl.store(out_ptr + 3 * stride, x * -_C1, mask=mask)
    if DEGREE > 2:
        tl.store(out_ptr + 4 * stride, x * y * _C2, mask=mask)
        tl.store(out_ptr + 5 * stride, y * z * -_C2, mask=mask)
        tl.store(out_ptr + 6 * stride, (3.0 * z * z - 1.0) * _Z2, mask=mask)
        tl.store(out_ptr + 7 * stride, x * z * -_C2, mask=mask)
        tl.store(out_ptr + 8 * stride, (x * x - y * y) * (_C2 * 0.5), mask=mask)
    if DEGREE > 3:
        tl.store(out_ptr + 9 * stride, y * (3.0 * x * x - y * y) * -_A3, mask=mask)
        tl.store(out_ptr + 10 * stride, x * y * z * _B3, mask=mask)
        tl.store(out_ptr + 11 * stride, y * (5.0 * z * z - 1.0) * -_C3, mask=mask)
        tl.store(out_ptr + 12 * stride, z * (5.0 * z * z - 3.0) * _Z3, mask=mask)
        tl.store(out_ptr + 13 * stride, x * (5.0 * z * z - 1.0) * -_C3, mask=mask)
        tl.store(out_ptr + 14 * stride, z * (x * x - y * y) * (_B3 * 0.5), mask=mask)
        tl.store(out_ptr + 15 * stride, x * (x * x - 3.0 * y * y) * -_A3, mask=mask)


@triton.jit
def pull_harmonics(to_ptr, stride, x, y, z, mask, DEGREE: tl.constexpr):
    """Gradient by x, y and z from that by what `store_harmonics` wrote, which lies in rows as there."""
    to_x, to_y, to_z = tl.zeros_like(x), tl.zeros_like(x), tl.zeros_like(x)
    if DEGREE > 1:
        to_y -= _C1 * tl.load(to_ptr + stride, mask=mask, other=0.0)
        to_z += _C1 * tl.load(to_ptr + 2 * stride, mask=mask, other=0.0)
        to_x -= _C1 * tl.load(to_ptr + 3 * stride, mask=mask, other=0.0)
    if DEGREE > 2:
        xy = _C2 * tl.load(to_ptr + 4 * stride, mask=mask, other=0.0)
        yz = _C2 * tl.load(to_ptr + 5 * stride, mask=mask, other=0.0)
        zz = 6.0 * _Z2 * tl.load(to_ptr + 6 * stride, mask=mask, other=0.0)
        xz = _C2 * tl.load(to_ptr + 7 * stride, mask=mask, other=0.0)
        xx = _C2 * tl.load(to_ptr + 8 * stride, mask=mask, other=0.0)
        to_x += xy * y - xz * z + xx * x
        to_y += xy * x - yz * z - xx * y
        to_z += zz * z - yz * y - xz * x
    if DEGREE > 3:
        a = _A3 * tl.load(to_ptr + 9 * stride, mask=mask, other=0.0)
        b = _B3 * tl.load(to_ptr + 10 * stride, mask=mask, other=0.0)
        c = _C3 * tl.load(to_ptr + 11 * stride, mask=mask, other=0.0)
        d = _Z3 * tl.load(to_ptr + 12 * stride, mask=mask, other=0.0)
        e = _C3 * tl.load(to_ptr + 13 * stride, mask=mask, other=0.0)
        f = _B3 * tl.load(to_ptr + 14 * stride, mask=mask, other=0.0)
        g = _A3 * tl.load(to_ptr + 15 * stride, mask=mask, other=0.0)
        across, along = 3.0 * (x * x - y * y), 5.0 * z * z - 1.0
        to_x += b * y * z - 6.0 * a * x * y - e * along + f * x * z - g * across
        to_y += b * x * z - a * across - c * along - f * y * z + 6.0 * g * x * y
        to_z += b * x * y - 10.0 * z * (c * y + e * x) + d * (15.0 * z * z - 3.0) + f * across * (1.0 / 6.0)
    return to_x, to_y, to_z
