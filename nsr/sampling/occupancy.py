"""Which cells of the unit cube can hold visible surface."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


class OccupancyGrid:
    """G^3 cells over [-1, 1]^3 with a slowly decaying value each; occupied where it exceeds a threshold.

    Attributes:
        values: (G, G, G) float32, indexed [x, y, z]. occupied: (G, G, G) bool.
    """

    def __init__(self, resolution: int, device: torch.device):
        self.resolution = resolution
        axis = (torch.arange(resolution, device=device) + 0.5) * (2 / resolution) - 1
        nearest = (axis.abs() - 1 / resolution).clamp(min=0).square()
        # Cells wholly outside the unit ball hold no samples ever.
        self.in_ball = (nearest[:, None, None] + nearest[None, :, None] + nearest[None, None, :]) < 1
        self.values = torch.zeros(resolution, resolution, resolution, device=device)
        self.occupied = self.in_ball.clone()

    @torch.no_grad()
    def update(
        self,
        visibility: Callable[[Tensor], Tensor],
        *,
        threshold: float,
        decay: float,
        everywhere: bool,
        generator: torch.Generator,
    ) -> None:
        """Re-evaluate cells at one random point each.

        Args:
            visibility: (P, 3) unit frame -> (P,) in [0, 1], the most a cell around the point can contribute to a ray.
            threshold: a cell is occupied above `min(mean over the ball's cells, threshold)` (Li et al. 2023, NerfAcc).
            decay: factor on the old value; the new one is the larger of this and the fresh value.
            everywhere: all cells; otherwise a quarter of them at random and the occupied ones.
            generator: on the grid's device.
        """
        device = self.values.device
        chosen = self.in_ball.reshape(-1)
        if not everywhere:
            lottery = torch.rand(chosen.shape, generator=generator, device=device) < 0.25
            chosen = chosen & (lottery | self.occupied.reshape(-1))
        cells = chosen.nonzero()[:, 0]
        size = self.resolution
        corner = torch.stack([cells // (size * size), cells // size % size, cells % size], dim=1)
        shift = torch.rand(corner.shape, generator=generator, device=device)
        points = (corner + shift) * (2 / size) - 1
        flat = self.values.reshape(-1)
        flat[cells] = torch.maximum(flat[cells] * decay, visibility(points))
        limit = min(float(self.values[self.in_ball].mean()), threshold)
        self.occupied = (self.values > limit) & self.in_ball

    @torch.no_grad()
    def refresh(self, cells: Tensor, fresh: Tensor, *, threshold: float, decay: float) -> None:
        """`update` of all cells of the ball in place, from given values, without waiting for the device.

        Args:
            cells: (P,) flat indices of all cells of the ball, `ball_cells`. fresh: (P,) visibility at a point of each.
        """
        flat = self.values.view(-1)
        values = torch.maximum(flat[cells] * decay, fresh)
        flat.index_copy_(0, cells, values)
        torch.gt(self.values, values.mean().clamp(max=threshold), out=self.occupied)
        self.occupied &= self.in_ball

    def ball_cells(self) -> Tensor:
        """Flat indices (P,) int64 of the cells that reach into the unit ball."""
        return self.in_ball.reshape(-1).nonzero()[:, 0]

    def share(self) -> float:
        """Occupied share of the ball's cells."""
        return float(self.occupied.sum() / self.in_ball.sum())

    def state(self) -> dict[str, Tensor]:
        """Tensors to save."""
        return {"values": self.values, "occupied": self.occupied}

    def load(self, state: dict[str, Tensor]) -> None:
        """Inverse of `state`."""
        self.values.copy_(state["values"])
        self.occupied.copy_(state["occupied"])
