"""Whole images from a trained field."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nsr.conventions import Array, pixel_rays
from nsr.fields.model import SurfaceModel
from nsr.log import get_logger
from nsr.rendering.volume import background_colour, draw_samples, render_samples, step_length

Image = NDArray[np.float32]
_FEWEST_RAYS = 64  # rendered at once where memory is short


class RenderedView(NamedTuple):
    """An image of H x W pixels.

    Attributes:
        colour: (H, W, 3) sRGB. depth: (H, W) along the camera's z axis, unit frame, 0 where opacity is under 0.5.
        normal: (H, W, 3) unit frame, length 1 or 0. opacity: (H, W) of the region of interest.
    """

    colour: Image
    depth: Image
    normal: Image
    opacity: Image


class Member(NamedTuple):
    """A field and where it is not empty.

    Attributes:
        model: the field. occupied: (G, G, G) bool occupancy.
    """

    model: SurfaceModel
    occupied: Tensor


class Renderable(Protocol):
    """One or several fields of a scene, with all that rendering needs."""

    @property
    def members(self) -> Sequence[Member]:
        """The fields, whose images' mean is the image."""
        ...

    @property
    def march_steps(self) -> int:
        """Marching steps along the diagonal of the cube."""
        ...

    @property
    def ray_chunk(self) -> int:
        """Rays rendered at once, at most."""
        ...

    @property
    def march_backend(self) -> str:
        """Back end of marching, see `nsr.kernels.march`."""
        ...


@torch.no_grad()
def render_view(field: Renderable, K: Array, w2c: Array, width: int, height: int) -> RenderedView:
    """Render a pinhole camera: K (3, 3) pixels, w2c (4, 4) unit frame to camera.

    Where the GPU's memory does not hold the samples of `field.ray_chunk` rays, half as many are tried, and so on.

    Raises:
        torch.cuda.OutOfMemoryError: it does not hold those of 64 rays either.
    """
    column, row = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    origins, directions = pixel_rays(K, w2c, np.stack([column, row], axis=-1).reshape(-1, 2))
    parts: list[Tensor] = []
    chunk, first = field.ray_chunk, 0
    while first < len(origins):
        try:
            parts.append(_render_rays(field, origins[first : first + chunk], directions[first : first + chunk]))
            first += chunk
            continue
        except torch.cuda.OutOfMemoryError:
            if chunk <= _FEWEST_RAYS:
                raise
        # Only here has the error let go of what the failed rays took.
        chunk = max(_FEWEST_RAYS, chunk // 2)
        get_logger().warning("out of GPU memory: rendering %d rays at once from here on", chunk)
        torch.cuda.empty_cache()
    flat = torch.cat(parts).numpy().reshape(height, width, 8)
    opacity = flat[..., 7]
    solid = opacity >= 0.5
    to_z = (directions @ w2c[2, :3]).reshape(height, width).astype(np.float32)
    normal = flat[..., 3:6]
    length = np.linalg.norm(normal, axis=-1, keepdims=True)
    return RenderedView(
        colour=flat[..., :3].clip(0, 1),
        depth=np.where(solid, flat[..., 6] * to_z, 0).astype(np.float32),
        normal=np.where(solid[..., None], normal / np.maximum(length, 1e-6), 0).astype(np.float32),
        opacity=opacity,
    )


def _render_rays(field: Renderable, origins: Array, directions: Array) -> Tensor:
    """(R, 8) on the CPU of rays (R, 3): colour, normal, depth along the ray, opacity; of several fields the means."""
    device = field.members[0].occupied.device
    origin, direction = (torch.from_numpy(part).float().to(device) for part in (origins, directions))
    step = step_length(field.march_steps)
    parts = []
    for model, occupied in field.members:
        samples = draw_samples(origin, direction, occupied, step, None, backend=field.march_backend)
        background = background_colour(model, origin, direction, None)
        out = render_samples(model, origin, direction, samples, step=step, cosine_ratio=1.0, background=background)
        parts.append(torch.cat([out.colour, out.normal, out.depth[:, None], out.opacity[:, None]], dim=1).float())
    if len(parts) == 1:
        return parts[0].cpu()
    images = torch.stack(parts)
    images[..., 6] *= images[..., 7]  # where a field sees nothing its depth says nothing
    together = images.mean(0)
    together[:, 6] /= together[:, 7].clamp(min=1e-6)
    return together.cpu()
