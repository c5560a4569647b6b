"""All training photographs on the device, as bytes, and random rays through their pixels."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nsr.kernels.rays.reference import locate, pixel_rays
from nsr.kernels.rays.tables import PixelTables
from nsr.scene.spill import Spill


class RayBatch(NamedTuple):
    """R rays: `origin`, `direction` (R, 3) unit frame, direction of length 1; `colour` (R, 3) in [0, 1]; `mask` (R,) in {0, 1},
    1 everywhere without masks; `valid` (R,) bool, False where the mask says ignore; `view` (R,) index of the photograph; `column`,
    `row` (R,) the pixel."""

    origin: Tensor
    direction: Tensor
    colour: Tensor
    mask: Tensor
    valid: Tensor
    view: Tensor
    column: Tensor
    row: Tensor


class PixelStore:
    """Pixels of V photographs of any sizes.

    Args:
        images: (H, W, 3) uint8 per view. masks: (H, W) uint8 per view with the values of `nsr.conventions`, or None. Both are
            gone through once; each is copied to its place and may be dropped, so that at most one has to be in memory besides.
        K: (V, 3, 3) pixels. w2c: (V, 4, 4) unit frame.
        crop_to_ball: draw only from the rectangle that holds the projected unit ball of each view.
        sizes: (V, 2) height and width; needed where `images` is not a list.
        spill: supplies the memory of pixels that stay on the host; None: all in memory.

    Attributes:
        tables: all of it on the device, as kernels read it.
    """

    def __init__(
        self,
        images: Iterable[NDArray[np.uint8]],
        masks: Iterable[NDArray[np.uint8]] | None,
        K: NDArray[np.float64],
        w2c: NDArray[np.float64],
        *,
        crop_to_ball: bool,
        device: torch.device,
        sizes: NDArray[np.int64] | None = None,
        spill: Spill | None = None,
    ):
        self.device = device
        if sizes is None:
            images = list(images)
            sizes = np.array([image.shape[:2] for image in images])
        starts = np.concatenate([[0], np.cumsum(sizes.prod(1))])
        views = zip(K, w2c, sizes, strict=True)
        windows = np.array([ball_window(k, m, w, h) if crop_to_ball else (0, 0, w, h) for k, m, (h, w) in views])
        # A view is drawn in proportion to its window, so that every pixel is as likely as any other.
        areas = (windows[:, 2] - windows[:, 0]) * (windows[:, 3] - windows[:, 1])
        rotation = np.swapaxes(w2c[:, :3, :3], 1, 2)

        def put(array: NDArray[Any]) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(array)).to(device)

        self.tables = PixelTables(
            colours=_joined(images, (int(starts[-1]), 3), device, spill),
            masks=None if masks is None else _joined(masks, (int(starts[-1]),), device, spill),
            starts=put(starts[:-1]),
            widths=put(sizes[:, 1]),
            windows=put(windows),
            cumulative_area=put(areas.cumsum()),
            K_inverse=put(np.linalg.inv(K).astype(np.float32)),
            rotation=put(rotation.astype(np.float32)),
            centre=put(-np.einsum("vij,vj->vi", rotation, w2c[:, :3, 3]).astype(np.float32)),
        )

    @property
    def masks(self) -> Tensor | None:
        """(P,) uint8 of all pixels, or None."""
        return self.tables.masks

    def sample(self, count: int, generator: torch.Generator) -> RayBatch:
        """`count` random rays, every pixel of every window equally likely."""
        total = self.tables.cumulative_area[-1]
        pick = torch.rand(count, generator=generator, device=self.device, dtype=torch.float64)
        return self.rays(*locate(self.tables, (pick * total).long().clamp(max=int(total) - 1)))

    def rays(self, view: Tensor, column: Tensor, row: Tensor) -> RayBatch:
        """Rays through the centres of the given pixels: three (R,) int64 tensors."""
        return RayBatch(*pixel_rays(self.tables, view, column, row), view, column, row)


def _joined(parts: Iterable[NDArray[np.uint8]], shape: tuple[int, ...], device: torch.device, spill: Spill | None) -> Tensor:
    """Pixels of all parts in one tensor (P, ...) on the device, one part in memory at a time."""
    whole = (
        torch.from_numpy(spill.empty(shape))
        if spill and device.type == "cpu"
        else torch.empty(shape, dtype=torch.uint8, device=device)
    )
    start = 0
    for part in parts:
        rows = torch.from_numpy(np.ascontiguousarray(part)).reshape(-1, *shape[1:])
        whole[start : start + len(rows)] = rows.to(device)
        start += len(rows)
    return whole


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
