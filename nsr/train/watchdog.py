"""Checks that stop a training run which can only end in an empty mesh, with the reason and what to try."""

from __future__ import annotations

import math

import torch

from nsr.config import WatchdogConfig
from nsr.errors import TrainingDiverged
from nsr.fields.model import SurfaceModel
from nsr.sampling.occupancy import OccupancyGrid

_PROBE = 32  # points per side of the grid on which the sign of the SDF is probed


def check_loss(loss: float, step: int) -> None:
    """Stop on a loss that is no number."""
    if not math.isfinite(loss):
        raise TrainingDiverged(
            f"step {step}: the loss is {loss}; lower train.optim.learning_rate, or look for broken images or poses in the scene"
        )


def check_geometry(model: SurfaceModel, occupancy: OccupancyGrid, config: WatchdogConfig, step: int) -> None:
    """Stop on empty occupancy, an SDF without zero crossing, or falling sharpness.

    Raises:
        TrainingDiverged: with the diagnosis.
    """
    if not bool(occupancy.occupied.any()):
        raise TrainingDiverged(
            f"step {step}: the occupancy grid is empty, nothing is left to render; check the region of interest (is the object "
            "inside it?), the masks' polarity and the poses, or lower train.march.grid_threshold"
        )
    if step < config.after:
        return
    low, high = probe_sdf(model, occupancy.values.device)
    if low > 0 or high < 0:
        side = "positive" if low > 0 else "negative"
        raise TrainingDiverged(
            f"step {step}: the signed distance is {side} everywhere in the region of interest, there is no surface; check masks "
            "and region, or raise train.loss.eikonal"
        )
    sharpness = float(model.sharpness().detach())
    floor = config.max_sharpness_fall * model.config.sharpness_start
    if sharpness < floor:
        raise TrainingDiverged(
            f"step {step}: the sharpness 1/s fell to {sharpness:.1f} (start {model.config.sharpness_start:.1f}): the images do not "
            "agree on a surface; check poses and intrinsics, use masks or a learned background"
        )


@torch.no_grad()
def probe_sdf(model: SurfaceModel, device: torch.device) -> tuple[float, float]:
    """Smallest and largest SDF on a coarse grid of points in the unit ball."""
    axis = (torch.arange(_PROBE, device=device) + 0.5) * (2 / _PROBE) - 1
    points = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1).reshape(-1, 3)
    values = model.sdf.value(points[points.norm(dim=1) < 1])
    return float(values.min()), float(values.max())
