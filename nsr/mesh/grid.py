"""A signed distance on the regular grid of the cube [-1, 1]^3, evaluated and kept only where the surface is.

The grid is cut into blocks of `BLOCK`^3 points. The distance at a block's centre tells whether the surface can pass
through it; only such blocks are evaluated point by point, and of these only the ones that hold both signs are kept. A
learned distance is not exact, so that the test allows its gradient to be up to `STEEPNESS`, and a block is also evaluated
and kept when the sign changes towards its neighbour: a surface once found is followed to its end, and the field has the
zero crossings of the fully evaluated grid. Each grid point has one value, whichever cells ask for it: no seams.

Where an occupancy grid is given, the search starts in occupied cells only. A surface that lies wholly elsewhere was never
rendered, so no photograph speaks for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from nsr.errors import ConfigError, EmptyMesh

SdfFunction = Callable[[Tensor], Tensor]

BLOCK = 8
STEEPNESS = 2.0
MAX_RESOLUTION = 2048
MAX_POINTS = 1 << 28  # kept; 1 GB of values, a mesh of some 60 million triangles
POINTS_AT_ONCE = 1 << 20


@dataclass(frozen=True)
class SparseField:
    """Values of `max(sdf, |x| - 1)`, the field cut off at the unit ball, where its sign changes.

    Attributes:
        resolution: cells per side; grid index i lies at -1 + 2 i / resolution.
        values: (K, B, B, B) float32 of the kept blocks, axes x, y, z. Never exactly 0, so that no triangle collapses.
        blocks: (K, 3) int64, block coordinates of the kept blocks, in rising order.
        slot: (n + 1, n + 1, n + 1) int32, row in `values` of a block, -1 where it is not kept.
        inside: as `slot`, bool: whether all values of a block that is not kept are negative. The last layer of both
            stands for what lies beyond the grid.
    """

    resolution: int
    values: Tensor
    blocks: Tensor
    slot: Tensor
    inside: Tensor

    @property
    def block(self) -> int:
        """Points per side of a block."""
        return self.values.shape[1]

    def corners(self, blocks: Tensor) -> Tensor:
        """Values (K, B + 1, B + 1, B + 1) at the corners of the blocks' cells; +-1 where only the sign is known."""
        side = self.block
        out = self.values.new_empty(len(blocks), side + 1, side + 1, side + 1)
        for offset in product((0, 1), repeat=3):
            near = tuple((blocks + torch.tensor(offset, device=blocks.device)).T)
            slot, sign = self.slot[near].long(), 1.0 - 2.0 * self.inside[near].to(out.dtype)
            source = tuple(slice(0, 1) if high else slice(0, side) for high in offset)
            target = tuple(slice(side, side + 1) if high else slice(0, side) for high in offset)
            known = self.values[(slice(None), *source)][slot.clamp(min=0)]
            out[(slice(None), *target)] = torch.where((slot >= 0)[:, None, None, None], known, sign[:, None, None, None])
        return out

    def cell_blocks(self) -> Tensor:
        """Blocks (K, 3) whose cells touch a kept value: the kept ones and their lower neighbours."""
        touched = self.slot >= 0
        for axis in range(3):
            touched = touched | touched.roll(-1, axis)  # the last layer is never kept, so nothing comes round
        return touched[:-1, :-1, :-1].nonzero()

    def batches(self, blocks: Tensor) -> Iterator[Tensor]:
        """`blocks` in parts of a bounded number of points."""
        yield from blocks.split(max(1, POINTS_AT_ONCE // (self.block + 1) ** 3))


@torch.no_grad()
def sample_field(
    sdf: SdfFunction,
    resolution: int,
    *,
    occupied: Tensor | None = None,
    device: torch.device | str = "cpu",
    block: int = BLOCK,
) -> SparseField:
    """Evaluate a signed distance where its surface is.

    Memory: 4 bytes for each kept point (about 4 times the number of triangles), 6 bytes for each of the
    (resolution / block)^3 blocks, and some 100 MB in flight. At 2048 that is under 1 GB for a surface of ten million triangles.

    Args:
        sdf: unit-frame points (P, 3) float32 on `device` -> signed distances (P,), positive outside.
        resolution: cells per side.
        occupied: (G, G, G) bool over [-1, 1]^3, indexed [x, y, z]: where a surface was rendered; None: anywhere.
        block: points per side of a block; it changes speed and memory, not the crossings.

    Raises:
        ConfigError: resolution out of range, or a surface too large for it. EmptyMesh: the distance is not finite somewhere.
    """
    if not 4 <= resolution <= MAX_RESOLUTION:
        raise ConfigError(f"mesh.resolution: {resolution} is outside 4..{MAX_RESOLUTION}")
    search = _Search(sdf, resolution, block, torch.device(device))
    search.keep(search.coarse(occupied), only_mixed=True)
    while len(wanted := search.open_blocks()):
        search.keep(wanted, only_mixed=False)
    return search.result()


class _Search:
    """Blocks found so far; `slot` and `inside` as in `SparseField`, without the layer beyond the grid."""

    def __init__(self, sdf: SdfFunction, resolution: int, block: int, device: torch.device) -> None:
        self.sdf, self.resolution, self.block, self.device = sdf, resolution, block, device
        self.cell = 2.0 / resolution
        self.count = -(-(resolution + 1) // block)
        options: dict[str, Any] = {"device": device}
        self.slot = torch.full((self.count,) * 3, -1, dtype=torch.int32, **options)
        self.inside = torch.zeros((self.count,) * 3, dtype=torch.bool, **options)
        self.active = torch.zeros_like(self.inside)  # where sign changes count: at and beside searched blocks
        self.parts: list[tuple[Tensor, Tensor]] = []  # kept blocks and their values, a part a call of `keep`
        self.kept = 0
        self.unchecked = 0  # parts whose borders were not looked at yet

    def clipped(self, points: Tensor) -> Tensor:
        """`max(sdf, |x| - 1)` (P,) at float64 points (P, 3); the distance itself is asked for inside the ball only."""
        ball = points.norm(dim=1) - 1.0
        value = ball.float()
        inside = (ball < 0).nonzero()[:, 0]
        if len(inside):
            distance = self.sdf(points[inside].float()).reshape(-1).float()
            value[inside] = torch.maximum(distance, value[inside])  # a NaN stays one
        wrong = int((~value.isfinite()).sum())
        if wrong:
            raise EmptyMesh(
                f"the signed distance is not finite at {wrong} of {len(value)} grid points: training diverged; "
                "look at train.json and lower train.optim.learning_rate"
            )
        return torch.where(value == 0.0, 1e-6 * self.cell, value)

    def coarse(self, occupied: Tensor | None) -> Tensor:
        """Give every block the sign of its centre; the blocks (K, 3) that the surface may pass through."""
        near = torch.empty_like(self.inside).view(-1)
        # To the far corner of the neighbouring block's first points: crossings lie on edges between blocks, too.
        reach = 3**0.5 * 0.5 * (self.block + 1) * self.cell
        for start in range(0, self.count**3, POINTS_AT_ONCE):
            number = torch.arange(start, min(start + POINTS_AT_ONCE, self.count**3), device=self.device)
            index = torch.stack([number // self.count**2, number // self.count % self.count, number % self.count], dim=1)
            value = self.clipped((index.double() * self.block + 0.5 * (self.block - 1)) * self.cell - 1.0)
            self.inside.view(-1)[number] = value < 0
            near[number] = value.abs() <= STEEPNESS * reach
        if occupied is None:
            self.active[:] = True
        else:
            touches = blocks_touching(occupied.to(self.device), self.count, self.block * self.cell)
            near &= touches.view(-1)
            self.active = grown(near.view_as(self.active))
        return near.view_as(self.inside).nonzero()

    def keep(self, blocks: Tensor, *, only_mixed: bool) -> None:
        """Evaluate blocks (K, 3) and keep their values; `only_mixed`: of blocks of one sign keep the sign."""
        ticks = torch.arange(self.block, device=self.device)
        offset = torch.cartesian_prod(ticks, ticks, ticks)
        for part in blocks.split(max(1, POINTS_AT_ONCE // self.block**3)):
            points = (part[:, None] * self.block + offset).reshape(-1, 3).double() * self.cell - 1.0
            values = self.clipped(points).view(-1, *(self.block,) * 3)
            negative = (values < 0).flatten(1)
            self.inside[tuple(part.T)] = negative[:, 0]
            if only_mixed:
                mixed = negative.any(1) & ~negative.all(1)
                part, values = part[mixed], values[mixed]
            self._store(part, values)

    def _store(self, blocks: Tensor, values: Tensor) -> None:
        if (self.kept + len(blocks)) * self.block**3 > MAX_POINTS:
            raise ConfigError(
                f"mesh.resolution: at {self.resolution} the surface has more than some 60 million triangles; lower it, or look "
                "at the training curve if the surface should be simple"
            )
        rows = torch.arange(self.kept, self.kept + len(blocks), dtype=torch.int32, device=self.device)
        self.slot[tuple(blocks.T)] = rows
        self.kept += len(blocks)
        self.parts.append((blocks, values))

    def open_blocks(self) -> Tensor:
        """Blocks (K, 3) not yet kept across whose border the sign changes."""
        wanted = torch.zeros_like(self.inside)
        fresh, self.unchecked = self.parts[self.unchecked :], len(self.parts)
        for blocks, values in fresh:
            self._mark_neighbours(blocks, values, wanted)
            if len(blocks):
                self.active[tuple(blocks.T)] = True
        alone = self.slot < 0
        active = grown(self.active)
        for axis in range(3):
            low, high = (range_of(self.count, axis, k) for k in (0, 1))
            change = (self.inside[low] != self.inside[high]) & alone[low] & alone[high] & (active[low] | active[high])
            wanted[low] |= change
            wanted[high] |= change
        return wanted.nonzero()

    def _mark_neighbours(self, blocks: Tensor, values: Tensor, wanted: Tensor) -> None:
        """Mark in `wanted` the neighbours of kept blocks that are not kept and whose sign a value on the border differs from."""
        for axis in range(3):
            for side, plane in ((-1, 0), (1, self.block - 1)):
                near = blocks.clone()
                near[:, axis] += side
                valid = (near[:, axis] >= 0) & (near[:, axis] < self.count)
                place = tuple(near[valid].T)
                border = (values[valid].select(axis + 1, plane) < 0).flatten(1)
                differs = (border != self.inside[place][:, None]).any(1) & (self.slot[place] < 0)
                wanted[tuple(part[differs] for part in place)] = True

    def result(self) -> SparseField:
        """The field; blocks in rising order."""
        empty = torch.zeros(0, *(self.block,) * 3, device=self.device)
        values = torch.cat([part[1] for part in self.parts] or [empty])
        self.parts.clear()
        blocks = (self.slot >= 0).nonzero()
        slot, inside = pad(self.slot, (0, 1) * 3, value=-1), pad(self.inside, (0, 1) * 3, value=False)
        return SparseField(self.resolution, values, blocks, slot, inside)


def range_of(count: int, axis: int, first: int) -> tuple[slice, ...]:
    """Index of the lower (`first` 0) or upper (1) of two neighbours along an axis, of arrays with `count` per side."""
    return tuple(slice(first, count - 1 + first) if k == axis else slice(None) for k in range(3))


def grown(marks: Tensor) -> Tensor:
    """Marks (n, n, n), bool, with the 26 neighbours of each."""
    for axis in range(3):
        low, high = (range_of(marks.shape[0], axis, k) for k in (0, 1))
        wider = marks.clone()
        wider[low] |= marks[high]
        wider[high] |= marks[low]
        marks = wider
    return marks


def blocks_touching(occupied: Tensor, count: int, size: float) -> Tensor:
    """Which of `count`^3 blocks of edge `size` (unit frame), from the corner -1 on, touch an occupied cell: (n, n, n) bool."""
    cells = occupied.shape[0]
    edges = torch.arange(count + 1, device=occupied.device, dtype=torch.float64) * (0.5 * size * cells)
    first = (edges[:-1] - 1e-6).floor().long().clamp(0, cells - 1)
    last = (edges[1:] + 1e-6).floor().long().clamp(0, cells - 1) + 1
    found = occupied.int()
    for axis in range(3):
        total = pad(found.movedim(axis, -1).cumsum(-1, dtype=torch.int32), (1, 0))
        found = (total[..., last] - total[..., first]).movedim(-1, axis)
    return found > 0
