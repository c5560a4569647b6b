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
        tl.store(out_ptr + stride, -_C1 * y, mask=mask)
        tl.store(out_ptr + 2 * stride, _C1 * z, mask=mask)
        tl.store(out_ptr + 3 * stride, -_C1 * x, mask=mask)
    if DEGREE > 2:
        tl.store(out_ptr + 4 * stride, _C2 * x * y, mask=mask)
        tl.store(out_ptr + 5 * stride, -_C2 * y * z, mask=mask)
        tl.store(out_ptr + 6 * stride, _Z2 * (3.0 * z * z - 1.0), mask=mask)
        tl.store(out_ptr + 7 * stride, -_C2 * x * z, mask=mask)
        tl.store(out_ptr + 8 * stride, _C2 * 0.5 * (x * x - y * y), mask=mask)
    if DEGREE > 3:
        tl.store(out_ptr + 9 * stride, -_A3 * y * (3.0 * x * x - y * y), mask=mask)
        tl.store(out_ptr + 10 * stride, _B3 * x * y * z, mask=mask)
        tl.store(out_ptr + 11 * stride, -_C3 * y * (5.0 * z * z - 1.0), mask=mask)
        tl.store(out_ptr + 12 * stride, _Z3 * z * (5.0 * z * z - 3.0), mask=mask)
        tl.store(out_ptr + 13 * stride, -_C3 * x * (5.0 * z * z - 1.0), mask=mask)
        tl.store(out_ptr + 14 * stride, _B3 * 0.5 * z * (x * x - y * y), mask=mask)
        tl.store(out_ptr + 15 * stride, -_A3 * x * (x * x - 3.0 * y * y), mask=mask)
