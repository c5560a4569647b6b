"""Device functions of the hash grid that every kernel with an encoding shares: cells, corners, 16- or 32-bit entries.

Tiles are (levels, samples): neighbouring threads handle neighbouring samples of one level, which along a ray share cells,
so that their accesses meet in the same cache lines.
"""

from __future__ import annotations

import triton
import triton.language as tl

# Prime multipliers of the spatial hash as signed 32-bit numbers; products wrap.
_PRIME_Y = tl.constexpr(2654435761 - (1 << 32))
_PRIME_Z = tl.constexpr(805459861)


@triton.jit
def corner_row(x, y, z, resolution, size, offset, dense):
    """Table row of vertices (x, y, z): int32 tiles; resolution, size, offset, dense (0 or 1) of their level."""
    direct = x + resolution * (y + resolution * z)
    # Positions on the upper face have a corner past the last vertex, which wraps around once.
    direct = tl.where(direct >= size, direct - size, direct)
    hashed = (x ^ (y * _PRIME_Y) ^ (z * _PRIME_Z)) & (size - 1)
    return offset + tl.where(dense != 0, direct, hashed)


@triton.jit
def cell_of(x, scale):
    """Lower vertex (int32) and fraction of a coordinate in the unit cube on a grid of `scale` cells."""
    position = x * scale + 0.5
    low = tl.floor(position)
    return low.to(tl.int32), position - low


@triton.jit
def corner_weight(fx, fy, fz, CORNER: tl.constexpr):
    """Trilinear weight of a corner (bit 0: upper in x, bit 1: y, bit 2: z)."""
    wx = fx if CORNER & 1 else 1.0 - fx
    wy = fy if CORNER & 2 else 1.0 - fy
    wz = fz if CORNER & 4 else 1.0 - fz
    return wx * wy * wz


@triton.jit
def corner_push(fx, fy, fz, px, py, pz, CORNER: tl.constexpr):
    """Derivative of the trilinear weight along (px, py, pz), in cells."""
    wx = fx if CORNER & 1 else 1.0 - fx
    wy = fy if CORNER & 2 else 1.0 - fy
    wz = fz if CORNER & 4 else 1.0 - fz
    along_x = px * (wy * wz) if CORNER & 1 else -px * (wy * wz)
    along_y = py * (wx * wz) if CORNER & 2 else -py * (wx * wz)
    along_z = pz * (wx * wy) if CORNER & 4 else -pz * (wx * wy)
    return along_x + along_y + along_z


@triton.jit
def add_pair(gradient, row, first, second, mask, VECTOR: tl.constexpr):
    """Add to both features of entries of a float32 table, in one atomic operation where the GPU can (`VECTOR`)."""
    if VECTOR:
        tl.inline_asm_elementwise(
            "{ .reg .pred p; setp.ne.s32 p, $4, 0; @p red.global.add.v2.f32 [$1], {$2, $3}; mov.u32 $0, 0; }",
            "=r,l,r,r,r",
            [(gradient + 2 * row).to(tl.int64), first, second, mask.to(tl.int32)],
            dtype=tl.int32,
            is_pure=False,
            pack=1,
        )
    else:
        tl.atomic_add(gradient + 2 * row, first, mask=mask, sem="relaxed")
        tl.atomic_add(gradient + 2 * row + 1, second, mask=mask, sem="relaxed")


@triton.jit
def _halves(word):
    """The two float16 numbers of a 32-bit word, as float32."""
    low = (word & 0xFFFF).to(tl.int16).to(tl.float16, bitcast=True)
    high = (word >> 16).to(tl.int16).to(tl.float16, bitcast=True)
    return low.to(tl.float32), high.to(tl.float32)


@triton.jit
def load_edge(pairs_ptr, words_ptr, row, next_row, mask):
    """Entries (2 float16 each) `row` and `next_row`, its neighbour in x: both features of the first, both of the second.

    One 64-bit access brings an aligned pair of entries, which for every second cell is both.
    """
    pair = tl.load(pairs_ptr + (row >> 1), mask=mask, other=0)
    low, high = (pair & 0xFFFFFFFF).to(tl.int32), (pair >> 32).to(tl.int32)
    odd, together = (row & 1) == 1, (row ^ next_row) == 1
    apart = tl.load(words_ptr + next_row, mask=mask & (together == 0), other=0)
    a0, a1 = _halves(tl.where(odd, high, low))
    b0, b1 = _halves(tl.where(together, tl.where(odd, low, high), apart))
    return a0, a1, b0, b1
