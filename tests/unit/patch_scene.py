"""A textured plane in space and photographs of it, exact but for rounding: what patches are tested on."""

from __future__ import annotations

import numpy as np
import torch

from nsr.conventions import camera_centres, pixel_rays
from nsr.kernels.packed import Packed
from nsr.kernels.patch import PatchRays, PatchTables
from tests.unit.look_at import look_at

WIDTH, HEIGHT = 72, 60
K = np.array([[80.0, 0.2, 35.0], [0, 82.0, 31.0], [0, 0, 1]])
NORMAL = np.array([0.15, -0.1, 1.0]) / np.linalg.norm([0.15, -0.1, 1.0])
STEP = 0.05
CENTRES = [(0.2, 0.1, 2.0), (0.7, 0.3, 1.9), (-0.5, 0.4, 2.0), (0.1, -0.7, 1.8), (0.9, -0.6, 1.7), (-0.6, -0.5, 1.9)]


def texture(points):
    """Grey level of points (..., 3) of the plane: smooth, so that bilinear sampling is nearly exact."""
    x, y = points[..., 0], points[..., 1]
    return 128 + 50 * np.sin(9 * x + 2 * y + 1) + 40 * np.cos(11 * y - 3 * x) + 20 * np.sin(17 * x * y + 5 * x)


def photograph(w2c):
    """(H, W) float64 of the plane through the origin."""
    xs, ys = np.meshgrid(np.arange(WIDTH) + 0.5, np.arange(HEIGHT) + 0.5)
    origin, direction = pixel_rays(K, w2c, np.stack([xs, ys], -1).reshape(-1, 2))
    along = -(origin @ NORMAL) / (direction @ NORMAL)
    return texture(origin + direction * along[:, None]).reshape(HEIGHT, WIDTH)


def poses(centres=CENTRES):
    """World-to-camera (V, 4, 4) of cameras that look near the origin."""
    return np.stack([look_at(centre, (0.05 * i, -0.04 * i, 0), (0, 1, 0)) for i, centre in enumerate(centres)])


def tables(w2c, images=None, sources=None, dtype=torch.float64):
    """The photographs as tables, every view compared with all others unless `sources` says."""
    images = [photograph(pose) for pose in w2c] if images is None else images
    views, rotation = len(w2c), w2c[:, :3, :3]
    others = [[other for other in range(views) if other != view] for view in range(views)] if sources is None else sources

    def put(array):
        return torch.as_tensor(np.ascontiguousarray(array)).to(dtype)

    return PatchTables(
        grey=put(np.concatenate([image.reshape(-1) for image in images])),
        starts=torch.arange(views) * WIDTH * HEIGHT,
        sizes=torch.tensor([[WIDTH, HEIGHT]] * views, dtype=torch.int32),
        towards=put(np.swapaxes(rotation, 1, 2) @ np.linalg.inv(K)),
        projection=put(K @ rotation),
        centre=put(camera_centres(w2c)),
        sources=torch.tensor(others, dtype=torch.int32),
    )


def rays_of(w2c, view, column, row, dtype=torch.float64):
    """Rays through pixels of the views."""
    direction = [pixel_rays(K, w2c[v], [[c + 0.5, r + 0.5]])[1][0] for v, c, r in zip(view, column, row, strict=True)]
    numbers = (torch.tensor(part, dtype=torch.int32) for part in (view, column, row))
    return PatchRays(torch.as_tensor(np.array(direction)).to(dtype), *numbers)


def samples_of(w2c, rays, offset=0.0, *, first=0, number=40):
    """Samples of the rays around the plane moved by `offset` along its normal, `first` rows of something else before them.

    Returns:
        Distances (N,), gradients (N, 3), t (N,), packed.
    """
    origin = torch.as_tensor(camera_centres(w2c))[rays.view.long()]
    direction, normal = rays.direction.double(), torch.as_tensor(NORMAL)
    along = (offset - origin @ normal) / (direction @ normal)
    shift = torch.linspace(0.1, 0.9, len(along), dtype=torch.float64)
    t = (along[:, None] + (torch.arange(number) - number / 2 + shift[:, None]) * STEP).reshape(-1)
    ray = torch.arange(len(along)).repeat_interleave(number)
    sdf = ((origin[ray] + direction[ray] * t[:, None]) @ normal) - offset
    rows = torch.zeros(first, dtype=torch.float64)
    starts = first + torch.arange(len(along)) * number
    packed = Packed(ray, starts, torch.full_like(starts, number))
    gradient = 1.3 * normal.repeat(first + len(ray), 1)
    return torch.cat([rows, sdf]), gradient, torch.cat([rows, t]), packed
