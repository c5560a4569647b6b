"""The SDF core on tiny-cuda-nn's hash grid; the network stays in torch: its networks have no biases."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import linear, softplus

from nsr.kernels.hashgrid.spec import HashGridSpec
from nsr.kernels.hashgrid.tcnn import encode
from nsr.kernels.sdf.reference import SdfWeights


def value(x: Tensor, table: Tensor, spec: HashGridSpec, net: SdfWeights, active: int | Tensor) -> tuple[Tensor, Tensor]:
    """See `nsr.kernels.sdf.sdf_value`."""
    encoded = encode((x + 1) / 2, table, spec, active)
    out = linear(softplus(linear(torch.cat([x, encoded], dim=1), net.W1, net.b1), net.beta), net.W2, net.b2)
    return out[:, 0], out[:, 1:]
