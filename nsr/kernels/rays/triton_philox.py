"""Device functions: the random numbers of `nsr.kernels.rays.philox` in a kernel."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def random_words(seed, step_ptr, position, STREAM: tl.constexpr, DRAW: tl.constexpr):
    """Four random uint32 tiles for int32 positions, of the step that `step_ptr` holds."""
    nothing = position * 0
    step = tl.load(step_ptr).to(tl.uint32) + nothing.to(tl.uint32)
    return tl.philox(seed, position.to(tl.uint32), step, (nothing + DRAW).to(tl.uint32), (nothing + STREAM).to(tl.uint32))


@triton.jit
def uniform(word):
    """float32 in [0, 1), a multiple of 2^-24, from a random word."""
    return (word >> 8).to(tl.float32) * (2.0**-24)
