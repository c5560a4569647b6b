"""Hash encoding and its slope in Triton, for any number of features a level.

Results are stored feature-major, (L * F, S), as the kernels want them; callers get the transpose.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from nsr.kernels.gpu import vector_atomics
from nsr.kernels.hashgrid.spec import HashGridSpec
from nsr.kernels.hashgrid.storage import TableStorage, device_int, level_tables
from nsr.kernels.hashgrid.triton_kernels import (
    gather_halves_kernel,
    gather_kernel,
    scatter_kernel,
    scatter_runs_kernel,
    slope_backward_kernel,
    slope_forward_kernel,
)

_BLOCK, _HALVES_BLOCK = 256, 128
# Samples that a lane takes in turn, and such runs of a program.
_RUN, _RUN_BLOCK = 8, 64


class Cube(NamedTuple):
    """Positions x have the unit cube's coordinate `(x - low) * stretch`."""

    low: float
    stretch: float


UNIT_CUBE, UNIT_FRAME = Cube(0.0, 1.0), Cube(-1.0, 0.5)


def encode(
    x: Tensor,
    table: Tensor,
    spec: HashGridSpec,
    active: int | Tensor,
    storage: TableStorage | None = None,
    count: Tensor | None = None,
) -> Tensor:
    """See `nsr.kernels.hashgrid.hash_encode`; `active` may be a device tensor."""
    used = device_int(len(x) if count is None else count, x.device)
    encoded: Tensor = _Encode.apply(x, table, spec, device_int(active, x.device), used, storage)
    return encoded.T


def pulled_slope(
    x: Tensor, table: Tensor, pull: Tensor, spec: HashGridSpec, active: int | Tensor, storage: TableStorage | None = None
) -> Tensor:
    """`J(x)^T pull`, J the encoding's Jacobian by the unit cube's position: x (S, 3), pull (S, L * F) -> (S, 3).

    Once differentiable in `table` and `pull`.
    """
    slope: Tensor = _PulledSlope.apply(x, table, pull.T, spec, device_int(active, x.device), storage)
    return slope.T


def gather(
    x: Tensor, values: Tensor, spec: HashGridSpec, cube: Cube, *, active: Tensor, count: Tensor, jacobian: bool
) -> tuple[Tensor, Tensor]:
    """Entries (L * F, S) float32 interpolated at x (S, 3), and their derivatives by x (3, L * F, S) float16 if wanted.

    Args:
        values: (E, F) float16 or float32. active, count: (1,) int32, levels and positions in use; nothing is written past
            `count`, and nothing costs anything past `active`.
    """
    rows = spec.levels * spec.features
    out = torch.empty(rows, len(x), device=x.device)
    derivatives = torch.empty(3 if jacobian else 0, rows, len(x), device=x.device, dtype=torch.float16)
    if not len(x):
        return out, derivatives
    levels = level_tables(spec, x.device)
    halves = values.dtype == torch.float16 and spec.features == 2
    kernel, block = (gather_halves_kernel, _HALVES_BLOCK) if halves else (gather_kernel, _BLOCK)
    tables = (values.view(-1).view(torch.int64), values.view(-1).view(torch.int32)) if halves else (values,)
    kernel[(triton.cdiv(len(x), block), spec.levels)](
        x, *tables, levels.scale, levels.meta, active, count, out, derivatives, len(x), len(levels.scale), *cube,
        **({} if halves else {"F": spec.features}), JACOBIAN=jacobian, BLOCK=block,
    )  # fmt: skip
    return out, derivatives


def scatter(
    x: Tensor, grad: Tensor, spec: HashGridSpec, cube: Cube, *, active: Tensor, count: Tensor, sink: Tensor,
    pull: Tensor | None = None, push: Tensor | None = None,
) -> None:  # fmt: skip
    """Adjoint of `gather`: adds to `sink` (E, F) float32 what `grad` (L * F, S) and the derivatives' gradient amount to.

    The derivatives' gradient is the product of `pull` (L * F, S), contiguous, and `push` (3, S).
    """
    if not len(x):
        return
    levels = level_tables(spec, x.device)
    strides = (push.stride(0), push.stride(1)) if push is not None else (0, 0)
    arrays = (
        x, levels.scale, levels.meta, active, count, grad, *grad.stride(),
        grad if pull is None else pull, grad if push is None else push, *strides, sink, len(x), len(levels.scale), *cube,
    )  # fmt: skip
    if spec.features == 2:
        scatter_runs_kernel[(triton.cdiv(len(x), _RUN * _RUN_BLOCK), spec.levels)](
            *arrays, PUSH=pull is not None, VECTOR=vector_atomics(x.device), RUN=_RUN, BLOCK=_RUN_BLOCK
        )
    else:
        scatter_kernel[(triton.cdiv(len(x), _BLOCK), spec.levels)](*arrays, F=spec.features, PUSH=pull is not None, BLOCK=_BLOCK)


class _Encode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, table: Tensor, *rest: Any) -> Tensor:
        spec, active, count, storage = rest
        x, values = x.float().contiguous(), (storage.values if storage else table.detach()).contiguous()
        ctx.save_for_backward(x, table, active, count)
        ctx.spec, ctx.storage = spec, storage
        return gather(x, values, spec, UNIT_CUBE, active=active, count=count, jacobian=False)[0]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, table, active, count = ctx.saved_tensors
        storage = ctx.storage
        sink = storage.gradient if storage else torch.zeros_like(table, dtype=torch.float32)
        scatter(x, grad.float(), ctx.spec, UNIT_CUBE, active=active, count=count, sink=sink)
        return None, None if storage else sink.to(table.dtype), None, None, None, None


class _PulledSlope(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, table: Tensor, pull: Tensor, *rest: Any) -> Tensor:
        spec, active, storage = rest
        x, values = x.float().contiguous(), (storage.values if storage else table.detach()).contiguous()
        pull = pull.float()
        out = torch.empty(3, len(x), device=x.device)
        levels = level_tables(spec, x.device)
        if len(x):
            slope_forward_kernel[(triton.cdiv(len(x), _BLOCK),)](
                x, values, levels.scale, levels.meta, active, pull, pull.stride(0), pull.stride(1), out, len(x),
                len(levels.scale), LEVELS=spec.levels, F=spec.features, BLOCK=_BLOCK,
            )  # fmt: skip
        ctx.save_for_backward(x, table, pull, active)
        ctx.spec, ctx.storage = spec, storage
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor | None, Tensor, None, None, None]:
        x, table, pull, active = ctx.saved_tensors
        spec, storage = ctx.spec, ctx.storage
        values = (storage.values if storage else table.detach()).contiguous()
        sink = storage.gradient if storage else torch.zeros_like(table, dtype=torch.float32)
        to_pull = torch.empty(spec.levels * spec.features, len(x), device=x.device)
        levels = level_tables(spec, x.device)
        grad = grad.float()
        if len(x):
            grid = (triton.cdiv(len(x), _BLOCK), spec.levels)
            slope_backward_kernel[grid](
                x, values, levels.scale, levels.meta, active, pull, pull.stride(0), pull.stride(1), grad, grad.stride(0),
                grad.stride(1), to_pull, sink, len(x), len(levels.scale), F=spec.features, BLOCK=_BLOCK,
            )  # fmt: skip
        return None, None if storage else sink.to(table.dtype), to_pull, None, None, None
