"""Hash encoding in plain torch.

Corner arrays have three leading axes of length 2: the lower and the upper corner along z, y and x, in this order. Table
rows are handled as F planes, so that every product runs over long contiguous vectors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nsr.kernels.hashgrid.spec import PRIMES, HashGridSpec


@dataclass(frozen=True)
class Corners:
    """The eight table entries around each position on each active level.

    Attributes:
        index: (2, 2, 2, L, S) int32 rows of the table.
        fraction: (3, L, S) position x, y, z within the cell, in [0, 1).
        scale: (L, 1) cells per unit length.
    """

    index: Tensor
    fraction: Tensor
    scale: Tensor


def find_corners(x: Tensor, spec: HashGridSpec, active: int) -> Corners:
    """Corners of the cells that hold the positions x (S, 3) in [0, 1], on the first `active` levels."""
    scale = torch.tensor(spec.scales[:active], dtype=x.dtype, device=x.device)[:, None]
    position = x.T[:, None, :] * scale + 0.5  # (3, L, S)
    cell = position.floor()
    low = cell.int()
    both = torch.stack([low, low + 1])  # (2, 3, L, S)
    dense = sum(spec.dense[:active])
    index = torch.empty(2, 2, 2, *low.shape[1:], dtype=torch.int32, device=x.device)
    if dense:
        index[..., :dense, :] = _dense_index(both[:, :, :dense], spec, dense)
    if dense < active:
        index[..., dense:, :] = _hashed_index(both[:, :, dense:], spec)
    index += _level_values(spec.offsets[:active], index)
    return Corners(index, position - cell, scale)


def encode(x: Tensor, table: Tensor, spec: HashGridSpec, active: int) -> Tensor:
    """See `nsr.kernels.hashgrid.hash_encode`."""
    corners = find_corners(x, spec, active)
    return interpolate(gather_planes(table, corners.index), corners.fraction, spec)


def interpolate(planes: Tensor, fraction: Tensor, spec: HashGridSpec) -> Tensor:
    """Trilinear value: planes (F, 2, 2, 2, L, S), fraction (3, L, S) -> (S, spec.levels * F), inactive levels 0.

    Once differentiable in `planes`.
    """
    features: Tensor = _Trilinear.apply(planes, fraction)
    width, active, samples = features.shape
    flat = features.permute(2, 1, 0).reshape(samples, active * width)
    return torch.nn.functional.pad(flat, (0, (spec.levels - active) * width))


def pulled_slope(planes: Tensor, pull: Tensor, fraction: Tensor, scale: Tensor) -> Tensor:
    """`sum over levels and features of pull * d(interpolant)/dx`: the encoding's Jacobian transposed times `pull`.

    Args:
        planes: (F, 2, 2, 2, L, S) corner values. pull: (F, L, S). fraction: (3, L, S). scale: (L, 1).

    Returns:
        (3, S), by the position in the unit cube. Once differentiable in `planes` and `pull`.
    """
    slope: Tensor = _PulledSlope.apply(planes, pull, fraction, scale)
    return slope


def _weights(fraction: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Weights along x, y and z, shaped to broadcast over the three corner axes."""
    both = torch.stack([1 - fraction, fraction])  # (2, 3, L, S)
    return both[None, None, :, 0], both[None, :, None, 1], both[:, None, None, 2]


class _Trilinear(torch.autograd.Function):
    """Value of the interpolant; the backward spreads its gradient over the corners in one product."""

    @staticmethod
    def forward(ctx: Any, planes: Tensor, fraction: Tensor) -> Tensor:
        ctx.save_for_backward(fraction)
        yx = torch.lerp(planes[:, 0], planes[:, 1], fraction[2])
        x = torch.lerp(yx[:, 0], yx[:, 1], fraction[1])
        return torch.lerp(x[:, 0], x[:, 1], fraction[0])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        x, y, z = _weights(ctx.saved_tensors[0])
        return (x * y * z) * grad[:, None, None, None], None


class _PulledSlope(torch.autograd.Function):
    """Slope of the interpolant of `sum over features of pull * planes`."""

    @staticmethod
    def forward(ctx: Any, planes: Tensor, pull: Tensor, fraction: Tensor, scale: Tensor) -> Tensor:
        ctx.save_for_backward(planes, pull, fraction, scale)
        corner = planes[0] * pull[0]
        for feature in range(1, len(planes)):
            corner = torch.addcmul(corner, planes[feature], pull[feature])
        fx, fy, fz = fraction
        yx = torch.lerp(corner[0], corner[1], fz)
        x = torch.lerp(yx[0], yx[1], fy)
        along_y = torch.lerp(yx[1, 0] - yx[0, 0], yx[1, 1] - yx[0, 1], fx)
        rise = corner[1] - corner[0]
        rise_x = torch.lerp(rise[0], rise[1], fy)
        along_z = torch.lerp(rise_x[0], rise_x[1], fx)
        return torch.stack([((x[1] - x[0]) * scale).sum(0), (along_y * scale).sum(0), (along_z * scale).sum(0)])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        planes, pull, fraction, scale = ctx.saved_tensors
        x, y, z = _weights(fraction)
        sign = torch.tensor([-1.0, 1.0], dtype=grad.dtype, device=grad.device)[:, None, None]
        along = [sign * (scale * grad[d]) for d in range(3)]  # (2, L, S): slope of each axis' weights times the gradient
        to_corner = along[0][None, None] * y * z + x * (along[1][None, :, None] * z + y * along[2][:, None, None])
        to_pull = torch.stack([(plane * to_corner).sum((0, 1, 2)) for plane in planes])
        return to_corner * pull[:, None, None, None], to_pull, None, None


def gather_planes(table: Tensor, index: Tensor) -> Tensor:
    """`table[index]` with the feature axis first: (E, F), int32 index (...) -> (F, ...), once differentiable in `table`."""
    planes: Tensor = _GatherPlanes.apply(table, index)
    return planes


class _GatherPlanes(torch.autograd.Function):
    """Row gather whose backward is one `index_add`, sequential and so deterministic on the CPU.

    A row of two numbers is handled as one complex number: torch then moves it in one access, measured twice as fast on
    the CPU as two-column rows, forward and backward.
    """

    @staticmethod
    def forward(ctx: Any, table: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        ctx.shape = table.shape
        flat = index.reshape(-1)
        if table.shape[1] == 2:
            rows = torch.view_as_real(torch.view_as_complex(table.contiguous()).index_select(0, flat))
        else:
            rows = table.index_select(0, flat)
        return rows.T.contiguous().reshape(table.shape[1], *index.shape)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (index,) = ctx.saved_tensors
        out = torch.zeros(ctx.shape, dtype=grad.dtype, device=grad.device)
        if not index.numel():
            return out, None
        rows = grad.reshape(ctx.shape[1], -1).T.contiguous()
        if ctx.shape[1] == 2 and not grad.is_cuda:
            torch.view_as_complex(out).index_add_(0, index.reshape(-1), torch.view_as_complex(rows))
        else:
            out.index_add_(0, index.reshape(-1), rows)
        return out, None


def _level_values(values: tuple[int, ...], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device)[:, None]


def _corner_axes(both: Tensor, multipliers: tuple[Any, Any, Any]) -> tuple[Tensor, Tensor, Tensor]:
    x, y, z = (both[:, d] * multipliers[d] for d in range(3))  # (2, L, S) each
    return x[None, None], y[None, :, None], z[:, None, None]


def _dense_index(both: Tensor, spec: HashGridSpec, levels: int) -> Tensor:
    side = _level_values(spec.resolutions[:levels], both)
    x, y, z = _corner_axes(both, (1, side, side * side))
    # Positions on the upper face have a corner past the last vertex; tiny-cuda-nn wraps it, its weight is at most 1/2.
    return (x + y + z) % _level_values(spec.sizes[:levels], both)


def _hashed_index(both: Tensor, spec: HashGridSpec) -> Tensor:
    # Products wrap modulo 2^32; the mask keeps the low bits, which are those of the unsigned product.
    first, second, third = (prime - (1 << 32) if prime >= 1 << 31 else prime for prime in PRIMES)
    x, y, z = _corner_axes(both, (first, second, third))
    return (x ^ y ^ z) & ((1 << spec.log2_table) - 1)
