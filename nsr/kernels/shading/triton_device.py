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
