"""What Triton kernels need to know of the machine: is it there, is it good enough, how wide is it.

Triton is imported here, in `ahead` and in the modules named `triton*` only, and those only when their back end is asked for.
"""

from __future__ import annotations

import os
from functools import cache

import torch

from nsr.errors import BackendUnavailable

# Tensor cores with 32-bit accumulation of tf32 and bf16 operands exist since Ampere.
_LEAST_CAPABILITY = (8, 0)


def interpreted() -> bool:
    """Whether Triton's interpreter runs the kernels, on the CPU (`TRITON_INTERPRET=1`, read when Triton is imported)."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def require_triton(device: torch.device) -> None:
    """Refuse a machine on which the Triton kernels cannot run.

    Raises:
        BackendUnavailable: Triton is not installed, `device` is no CUDA GPU, or the GPU is older than Ampere.
    """
    reason = _obstacle(device.type, device.index)
    if reason:
        raise BackendUnavailable(f"back end 'triton': {reason}")


def triton_usable(device: torch.device) -> bool:
    """Whether `require_triton` would let this device pass."""
    return not _obstacle(device.type, device.index)


@cache
def _obstacle(kind: str, index: int | None) -> str:
    try:
        import triton  # noqa: F401
    except ImportError:
        return "the package triton is not installed; it comes with torch's CUDA builds for Linux, or use backend=reference"
    if interpreted():
        return ""
    if kind != "cuda" or not torch.cuda.is_available():
        return f"it needs a CUDA GPU, the device is '{kind}'; use device=cuda, or backend=reference"
    capability = torch.cuda.get_device_capability(index)
    if capability < _LEAST_CAPABILITY:
        name = torch.cuda.get_device_name(index)
        return (
            f"{name} has compute capability {capability[0]}.{capability[1]}, needed is "
            f"{_LEAST_CAPABILITY[0]}.{_LEAST_CAPABILITY[1]} (Ampere) or newer; use backend=reference"
        )
    return ""


@cache
def processor_count(device: torch.device) -> int:
    """Streaming multiprocessors of a GPU; 2 under the interpreter, so that loops over blocks are exercised."""
    if device.type != "cuda":
        return 2
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


@cache
def vector_atomics(device: torch.device) -> bool:
    """Whether the GPU adds two neighbouring floats in one atomic operation (`red.global.add.v2.f32`: Hopper and newer)."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (9, 0)
