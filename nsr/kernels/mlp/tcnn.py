"""ReLU networks of tiny-cuda-nn: the fully fused one for the widths it has, the one built on CUTLASS for others."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from nsr.errors import BackendUnavailable
from nsr.kernels.tcnn import Native, evaluate, native, require_tinycudann

_FUSED_WIDTHS = (16, 32, 64, 128)
_WIDTH_MULTIPLE = 8  # what CUTLASS' tensor core products need


class Network(NamedTuple):
    """A native network and the numbers of inputs and outputs it is padded to."""

    net: Native
    inputs: int
    outputs: int


def mlp(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor | None]) -> Tensor:
    """See `nsr.kernels.mlp.mlp`; computed in half precision.

    Raises:
        BackendUnavailable: there are biases, hidden layers differ in width, or the package is not usable.
    """
    if any(bias is not None for bias in biases):
        raise BackendUnavailable(
            "back end 'tcnn': tiny-cuda-nn's networks have no biases; set model.radiance.bias=false, or use backend=reference"
        )
    require_tinycudann(x.device)
    outputs = weights[-1].shape[0]
    network = _network((weights[0].shape[1], *(len(weight) for weight in weights)), x.device)
    return evaluate(network.net, x, pack(weights, network.inputs, network.outputs))[:, :outputs]


def pack(weights: Sequence[Tensor], inputs: int, outputs: int) -> Tensor:
    """One flat vector of all matrices (out, in), row by row, with zeros where inputs and outputs are padded.

    The package pads inputs with ones, so the zeros are what keeps them without effect.
    """
    padded = list(weights)
    padded[0] = pad(padded[0], (0, inputs - padded[0].shape[1]))
    padded[-1] = pad(padded[-1], (0, 0, 0, outputs - padded[-1].shape[0]))
    return torch.cat([weight.reshape(-1) for weight in padded])


@cache
def _network(sizes: tuple[int, ...], device: torch.device) -> Network:
    """The package's network of these layer widths, from the inputs to the outputs."""
    inputs, *hidden, outputs = sizes
    if len(set(hidden)) > 1 or any(width % _WIDTH_MULTIPLE for width in hidden):
        raise BackendUnavailable(
            f"back end 'tcnn': hidden layers of {hidden} units; tiny-cuda-nn needs equal widths, multiples of {_WIDTH_MULTIPLE}; "
            "change the network, or use backend=reference"
        )
    width = hidden[0] if hidden else _WIDTH_MULTIPLE
    settings = {
        "otype": "FullyFusedMLP" if hidden and width in _FUSED_WIDTHS else "CutlassMLP",
        "activation": "ReLU",
        "output_activation": "None",
        "n_neurons": width,
        "n_hidden_layers": len(hidden),
    }
    net = native(require_tinycudann(device), "Network", device, inputs, outputs, settings)
    padded = net.module.n_output_dims()
    # The number of parameters tells how inputs are padded, which the package does not.
    later = (len(hidden) - 1) * width**2 + padded * width if hidden else 0
    columns, rest = divmod(net.module.n_params() - later, width if hidden else padded)
    if rest or columns < inputs:
        raise BackendUnavailable(
            f"back end 'tcnn': this version of tiny-cuda-nn packs a network of widths {sizes} into {net.module.n_params()} "
            "parameters, in no layout known here; use backend=reference"
        )
    return Network(net, columns, padded)
