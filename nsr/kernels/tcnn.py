"""Modules of tiny-cuda-nn (Mueller et al. 2021) run with our parameters.

The package is optional and imported only when its back end is asked for. What it computes natively has the precision it
was built for, half on every GPU since Volta; parameters, inputs and gradients stay float32 on our side.
"""

from __future__ import annotations

import importlib
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nsr.errors import BackendUnavailable

_ROWS = 256  # batches are multiples of this in every version of the package
# Half overflows at 65504. The factor leaves room for sums in which activations and weights larger than 1 take part.
_LARGEST_SUM = 1024.0
_FACTOR_BITS = 64  # the factor of a vanishing gradient stays finite


class Native(NamedTuple):
    """A module of the package's C++ side and the precision it computes in."""

    module: Any
    dtype: torch.dtype


def require_tinycudann(device: torch.device) -> Any:
    """The package `tinycudann`.

    Raises:
        BackendUnavailable: it is not installed or not for this GPU, or `device` is no CUDA GPU.
    """
    try:
        package = importlib.import_module("tinycudann")
    except ModuleNotFoundError as error:
        raise BackendUnavailable(
            "back end 'tcnn': the package tinycudann is not installed; build it as environment.yml says, or use backend=reference"
        ) from error
    except (ImportError, OSError) as error:
        # Built for another GPU or torch, or no GPU is visible; the package reports the latter as OSError.
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise BackendUnavailable(
            f"back end 'tcnn': the package tinycudann cannot be loaded ({reason}); "
            "build it again as environment.yml says, or use backend=reference"
        ) from error
    if device.type != "cuda":
        raise BackendUnavailable(
            f"back end 'tcnn': it needs a CUDA GPU, the device is '{device}'; use device=cuda, or backend=reference"
        )
    return package


def native(package: Any, kind: str, device: torch.device, *arguments: Any) -> Native:
    """The native part of `tinycudann.<kind>(*arguments)`, made on `device`; the parameters made with it are dropped.

    Raises:
        BackendUnavailable: the package refuses the arguments.
    """
    try:
        with torch.cuda.device(device):
            whole = getattr(package, kind)(*arguments)
    except RuntimeError as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise BackendUnavailable(
            f"back end 'tcnn': tinycudann.{kind} refuses this model ({reason}); use backend=reference"
        ) from error
    return Native(whole.native_tcnn_module, whole.dtype)


def evaluate(net: Native, x: Tensor, params: Tensor) -> Tensor:
    """Run a native module.

    Args:
        x: (S, I). params: (P,) in the module's own layout.

    Returns:
        (S, O) float32, O as the module pads it. Once differentiable in `x` and `params`.
    """
    if not torch.is_grad_enabled():
        x, params = x.detach(), params.detach()
    out: Tensor = _Evaluate.apply(net, x, params)
    return out


class _Evaluate(torch.autograd.Function):
    """Forward and backward of a native module.

    The package's own autograd function multiplies gradients by 128, whatever their size, and divides by it in half
    precision, where small ones are lost after all. Here the factor follows the gradient and is taken out in float32.
    """

    @staticmethod
    def forward(ctx: Any, net: Native, x: Tensor, params: Tensor) -> Tensor:
        rows = max(1, -(-len(x) // _ROWS)) * _ROWS
        inputs = torch.nn.functional.pad(x.detach().float(), (0, 0, 0, rows - len(x))).contiguous()
        halves = params.detach().to(net.dtype).contiguous()
        # The native side keeps what a backward pass needs, and computes gradients, only for tensors marked like this.
        inputs.requires_grad_(ctx.needs_input_grad[1])
        halves.requires_grad_(ctx.needs_input_grad[2])
        ctx.context, out = net.module.fwd(inputs, halves)
        ctx.save_for_backward(inputs, halves, out)
        ctx.net, ctx.samples = net, len(x)
        return out[: len(x)].to(torch.float32, copy=True)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor | None, Tensor | None]:
        inputs, halves, out = ctx.saved_tensors
        factor = gradient_factor(grad)
        scaled = torch.nn.functional.pad(grad * factor, (0, 0, 0, len(inputs) - ctx.samples))
        to_x, to_params = ctx.net.module.bwd(ctx.context, inputs, halves, out, scaled.to(ctx.net.dtype).contiguous())
        return (
            None,
            to_x[: ctx.samples].float() / factor if ctx.needs_input_grad[1] else None,
            to_params.float() / factor if ctx.needs_input_grad[2] else None,
        )


def gradient_factor(grad: Tensor) -> Tensor:
    """Power of two that brings a gradient (S, O) into the range of half precision; scalar, without waiting for the GPU.

    No sum of magnitudes over samples, the most a parameter can collect, exceeds `_LARGEST_SUM`; a sample's share of 1e-10 of
    it is still a half above 0.
    """
    largest = grad.abs().sum(0).max().clamp(min=torch.finfo(torch.float32).tiny)
    return torch.exp2(torch.log2(_LARGEST_SUM / largest).floor().clamp(-_FACTOR_BITS, _FACTOR_BITS))
