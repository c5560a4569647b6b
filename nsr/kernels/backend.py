"""Choice of a kernel's implementation by name, without silent fallback."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from nsr.errors import BackendUnavailable
from nsr.kernels.gpu import triton_usable


def choose(operation: str, implementations: Mapping[str, Callable[..., Any]], backend: str) -> Callable[..., Any]:
    """The implementation of `operation` that `backend` names.

    Raises:
        BackendUnavailable: there is none of that name; the message lists those there are.
    """
    if backend not in implementations:
        raise BackendUnavailable(f"{operation}: no back end '{backend}' here; available: {', '.join(sorted(implementations))}")
    return implementations[backend]


def resolve_backend(name: str, device: torch.device) -> str:
    """The back end that a setting means on a device: `auto` is `triton` on a GPU that can run it, `reference` elsewhere.

    Any other name is returned as it is, so that an explicit choice that cannot be had is an error, not a slow run.
    """
    if name != "auto":
        return name
    return "triton" if device.type == "cuda" and triton_usable(device) else "reference"
