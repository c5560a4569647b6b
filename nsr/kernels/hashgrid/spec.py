"""Sizes and offsets of the levels of a hash grid."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

# Prime multipliers of the spatial hash, Teschner et al. 2003 as used by Mueller et al. 2022, eq. 4.
PRIMES = (1, 2654435761, 805459861)


@dataclass(frozen=True)
class HashGridSpec:
    """Shape of a hash grid over [0, 1]^3.

    Level l has scale `base * growth^l - 1` and `ceil(scale) + 1` vertices per side; a position x lies at `x * scale + 0.5`
    in units of cells. Levels whose vertices fit in `2^log2_table` entries are indexed directly, finer ones are hashed.
    Sizes are rounded up to a multiple of 8 entries. All of this is tiny-cuda-nn's layout, so its parameters fit.
    """

    levels: int
    features: int
    log2_table: int
    base: int
    finest: int

    @property
    def growth(self) -> float:
        """Factor between the resolutions of neighbouring levels."""
        return 1.0 if self.levels == 1 else math.exp(math.log(self.finest / self.base) / (self.levels - 1))

    @cached_property
    def scales(self) -> tuple[float, ...]:
        """Cells per unit length, for each level."""
        return tuple(self.base * self.growth**level - 1.0 for level in range(self.levels))

    @cached_property
    def resolutions(self) -> tuple[int, ...]:
        """Vertices per side, for each level."""
        # The tolerance keeps 2047.0000000001 from becoming one vertex more than the scale asks for.
        return tuple(math.ceil(scale - 1e-6) + 1 for scale in self.scales)

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Entries of each level."""
        limit = 1 << self.log2_table
        return tuple(min((res**3 + 7) // 8 * 8, limit) for res in self.resolutions)

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """First entry of each level, and the end of the last: L + 1 numbers."""
        out = [0]
        for size in self.sizes:
            out.append(out[-1] + size)
        return tuple(out)

    @property
    def entries(self) -> int:
        """Entries of the whole table."""
        return self.offsets[-1]

    @cached_property
    def dense(self) -> tuple[bool, ...]:
        """Whether a level is indexed directly."""
        return tuple(res**3 <= size for res, size in zip(self.resolutions, self.sizes, strict=True))
