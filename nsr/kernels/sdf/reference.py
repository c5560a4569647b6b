"""The SDF core in plain torch: one gather of the table for value and gradient, autograd for the backward."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import linear, softplus

from nsr.kernels.hashgrid.reference import find_corners, gather_planes, interpolate, pulled_slope
from nsr.kernels.hashgrid.spec import HashGridSpec


class SdfWeights(NamedTuple):
    """`W1` (H, 3 + L F), `b1` (H,), `W2` (1 + G, H), `b2` (1 + G,), `beta` of the softplus."""

    W1: Tensor
    b1: Tensor
    W2: Tensor
    b2: Tensor
    beta: float


def value(x: Tensor, table: Tensor, spec: HashGridSpec, net: SdfWeights, active: int) -> tuple[Tensor, Tensor]:
    """See `nsr.kernels.sdf.sdf_value`."""
    corners = find_corners((x + 1) / 2, spec, active)
    encoded = interpolate(gather_planes(table, corners.index), corners.fraction, spec)
    out = linear(softplus(linear(torch.cat([x, encoded], dim=1), net.W1, net.b1), net.beta), net.W2, net.b2)
    return out[:, 0], out[:, 1:]


def value_and_gradient(
    x: Tensor, table: Tensor, spec: HashGridSpec, net: SdfWeights, active: int
) -> tuple[Tensor, Tensor, Tensor]:
    """See `nsr.kernels.sdf.sdf_with_gradient`."""
    corners = find_corners((x + 1) / 2, spec, active)
    planes = gather_planes(table, corners.index)  # (F, 2, 2, 2, L, S)
    encoded = interpolate(planes, corners.fraction, spec)
    z = linear(torch.cat([x, encoded], dim=1), net.W1, net.b1)
    out = linear(softplus(z, net.beta), net.W2, net.b2)
    slope = net.W2[0] * torch.sigmoid(net.beta * z)  # softplus' = sigmoid(beta z)
    v = slope @ net.W1  # d sdf / d [x, encoded]
    pull = v[:, 3 : 3 + active * spec.features].T.reshape(active, spec.features, -1).transpose(0, 1)  # (F, L, S)
    # The unit cube's coordinate is (x + 1) / 2, hence the half.
    gradient = v[:, :3] + 0.5 * pulled_slope(planes, pull, corners.fraction, corners.scale).T
    return out[:, 0], out[:, 1:], gradient
