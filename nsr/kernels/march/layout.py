"""What marching reads and writes where no size may depend on data: a grid of bits, samples in arrays of fixed length."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

# Edge of the blocks of cells that share a coarse bit.
BLOCK_EDGE = 8
# Flat cell indices are 32-bit numbers.
MOST_CELLS_PER_AXIS = 1290


class OccupancyBits(NamedTuple):
    """Which of G^3 cells over [-1, 1]^3 are occupied, one bit a cell.

    Bit `i % 32` of word `i // 32` belongs to cell or block `i = (x * N + y) * N + z`; spare bits of the last word are 0.

    Attributes:
        fine: (ceil(G^3 / 32),) int32, N = G cells.
        coarse: (ceil(N^3 / 32),) int32, N = ceil(G / 8) blocks of 8^3 cells: whether any cell of the block is occupied.
        resolution: G.
    """

    fine: Tensor
    coarse: Tensor
    resolution: int


class PaddedSamples(NamedTuple):
    """Samples of R rays in arrays of N = first + budget rows, whatever their number.

    Rows before `first` are left for the caller to fill with other positions. Samples follow, ray after ray and near to far
    within a ray. A ray is kept if its samples and those of all rays before it fit into the budget, so that the kept rays
    are the first ones and not a choice by length; the others have no samples.

    Attributes:
        t: (N,) float32. position: (N, 3) float32 in [-1, 1]. ray: (N,) int32, the ray of each sample. All three are 0 in
        the rows before `first` and from `total` on.
        starts: (R,) int32 row of a ray's first sample, non-decreasing. counts: (R,) int32, 0 for rays not kept.
        kept: (R,) bool: the ray is live and its samples are all there (they may be none).
        total: (1,) int32, first + number of samples. wanted: (1,) int32, samples of the live rays before the cut.
    """

    t: Tensor
    position: Tensor
    ray: Tensor
    starts: Tensor
    counts: Tensor
    kept: Tensor
    total: Tensor
    wanted: Tensor


def words(bits: int) -> int:
    """32-bit words that hold so many bits."""
    return -(-bits // 32)


def blocks(resolution: int) -> int:
    """Coarse blocks along an axis of `resolution` cells."""
    return -(-resolution // BLOCK_EDGE)
