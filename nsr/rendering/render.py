"""Whole images from a trained field."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nsr.conventions import Array, pixel_rays
from nsr.fields.model import SurfaceModel
from nsr.rendering.volume import background_colour, draw_samples, render_samples, step_length

Image = NDArray[np.float32]


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


class Renderable(Protocol):
    """A field with all that rendering needs.

    Attributes:
        model: the field. occupied: (G, G, G) bool occupancy. march_steps: steps along the cube's diagonal.
        ray_chunk: rays rendered at once, bounds the memory. march_backend: back end of marching.
    """

    @property
    def model(self) -> SurfaceModel:
        """The field."""
        ...

    @property
    def occupied(self) -> Tensor:
        """Occupancy (G, G, G), bool."""
        ...

    @property
    def march_steps(self) -> int:
        """Marching steps along the diagonal of the cube."""
        ...

    @property
    def ray_chunk(self) -> int:
        """Rays rendered at once."""
        ...

    @property
    def march_backend(self) -> str:
        """Back end of marching, see `nsr.kernels.march`."""
        ...


@torch.no_grad()
def render_view(field: Renderable, K: Array, w2c: Array, width: int, height: int) -> RenderedView:
    """Render a pinhole camera: K (3, 3) pixels, w2c (4, 4) unit frame to camera."""
    model, occupied, ray_chunk = field.model, field.occupied, field.ray_chunk
    device = occupied.device
    column, row = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    origins, directions = pixel_rays(K, w2c, np.stack([column, row], axis=-1).reshape(-1, 2))
    step = step_length(field.march_steps)
    parts = []
    for first in range(0, len(origins), ray_chunk):
        origin = torch.from_numpy(origins[first : first + ray_chunk]).float().to(device)
        direction = torch.from_numpy(directions[first : first + ray_chunk]).float().to(device)
        samples = draw_samples(origin, direction, occupied, step, None, backend=field.march_backend)
        background = background_colour(model, origin, direction, None)
        out = render_samples(model, origin, direction, samples, step=step, cosine_ratio=1.0, background=background)
        columns = [out.colour, out.normal, out.depth[:, None], out.opacity[:, None]]
        parts.append(torch.cat(columns, dim=1).float().cpu())
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
