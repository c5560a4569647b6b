"""Two kernels that do nothing but random reads, and nothing but random atomic additions, in a table of the usual size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import triton
import triton.language as tl

_ENTRIES = 7_000_000  # float32: 28 MB, the hash table's size in half precision
_BLOCK, _EACH, _PROGRAMS = 256, 32, 4096
_ACCESSES = _BLOCK * _EACH * _PROGRAMS
Clock = Callable[[Callable[[], Any]], float]


def random_gathers(clock: Clock) -> float:
    """Reads a second; `clock` gives the seconds of a call."""
    table, out = torch.zeros(_ENTRIES, device="cuda"), torch.empty(_BLOCK * _PROGRAMS, device="cuda")
    return _ACCESSES / clock(lambda: _gathers[(_PROGRAMS,)](table, out, ENTRIES=_ENTRIES, EACH=_EACH, BLOCK=_BLOCK))


def random_atomics(clock: Clock) -> float:
    """Additions a second; `clock` gives the seconds of a call."""
    table = torch.zeros(_ENTRIES, device="cuda")
    return _ACCESSES / clock(lambda: _atomics[(_PROGRAMS,)](table, ENTRIES=_ENTRIES, EACH=_EACH, BLOCK=_BLOCK))


@triton.jit
def _random(counter, ENTRIES: tl.constexpr):  # type: ignore[no-untyped-def]
    """A table row for each number (int32 tiles); the finalizer of MurmurHash3, which spreads neighbouring numbers."""
    bits = counter.to(tl.uint32)
    bits = (bits ^ (bits >> 16)) * 0x85EBCA6B
    bits = (bits ^ (bits >> 13)) * 0xC2B2AE35
    # 31 bits are left, a signed number.
    return ((bits ^ (bits >> 16)) >> 1).to(tl.int32) % ENTRIES


@triton.jit
def _gathers(table_ptr, out_ptr, ENTRIES: tl.constexpr, EACH: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """`EACH` reads a lane, their sum written."""
    lane = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), dtype=tl.float32)
    for number in tl.static_range(EACH):
        total += tl.load(table_ptr + _random(lane * EACH + number, ENTRIES))
    tl.store(out_ptr + lane, total)


@triton.jit
def _atomics(table_ptr, ENTRIES: tl.constexpr, EACH: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """`EACH` additions a lane."""
    lane = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    one = tl.full((BLOCK,), 1.0, dtype=tl.float32)
    for number in tl.static_range(EACH):
        tl.atomic_add(table_ptr + _random(lane * EACH + number, ENTRIES), one, sem="relaxed")
