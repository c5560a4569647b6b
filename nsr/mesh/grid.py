"""A signed distance on the regular grid of the cube [-1, 1]^3, evaluated only where the surface can be.

The grid is cut into blocks of 8^3 points. The distance at a block's centre tells whether the surface can pass through
it; only such blocks are evaluated point by point, the others are filled with their centre's value. A learned distance
is not exact, so that the test allows its gradient to be up to `STEEPNESS`, and afterwards a block is also evaluated
when its neighbour's values change sign towards it: a surface once found is followed to its end, and the field has the
zero crossings of the fully evaluated grid.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from nsr.errors import ConfigError, EmptyMesh

FloatArray = NDArray[np.float32]
SdfFunction = Callable[[FloatArray], FloatArray]

BLOCK = 8
STEEPNESS = 2.0
MAX_RESOLUTION = 1024
_POINTS_AT_ONCE = 1 << 18


def sample_field(sdf: SdfFunction, resolution: int) -> FloatArray:
    """Values of `max(sdf, |x| - 1)` on the grid: the field cut off at the unit ball, the region of interest.

    Memory: the result takes 4 bytes for each of its (resolution + 1)^3 values (0.54 GB at 512), plus blocks in flight.

    Args:
        sdf: unit-frame points (P, 3) float32 -> signed distances (P,), positive outside.
        resolution: cells per side.

    Returns:
        (n, n, n) float32, n = resolution + 1, axes x, y, z; index i lies at -1 + 2 i / resolution. Never exactly 0, so
        that no triangle collapses to a point.

    Raises:
        ConfigError: resolution out of range. EmptyMesh: the distance is not finite somewhere.
    """
    if not 4 <= resolution <= MAX_RESOLUTION:
        raise ConfigError(f"mesh.resolution: {resolution} is outside 4..{MAX_RESOLUTION} (memory grows with its cube)")
    grid = _Grid(sdf, resolution)
    todo = grid.coarse()
    while len(todo):
        grid.evaluate(todo)
        todo = grid.open_neighbours()
    count = resolution + 1
    return grid.values[:count, :count, :count]


class _Grid:
    """The padded grid of blocks; `done` marks evaluated ones."""

    def __init__(self, sdf: SdfFunction, resolution: int) -> None:
        self.sdf = sdf
        self.cell = 2.0 / resolution
        self.blocks = -(-(resolution + 1) // BLOCK)
        self.values = np.empty((self.blocks * BLOCK,) * 3, dtype=np.float32)
        self.done = np.zeros((self.blocks,) * 3, dtype=bool)

    def clipped(self, points: NDArray[np.floating]) -> FloatArray:
        """`max(sdf, |x| - 1)` at points (P, 3); the distance itself is asked for inside the ball only."""
        ball = np.linalg.norm(points, axis=1) - 1.0
        value = ball.astype(np.float32)
        inside = np.flatnonzero(ball < 0)
        for start in range(0, len(inside), _POINTS_AT_ONCE):
            part = inside[start : start + _POINTS_AT_ONCE]
            value[part] = np.maximum(
                np.asarray(self.sdf(points[part].astype(np.float32)), dtype=np.float32).reshape(-1), value[part]
            )
        if not np.isfinite(value).all():
            raise EmptyMesh(
                f"the signed distance is not finite at {int((~np.isfinite(value)).sum())} of {len(value)} grid points: training "
                "diverged; look at train.json and lower train.optim.learning_rate"
            )
        value[value == 0.0] = 1e-6 * self.cell
        return value

    def coarse(self) -> NDArray[np.int64]:
        """Fill every block with its centre's value; the blocks (K, 3) that the surface may pass through."""
        index = np.indices(self.done.shape).reshape(3, -1).T
        centre = (index * BLOCK + 0.5 * (BLOCK - 1)) * self.cell - 1.0
        value = self.clipped(centre)
        cube = value.reshape(self.done.shape)
        self.values.reshape(self.blocks, BLOCK, self.blocks, BLOCK, self.blocks, BLOCK)[:] = cube[:, None, :, None, :, None]
        # To the far corner of the neighbouring block's first points: crossings lie on edges between blocks, too.
        reach = np.sqrt(3.0) * 0.5 * (BLOCK + 1) * self.cell
        return index[np.abs(value) <= STEEPNESS * reach]

    def evaluate(self, index: NDArray[np.int64]) -> None:
        """Fine values of blocks (K, 3)."""
        offset = np.indices((BLOCK,) * 3).reshape(3, -1).T
        for start in range(0, len(index), _POINTS_AT_ONCE // BLOCK**3):
            part = index[start : start + _POINTS_AT_ONCE // BLOCK**3]
            points = (part[:, None] * BLOCK + offset).reshape(-1, 3) * self.cell - 1.0
            values = self.clipped(points).reshape(-1, BLOCK, BLOCK, BLOCK)
            view = self.values.reshape(self.blocks, BLOCK, self.blocks, BLOCK, self.blocks, BLOCK)
            view[part[:, 0], :, part[:, 1], :, part[:, 2], :] = values
        self.done[tuple(index.T)] = True

    def open_neighbours(self) -> NDArray[np.int64]:
        """Blocks (K, 3) not yet evaluated across whose border the sign changes."""
        wanted = np.zeros_like(self.done)
        for axis in range(3):
            values = np.moveaxis(self.values, axis, 0)
            last, first = values[BLOCK - 1 : -1 : BLOCK] < 0, values[BLOCK::BLOCK] < 0
            shape = (self.blocks - 1, self.blocks, BLOCK, self.blocks, BLOCK)
            change = (last != first).reshape(shape).any(axis=(2, 4))
            marks = np.moveaxis(wanted, axis, 0)
            marks[:-1] |= change
            marks[1:] |= change
        return np.argwhere(wanted & ~self.done)
