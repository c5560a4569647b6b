"""The SDF core in Triton: gather and Jacobian, network, and their backward as one scatter.

Four launches: the table is read once forward, written once backward, and between them stand the encoded columns (float32)
and their derivatives (float16). Networks beyond the kernels' sizes are composed of general operations.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn.functional import linear, softplus

from nsr.kernels.gpu import interpreted, processor_count
from nsr.kernels.hashgrid.spec import HashGridSpec
from nsr.kernels.hashgrid.storage import TableStorage, device_int
from nsr.kernels.hashgrid.triton import UNIT_FRAME, encode, gather, pulled_slope, scatter
from nsr.kernels.mlp.triton import zeros_like_each
from nsr.kernels.sdf.reference import SdfWeights
from nsr.kernels.sdf.triton_kernels import sdf_network_backward, sdf_network_forward

# The product with the encoding decides the distance; three tf32 products keep it as exact as float32.
_PRECISION = "tf32x3"
_MOST_COLUMNS, _HIDDEN, _MOST_OUT = 64, (32, 64), 16


class Shape(NamedTuple):
    """Samples a block, warps a program, programs a multiprocessor."""

    block: int
    warps: int
    programs: int


# Measured on an H100 (docs/performance.md): larger blocks spill registers, smaller ones starve the matrix units.
# Exact products need more registers, and fewer samples a block.
FORWARD, BACKWARD, BACKWARD_EXACT = Shape(64, 4, 2), Shape(128, 8, 1), Shape(16, 4, 4)


class Launch(NamedTuple):
    """What an evaluation needs beside positions and parameters.

    Attributes:
        spec: level sizes. beta: of the softplus. active: (1,) int32, levels in use. used: (1,) int32, positions in use;
        outputs past it are left as they were allocated, gradients past it are not read.
        storage: see `TableStorage`. features, gradient: which outputs are wanted beside the distance. keep: a backward pass
        may follow.
    """

    spec: HashGridSpec
    beta: float
    active: Tensor
    used: Tensor
    storage: TableStorage | None
    features: bool
    gradient: bool
    keep: bool


def fused(spec: HashGridSpec, net: SdfWeights, rows: int) -> bool:
    """Whether the network kernels cover this shape; others are composed of general operations.

    Args:
        rows: positions at once; places in the Jacobian (3, columns, rows) and in z (hidden, rows) are 32-bit numbers.
    """
    hidden, width = net.W1.shape
    columns = spec.levels * spec.features
    fits = columns <= _MOST_COLUMNS and hidden in _HIDDEN and len(net.b2) <= _MOST_OUT and width == 3 + columns
    return fits and rows * max(3 * columns, hidden) < 2**31


def value(
    x: Tensor,
    table: Tensor,
    spec: HashGridSpec,
    net: SdfWeights,
    active: int | Tensor,
    storage: TableStorage | None = None,
    *,
    count: Tensor | None = None,
    features: bool = True,
) -> tuple[Tensor, Tensor]:
    """See `nsr.kernels.sdf.sdf_value`; networks beyond the kernels' sizes are evaluated at all positions."""
    if fused(spec, net, len(x)):
        wanted = {"features": features, "gradient": False}
        return evaluate(x, table, spec, net, active=active, storage=storage, count=count, **wanted)[:2]
    encoded = encode((x + 1) / 2, table, spec, active, storage)
    out = linear(softplus(linear(torch.cat([x, encoded], dim=1), net.W1, net.b1), net.beta), net.W2, net.b2)
    return out[:, 0], out[:, 1:]


def value_and_gradient(
    x: Tensor,
    table: Tensor,
    spec: HashGridSpec,
    net: SdfWeights,
    active: int | Tensor,
    storage: TableStorage | None = None,
    *,
    count: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """See `nsr.kernels.sdf.sdf_with_gradient`; networks beyond the kernels' sizes are evaluated at all positions."""
    if fused(spec, net, len(x)):
        return evaluate(x, table, spec, net, active=active, storage=storage, count=count)
    unit = (x + 1) / 2
    encoded = encode(unit, table, spec, active, storage)
    z = linear(torch.cat([x, encoded], dim=1), net.W1, net.b1)
    out = linear(softplus(z, net.beta), net.W2, net.b2)
    v = (net.W2[0] * torch.sigmoid(net.beta * z)) @ net.W1
    gradient = v[:, :3] + 0.5 * pulled_slope(unit, table, v[:, 3:], spec, active, storage)
    return out[:, 0], out[:, 1:], gradient


def evaluate(
    x: Tensor,
    table: Tensor,
    spec: HashGridSpec,
    net: SdfWeights,
    *,
    active: int | Tensor,
    count: int | Tensor | None = None,
    storage: TableStorage | None = None,
    features: bool = True,
    gradient: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    """The fused kernels: distance (S,), features (S, G), gradient (S, 3), the last two empty if not wanted.

    Args:
        count: positions in use, the first ones, a number or a device tensor; None: all. See `Launch` for the others.
    """
    device = x.device
    count = device_int(len(x) if count is None else count, device)
    keep = torch.is_grad_enabled() and any(part.requires_grad for part in (table, net.W1, net.b1, net.W2, net.b2))
    launch = Launch(spec, net.beta, device_int(active, device), count, storage, features, gradient, keep)
    sdf, out, normal = _FusedSdf.apply(x, table, net.W1, net.b1, net.W2, net.b2, launch)
    return sdf, out.T, normal.T


class _FusedSdf(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, table: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
        *net, launch = rest
        x = x.float().contiguous()
        weights = [part.detach().float().contiguous() for part in net]
        out_features = len(weights[3]) - 1
        sdf = torch.empty(len(x), device=x.device)
        features = torch.empty(out_features if launch.features else 0, len(x), device=x.device)
        gradient = torch.empty(3 if launch.gradient else 0, len(x), device=x.device)
        values = launch.storage.values if launch.storage else table.detach().contiguous()
        encoded, jacobian = gather(
            x, values, launch.spec, UNIT_FRAME, active=launch.active, count=launch.used, jacobian=launch.gradient
        )
        pre = torch.empty(len(weights[1]) if launch.keep else 0, len(x), device=x.device, dtype=_kinds(launch).pre)
        if len(x):
            sdf_network_forward[(_programs(len(x), FORWARD, x.device),)](
                x, encoded, jacobian, launch.used, *_split(weights[0], torch.float32), *weights[1:], sdf, features, gradient, pre,
                len(x), launch.beta, **_sizes(launch, weights, FORWARD, len(x)), PRECISION=_PRECISION,
                FEATURES_OUT=launch.features and out_features > 0, GRADIENT=launch.gradient, KEEP=launch.keep,
            )  # fmt: skip
        ctx.save_for_backward(x, table, encoded, jacobian, pre, *weights)
        ctx.launch = launch
        return sdf, features, gradient

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, to_sdf: Tensor, to_features: Tensor, to_gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, table, encoded, jacobian, pre, *weights = ctx.saved_tensors
        launch: Launch = ctx.launch
        (sums,) = zeros_like_each(weights)
        kind = _kinds(launch).product
        shape = BACKWARD if kind == torch.bfloat16 else BACKWARD_EXACT
        to_encoded = torch.empty_like(encoded, dtype=kind)
        pull = torch.empty_like(to_encoded) if launch.gradient else None
        sink = launch.storage.gradient if launch.storage else torch.zeros_like(table, dtype=torch.float32)
        if len(x):
            sdf_network_backward[(_programs(len(x), shape, x.device),)](
                x, encoded, jacobian, pre, launch.used, *_split(weights[0], kind), weights[2], to_sdf.contiguous(),
                to_features, *to_features.stride(), to_gradient, *to_gradient.stride(), to_encoded,
                to_encoded if pull is None else pull, *sums, len(x), launch.beta, **_sizes(launch, weights, shape, len(x)),
                FEATURES_IN=launch.features and len(weights[3]) > 1, GRADIENT=launch.gradient,
                **_products(kind),
            )  # fmt: skip
        scatter(
            x, to_encoded, launch.spec, UNIT_FRAME, active=launch.active, count=launch.used, sink=sink, pull=pull,
            push=to_gradient if launch.gradient else None,
        )  # fmt: skip
        return None, None if launch.storage else sink.to(table.dtype), *sums, None


class _Kinds(NamedTuple):
    """Kinds of numbers in a backward pass: z as it was kept, operands of the products and what goes to the scatter."""

    pre: torch.dtype
    product: torch.dtype


def _kinds(launch: Launch) -> _Kinds:
    """What an evaluation keeps and hands on.

    z matters where the softplus bends, near 0, where half precision is finest. Gradients by sample are smaller than half
    precision can hold; bfloat16 has float32's range. Distances without a gradient are those of finite differences: the
    gradients of their taps are large and nearly cancel, so that all of it stays float32.
    """
    rounded = launch.gradient and not interpreted()
    return _Kinds(torch.float16, torch.bfloat16) if rounded else _Kinds(torch.float32, torch.float32)


def _products(kind: torch.dtype) -> dict[str, Any]:
    if kind == torch.bfloat16:
        return {"KIND": tl.bfloat16, "PRECISION": "tf32"}
    return {"KIND": tl.float32, "PRECISION": _PRECISION}


def _split(W1: Tensor, kind: torch.dtype) -> tuple[Tensor, Tensor]:
    """The first layer's columns of the position (H, 3) and of the encoding (H, C), apart, so that rows are aligned."""
    return W1[:, :3].contiguous(), W1[:, 3:].to(kind).contiguous()


def _sizes(launch: Launch, weights: list[Tensor], shape: Shape, rows: int) -> dict[str, Any]:
    columns = launch.spec.levels * launch.spec.features
    return {
        "COLUMNS": columns,
        "PADDED": max(16, triton.next_power_of_2(columns)),
        "HIDDEN": len(weights[1]),
        "FEATURES": len(weights[3]) - 1,
        "ALIGNED": rows % 16 == 0,
        "BLOCK": shape.block,
        "num_warps": shape.warps,
    }


def _programs(samples: int, shape: Shape, device: torch.device) -> int:
    return max(1, min(triton.cdiv(samples, shape.block), shape.programs * processor_count(device)))
