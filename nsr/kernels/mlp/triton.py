"""Small ReLU networks in Triton: all layers in one kernel, and all gradients in another.

Samples are the rows of every matrix tile (B), weights the second operands. Inputs, outputs and their gradients are
feature-major, so that neighbouring threads touch neighbouring samples. Programs handle blocks `program, program + programs,
...`; the backward kernel recomputes the hidden layers, and keeps the weights' gradients until it has seen its last block. With
`h` the hidden values and `d` the gradients by their sums,

    d_last = (W_out^T to_out) [h_last > 0],  d_1 = (W_2^T d_2) [h_1 > 0],  to_W = d^T (layer's input),  to_x = W_1^T d_1.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from nsr.kernels.gpu import interpreted, processor_count
from nsr.kernels.hashgrid.storage import device_int
from nsr.kernels.mlp import reference
from nsr.kernels.mlp.triton_kernels import mlp_backward, mlp_forward

# Operands of the products, accumulated in float32 either way. The tensor cores round float32 to tf32; the errors against
# float64, emulated for 37-64-64-3, are 0.1 to 0.2 % of the outputs' root mean square, and 0.5 % with bfloat16, which is
# faster. Gradients of inputs, where some units near zero switch, differ by 2 % and 5 %.
_FORWARD_KIND = _BACKWARD_KIND = tl.float32
_MOST_INPUTS, _HIDDEN, _MOST_OUTPUTS, _MOST_LAYERS = 64, (32, 64), 16, 2
_MOST_ROWS = 2**31 // _MOST_INPUTS - 1  # places within a block are of 32 bits


class Shape(NamedTuple):
    """Samples a block, warps a program, programs a multiprocessor."""

    block: int
    warps: int
    programs: int


# The backward's registers allow 8 warps a multiprocessor. Ampere's products hold whole operands in registers too, so that
# larger blocks would spill; those of Hopper and of data centre Blackwell read them from shared memory.
FORWARD, BACKWARD, BACKWARD_AMPERE = Shape(64, 4, 16), Shape(128, 8, 1), Shape(16, 4, 2)


class Layers(NamedTuple):
    """Parameters of one network as the kernels take them, without autograd.

    Attributes:
        weights: one (out, in) per layer. biases: one (out,) per layer, or none at all.
        sigmoid: the outputs pass through the logistic function.
    """

    weights: list[Tensor]
    biases: list[Tensor]
    sigmoid: bool


def mlp(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    *,
    count: Tensor | None = None,
    sigmoid: bool = False,
) -> Tensor:
    """See `nsr.kernels.mlp.mlp`.

    Networks that are not `fused`, and more than 2^25 rows at once, are composed of torch's operations, as the reference is.
    """
    if not fused(weights) or max(len(x), x.stride(1)) > _MOST_ROWS:
        return reference.mlp(x, weights, biases, count=count, sigmoid=sigmoid)
    used = device_int(len(x) if count is None else count, x.device)
    out: Tensor = _FusedMlp.apply(x.float(), used, sigmoid, *_floats(weights), *_floats(biases))
    return out.T.to(x.dtype)


def mlp_pair(
    x: Tensor, first: reference.Parameters, second: reference.Parameters, extra: Tensor, *, count: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """See `nsr.kernels.mlp.mlp_pair`; the second network reads what the first wrote, and their gradients meet in one array."""
    if not (fused(first[0]) and fused(second[0])) or max(len(x), x.stride(1)) > _MOST_ROWS:
        return reference.mlp_pair(x, first, second, extra, count=count)
    used = device_int(len(x) if count is None else count, x.device)
    parts = [part for network in (first, second) for group in network for part in _floats(group)]
    value, out = _FusedPair.apply(x.float(), extra.float(), used, (len(first[0]), len(second[0])), *parts)
    return value, out.T


def fused(weights: Sequence[Tensor]) -> bool:
    """Whether the kernels cover a network: 1 or 2 hidden layers of 32 or 64 units each, up to 64 inputs and 16 outputs."""
    *hidden, outputs = (len(weight) for weight in weights)
    equal = len(set(hidden)) == 1 and hidden[0] in _HIDDEN and len(hidden) <= _MOST_LAYERS
    return equal and weights[0].shape[1] <= _MOST_INPUTS and outputs <= _MOST_OUTPUTS


def run_forward(x: Tensor, layers: Layers, count: Tensor, out: Tensor) -> None:
    """Outputs of x (S, I) into `out` (O, S), whose rows are S apart."""
    if len(x):
        weights, biases = layers.weights, layers.biases
        mlp_forward[(_programs(len(x), FORWARD, x.device),)](
            x, *x.stride(), count, *_slots(weights), *_slots(biases or weights), out, len(x),
            **_constants(layers, FORWARD, _FORWARD_KIND),
        )  # fmt: skip


def run_backward(
    x: Tensor, layers: Layers, count: Tensor, out: Tensor, to_out: Tensor, to_x: Tensor | None
) -> tuple[list[Tensor], list[Tensor]]:
    """Gradients of the weights and of the biases, all in one piece of memory; that of the inputs into `to_x` (I, S).

    Args:
        out: (O, S) what `run_forward` wrote, read with `sigmoid` only. to_out: (O, S), any strides.
    """
    weights, biases = layers.weights, layers.biases
    to_weights, to_biases = zeros_like_each(weights, biases)
    if len(x):
        shape = _backward_shape(x.device)
        mlp_backward[(_programs(len(x), shape, x.device),)](
            x, *x.stride(), count, *_slots(weights), *_slots(biases or weights)[:2], out, to_out, *to_out.stride(),
            x if to_x is None else to_x, *_slots(to_weights), *_slots(to_biases or to_weights), len(x), INPUT=to_x is not None,
            **_constants(layers, shape, _BACKWARD_KIND),
        )  # fmt: skip
    return to_weights, to_biases


class _FusedMlp(torch.autograd.Function):
    """(S, I), (1,), weights and biases -> (O, S)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, count: Tensor, sigmoid: bool, *parts: Tensor | None) -> Tensor:
        layers = _layers(parts, sigmoid)
        out = torch.empty(len(layers.weights[-1]), len(x), device=x.device)
        run_forward(x, layers, count, out)
        ctx.save_for_backward(x, count, out, *parts)
        ctx.sigmoid = sigmoid
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, to_out: Tensor) -> tuple[Tensor | None, ...]:
        x, count, out, *parts = ctx.saved_tensors
        to_x = torch.empty(x.shape[1], len(x), device=x.device) if ctx.needs_input_grad[0] else None
        sums = run_backward(x, _layers(parts, ctx.sigmoid), count, out, to_out, to_x)
        return None if to_x is None else to_x.T, None, None, *_given(sums, parts)


class _FusedPair(torch.autograd.Function):
    """(S, I), (S, D), (1,), layers of both networks, their parameters -> (S,), (O, S)."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, extra: Tensor, count: Tensor, depths: tuple[int, int], *parts: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        first, second = _pair(parts, depths)
        outputs = len(first.weights[-1])
        shared = torch.empty(outputs + extra.shape[1], len(x), device=x.device)
        shared[outputs:].copy_(extra.T)
        run_forward(x, first, count, shared[:outputs])
        out = torch.empty(len(second.weights[-1]), len(x), device=x.device)
        run_forward(shared[1:].T, second, count, out)
        ctx.save_for_backward(x, shared, count, out, *parts)
        ctx.depths = depths
        return shared[0], out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, to_value: Tensor, to_out: Tensor) -> tuple[Tensor | None, ...]:
        x, shared, count, out, *parts = ctx.saved_tensors
        first, second = _pair(parts, ctx.depths)
        outputs = len(first.weights[-1])
        to_shared = torch.empty_like(shared)
        to_shared[0].copy_(to_value)
        to_second = run_backward(shared[1:].T, second, count, out, to_out, to_shared[1:])
        to_x = torch.empty(x.shape[1], len(x), device=x.device) if ctx.needs_input_grad[0] else None
        to_first = run_backward(x, first, count, shared, to_shared[:outputs], to_x)
        split = 2 * ctx.depths[0]
        given = (*_given(to_first, parts[:split]), *_given(to_second, parts[split:]))
        to_extra = to_shared[outputs:].T if ctx.needs_input_grad[1] else None
        return None if to_x is None else to_x.T, to_extra, None, None, *given


def zeros_like_each(*groups: list[Tensor]) -> tuple[list[Tensor], ...]:
    """Zeros of the shapes of float32 arrays, cleared by one operation: views of one piece of memory."""
    flat = iter(torch.zeros(sum(part.numel() for group in groups for part in group), device=groups[0][0].device).split(
        [part.numel() for group in groups for part in group]
    ))  # fmt: skip
    return tuple([next(flat).view(part.shape) for part in group] for group in groups)


def _floats(parts: Sequence[Tensor | None]) -> list[Tensor | None]:
    return [None if part is None else part.float() for part in parts]


def _layers(parts: Sequence[Tensor | None], sigmoid: bool) -> Layers:
    """From the weights followed by the biases; zeros in place of missing biases, an empty list where all are missing."""
    half = len(parts) // 2
    weights = [part.detach().contiguous() for part in parts[:half] if part is not None]
    biases = parts[half:]
    if all(bias is None for bias in biases):
        return Layers(weights, [], sigmoid)
    pairs = zip(biases, weights, strict=True)
    filled = [weight.new_zeros(len(weight)) if bias is None else bias.detach().contiguous() for bias, weight in pairs]
    return Layers(weights, filled, sigmoid)


def _pair(parts: Sequence[Tensor | None], depths: tuple[int, int]) -> tuple[Layers, Layers]:
    return _layers(parts[: 2 * depths[0]], sigmoid=False), _layers(parts[2 * depths[0] :], sigmoid=True)


def _given(sums: tuple[list[Tensor], list[Tensor]], parts: Sequence[Tensor | None]) -> list[Tensor | None]:
    """The gradients of those parameters that there are."""
    to_weights, to_biases = sums
    every = [*to_weights, *(to_biases or to_weights)]
    return [None if part is None else to for to, part in zip(every, parts, strict=True)]


def _slots(parts: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """First, middle and last layer's array, as the kernels take them; what stands for a missing middle layer is not read."""
    return parts[0], parts[1], parts[-1]


def _constants(layers: Layers, shape: Shape, kind: tl.dtype) -> dict[str, Any]:
    weights = layers.weights
    inputs = weights[0].shape[1]
    return {
        "INPUTS": inputs,
        "PADDED": max(16, triton.next_power_of_2(inputs)),
        "HIDDEN": len(weights[0]),
        "LAYERS": len(weights) - 1,
        "OUTPUTS": len(weights[-1]),
        "BIAS": len(layers.biases) > 0,
        "SIGMOID": layers.sigmoid,
        "KIND": tl.float32 if interpreted() else kind,  # the interpreter has no products of bfloat16
        "BLOCK": shape.block,
        "num_warps": shape.warps,
    }


def _programs(samples: int, shape: Shape, device: torch.device) -> int:
    return min(triton.cdiv(samples, shape.block), shape.programs * processor_count(device))


@cache
def _backward_shape(device: torch.device) -> Shape:
    wide = device.type != "cuda" or torch.cuda.get_device_capability(device)[0] in (9, 10)
    return BACKWARD if wide else BACKWARD_AMPERE
