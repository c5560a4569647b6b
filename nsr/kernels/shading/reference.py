"""What a colour network is fed with, in plain torch."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from nsr.kernels.packed import Packed

SHORTEST = 1e-6  # shorter gradients are divided by this
Directions = Literal["view", "mirrored", "both"]


def harmonics_width(degree: int, directions: Directions) -> int:
    """Columns of the harmonics, `degree` bands of each direction."""
    return degree**2 * (2 if directions == "both" else 1)


def spherical_harmonics(direction: Tensor, degree: int) -> Tensor:
    """Real spherical harmonics of unit vectors.

    Args:
        direction: (S, 3), length 1. degree: number of bands, 0..4.

    Returns:
        (S, degree^2), orthonormal on the sphere (Sloan 2008, appendix A2).
    """
    if degree == 0:
        return direction[:, :0]
    x, y, z = direction.unbind(1)
    bands = [torch.full_like(x, 0.5 / math.sqrt(math.pi))]
    if degree > 1:
        c1 = math.sqrt(3 / (4 * math.pi))
        bands += [-c1 * y, c1 * z, -c1 * x]
    if degree > 2:
        c2 = math.sqrt(15 / (4 * math.pi))
        bands += [c2 * x * y, -c2 * y * z, math.sqrt(5 / (16 * math.pi)) * (3 * z * z - 1), -c2 * x * z, c2 / 2 * (x * x - y * y)]
    if degree > 3:
        a, b, c = math.sqrt(35 / (32 * math.pi)), math.sqrt(105 / (4 * math.pi)), math.sqrt(21 / (32 * math.pi))
        bands += [
            -a * y * (3 * x * x - y * y),
            b * x * y * z,
            -c * y * (5 * z * z - 1),
            math.sqrt(7 / (16 * math.pi)) * z * (5 * z * z - 3),
            -c * x * (5 * z * z - 1),
            b / 2 * z * (x * x - y * y),
            -a * x * (x * x - 3 * y * y),
        ]
    return torch.stack(bands, dim=1)


def colour_inputs(
    position: Tensor | None,
    features: Tensor,
    gradient: Tensor,
    direction: Tensor,
    packed: Packed,
    *,
    degree: int,
    codes: Tensor | None = None,
    directions: Directions = "view",
) -> Tensor:
    """See `nsr.kernels.shading.colour_inputs`."""
    normal = torch.nn.functional.normalize(gradient, dim=1, eps=SHORTEST)
    parts = [features, normal]
    if directions != "mirrored":
        parts.append(spherical_harmonics(direction, degree).index_select(0, packed.ray))
    if directions != "view":
        seen = direction.index_select(0, packed.ray)
        parts.append(spherical_harmonics(seen - 2 * (seen * normal).sum(1, keepdim=True) * normal, degree))
    parts += [] if codes is None else [codes.index_select(0, packed.ray)]
    return torch.cat(parts if position is None else [position, *parts], dim=1)
