"""Counter-based random numbers: Philox4x32 of ten rounds (Salmon et al. 2011), the generator Triton has too.

A number depends on the seed, the step, its own position and what it is for, and on nothing that was drawn before: a resumed
run sees the numbers of an uninterrupted one, and the GPU those of the CPU.
"""

from __future__ import annotations

import torch
from torch import Tensor

# What numbers are for: last word of the counter, so that different uses never share a number.
RAY_STREAM, BALL_STREAM, CELL_STREAM, TABLE_STREAM = 1, 2, 3, 4
_MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
_KEY_STEPS = 0x9E3779B9, 0xBB67AE85
_LOW = 0xFFFFFFFF

Words = tuple[Tensor, Tensor, Tensor, Tensor]


def random_words(seed: int, step: Tensor, count: int, *, stream: int, draw: int = 0) -> Words:
    """Four random 32-bit numbers for each of `count` positions.

    Args:
        seed: 64 bits. step: (1,) integer on the device, of which the lower 32 bits count.
        draw: further numbers for the same positions.

    Returns:
        Four (count,) int64 in [0, 2^32), on the step's device.
    """
    position = torch.arange(count, device=step.device)
    constant = torch.zeros_like(position)
    counter = position, constant + (step.long() & _LOW), constant + draw, constant + stream
    return philox(counter, seed)


def philox(counter: Words, seed: int) -> Words:
    """The generator itself: counters (N,) int64 of 32 bits each, a key of 64 bits -> four random words each."""
    c0, c1, c2, c3 = counter
    key = seed & _LOW, seed >> 32 & _LOW
    for _ in range(10):
        (high0, low0), (high1, low1) = (_multiply(m, c) for m, c in zip(_MULTIPLIERS, (c0, c2), strict=True))
        c0, c1, c2, c3 = high1 ^ c1 ^ key[0], low1, high0 ^ c3 ^ key[1], low0
        key = (key[0] + _KEY_STEPS[0]) & _LOW, (key[1] + _KEY_STEPS[1]) & _LOW
    return c0, c1, c2, c3


def uniform(word: Tensor) -> Tensor:
    """float32 in [0, 1), a multiple of 2^-24, from a random word."""
    return (word >> 8).float() * 2.0**-24


def _multiply(factor: int, word: Tensor) -> tuple[Tensor, Tensor]:
    """Upper and lower half of the product of two 32-bit numbers, which would not fit into a signed 64-bit one."""
    upper, lower = (word >> 16) * factor, (word & 0xFFFF) * factor
    return (upper + (lower >> 16)) >> 16, ((upper << 16) + lower) & _LOW
