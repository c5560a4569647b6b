"""All training photographs on the device, as bytes, and random rays through their pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nsr.conventions import MASK_IGNORE, MASK_OBJECT, PIXEL_CENTRE


class RayBatch(NamedTuple):
    """R rays: `origin`, `direction` (R, 3) unit frame, direction of length 1; `colour` (R, 3) in [0, 1]; `mask` (R,) in {0, 1},
    1 everywhere without masks; `valid` (R,) bool, False where the mask says ignore; `view` (R,) index of the photograph."""

    origin: Tensor
    direction: Tensor
    colour: Tensor
    mask: Tensor
    valid: Tensor
    view: Tensor


class PixelStore:
    """Pixels of V photographs of any sizes.

    Args:
        images: (H, W, 3) uint8 per view. masks: (H, W) uint8 per view with the values of `nsr.conventions`, or None.
        K: (V, 3, 3) pixels. w2c: (V, 4, 4) unit frame.
        crop_to_ball: draw only from the rectangle that holds the projected unit ball of each view.
    """

    def __init__(
        self,
        images: Sequence[NDArray[np.uint8]],
        masks: Sequence[NDArray[np.uint8]] | None,
        K: NDArray[np.float64],
        w2c: NDArray[np.float64],
        *,
        crop_to_ball: bool,
        device: torch.device,
    ):
        self.device = device
        sizes = np.array([image.shape[:2] for image in images])
        starts = np.concatenate([[0], np.cumsum(sizes.prod(1))])
        self.colours = torch.from_numpy(np.concatenate([image.reshape(-1, 3) for image in images])).to(device)
        self.masks = None if masks is None else torch.from_numpy(np.concatenate([m.reshape(-1) for m in masks])).to(device)
        self.starts = torch.from_numpy(starts[:-1]).to(device)
        self.widths = torch.from_numpy(sizes[:, 1]).to(device)
        windows = [ball_window(k, m, w, h) if crop_to_ball else (0, 0, w, h) for k, m, (h, w) in zip(K, w2c, sizes, strict=True)]
        self.windows = torch.tensor(windows, device=device)  # (V, 4) left, top, right, bottom
        # A view is drawn in proportion to its window, so that every pixel is as likely as any other.
        areas = (self.windows[:, 2] - self.windows[:, 0]) * (self.windows[:, 3] - self.windows[:, 1])
        self.cumulative_area = areas.cumsum(0)
        self.K_inverse = torch.from_numpy(np.linalg.inv(K)).float().to(device)
        rotation = np.swapaxes(w2c[:, :3, :3], 1, 2)
        self.rotation = torch.from_numpy(rotation.copy()).float().to(device)  # camera to unit frame
        centre = -np.einsum("vij,vj->vi", rotation, w2c[:, :3, 3])
        self.centre = torch.from_numpy(centre).float().to(device)

    def sample(self, count: int, generator: torch.Generator) -> RayBatch:
        """`count` random rays, every pixel of every window equally likely."""
        pick = torch.rand(count, generator=generator, device=self.device, dtype=torch.float64)
        place = (pick * self.cumulative_area[-1]).long().clamp(max=int(self.cumulative_area[-1]) - 1)
        view = torch.searchsorted(self.cumulative_area, place, right=True)
        left, top, right, bottom = self.windows[view].unbind(1)
        inside = place - (self.cumulative_area[view] - (right - left) * (bottom - top))
        column = left + inside % (right - left)
        row = top + inside // (right - left)
        return self.rays(view, column, row)

    def rays(self, view: Tensor, column: Tensor, row: Tensor) -> RayBatch:
        """Rays through the centres of the given pixels: three (R,) int64 tensors."""
        flat = self.starts[view] + row * self.widths[view] + column
        pixel = torch.stack([column + PIXEL_CENTRE, row + PIXEL_CENTRE, torch.ones_like(column)], dim=1).float()
        direction = torch.einsum("rij,rj->ri", self.rotation[view], torch.einsum("rij,rj->ri", self.K_inverse[view], pixel))
        direction = direction / direction.norm(dim=1, keepdim=True)
        colour = self.colours[flat].float() / 255.0
        mask = torch.ones_like(colour[:, 0]) if self.masks is None else (self.masks[flat] == MASK_OBJECT).float()
        valid = torch.ones_like(mask, dtype=torch.bool) if self.masks is None else self.masks[flat] != MASK_IGNORE
        return RayBatch(self.centre[view], direction, colour, mask, valid, view)


def ball_window(K: NDArray[np.float64], w2c: NDArray[np.float64], width: int, height: int) -> tuple[int, int, int, int]:
    """Rectangle (left, top, right, bottom) in pixels that holds the projected unit ball; the whole image if in doubt.

    The outline of a ball of centre c (camera frame) along image axis u is where the plane `(a - u b) . x = 0` touches it,
    a and b rows of K: a quadratic in u.
    """
    centre = w2c[:3, 3]
    whole = (0, 0, int(width), int(height))
    if centre[2] <= 1.05:  # the camera is inside the ball or nearly so
        return whole
    bounds = []
    for axis in range(2):
        a, b = K[axis], K[2]
        ac, bc = a @ centre, b @ centre
        # (ac - u bc)^2 = |a - u b|^2
        roots = np.roots([bc * bc - b @ b, -2 * (ac * bc - a @ b), ac * ac - a @ a])
        if np.iscomplexobj(roots) and np.abs(roots.imag).max() > 1e-9:
            return whole
        bounds.append((np.floor(roots.real.min()), np.ceil(roots.real.max())))
    left, right = (int(np.clip(value, 0, width)) for value in bounds[0])
    top, bottom = (int(np.clip(value, 0, height)) for value in bounds[1])
    return (left, top, right, bottom) if right > left and bottom > top else whole
