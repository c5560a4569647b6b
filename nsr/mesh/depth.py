"""Depth images of a trained field for fusion: where the rays that its photographs would see meet the zero level."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nsr.config import TsdfConfig
from nsr.conventions import Array, pixel_rays
from nsr.log import get_logger
from nsr.mesh.grid import SdfFunction
from nsr.mesh.tsdf import DepthFrame
from nsr.scene.pixels import pixel_width
from nsr.scene.scene import Scene

_INTERVALS = 12  # into which the stretch around the rendered depth is cut to find the crossing
_REFINEMENTS = 5
_REACH_STEPS = 8.0  # half of that stretch, in marching steps
_REACH_WIDTHS = 3.0  # or in widths 1/s of the learned opacity's slope, if that is more
LEAST_VOXEL = 0.001  # unit frame; some 0.6 GB of voxels for a surface of the size of the unit sphere's


@torch.no_grad()
def crossing_distance(sdf: SdfFunction, origin: Tensor, direction: Tensor, expected: Tensor, reach: float) -> Tensor:
    """Distance (R,) along rays to where the signed distance first falls below 0 within `expected` +- `reach`; 0 where it does not.

    Volume rendering's mean depth lies off the surface by a share of the opacity's width, and between surfaces where a ray
    grazes one of them. The zero level is what marching cubes extracts.

    Args:
        sdf: (P, 3) float32 -> (P,). origin, direction: (R, 3), unit frame, unit length. expected: (R,) rendered distance.
    """

    def value(t: Tensor) -> Tensor:
        return sdf(origin + direction * t[:, None]).reshape(-1).float()

    start = (expected - reach).clamp(min=0)
    low, low_value = start, value(start)
    entered = torch.zeros_like(start, dtype=torch.bool)
    high, high_value = low.clone(), low_value.clone()
    for k in range(1, _INTERVALS + 1):
        t = start + 2 * reach * k / _INTERVALS
        here = torch.where(entered, high_value, value(t))
        now = ~entered & (low_value > 0) & (here <= 0)
        high, high_value = torch.where(now, t, high), torch.where(now, here, high_value)
        entered = entered | now
        low, low_value = torch.where(entered, low, t), torch.where(entered, low_value, here)
    for _ in range(_REFINEMENTS):
        # Regula falsi, kept away from the ends so that both of them move.
        share = (low_value / (low_value - high_value).clamp(min=1e-12)).clamp(0.05, 0.95)
        t = low + share * (high - low)
        here = value(t)
        outside = here > 0
        low, low_value = torch.where(outside, t, low), torch.where(outside, here, low_value)
        high, high_value = torch.where(outside, high, t), torch.where(outside, high_value, here)
    share = (low_value / (low_value - high_value).clamp(min=1e-12)).clamp(0, 1)
    return torch.where(entered, low + share * (high - low), torch.zeros_like(low))


def scene_voxel(scene: Scene, downscale: int) -> float:
    """Edge of a voxel, unit frame: what a pixel of the shrunk views covers at the middle of the region, the median view."""
    return max(LEAST_VOXEL, pixel_width(scene, downscale))


def depth_frames(trained: Any, scene: Scene, config: TsdfConfig, seen: list[int]) -> Iterator[DepthFrame]:
    """Depth and colour from all of the scene's cameras; adds to `seen` the solid pixels of each view and those with depth."""
    from nsr.rendering.render import render_view
    from nsr.rendering.volume import step_length

    reach = max(_REACH_STEPS * step_length(trained.march_steps), _REACH_WIDTHS / float(trained.model.sharpness()))
    for number, (view, w2c) in enumerate(zip(scene.views, scene.unit_w2c(scene.views), strict=True), start=1):
        K, width, height = view.shrunk(config.downscale)
        image = render_view(trained, K, w2c, width, height)
        depth = np.where(image.opacity >= config.min_opacity, image.depth, 0.0).astype(np.float32)
        solid = int((depth > 0).sum())
        if config.depth == "crossing":
            depth = _at_crossing(trained.sdf, depth, (K, w2c), reach, trained.occupied.device)
        seen[0], seen[1] = seen[0] + solid, seen[1] + int((depth > 0).sum())
        get_logger().info("depth of view %s (%d of %d)", view.name, number, len(scene.views))
        yield DepthFrame(depth, np.asarray(image.colour, dtype=np.float32), K, w2c)


def _at_crossing(
    sdf: Callable[[Tensor], Tensor], depth: np.ndarray, camera: tuple[Array, Array], reach: float, device: torch.device
) -> np.ndarray:
    """The depth image (H, W), along the camera's z axis, moved to the zero level; 0 where there is none nearby."""
    K, w2c = camera
    row, column = np.nonzero(depth)
    origin, direction = pixel_rays(K, w2c, np.stack([column, row], axis=1) + 0.5)
    to_z = direction @ w2c[2, :3]

    def tensor(values: Array) -> Tensor:
        return torch.from_numpy(values).float().to(device)

    expected = depth[row, column] / to_z
    distance = crossing_distance(sdf, tensor(origin), tensor(direction), tensor(expected), reach)
    out = np.zeros_like(depth)
    out[row, column] = distance.cpu().numpy() * to_z
    return out
