"""Choice of the torch device."""

from __future__ import annotations

import re

import torch

from nsr.errors import DeviceUnavailable


def pick_device(name: str) -> torch.device:
    """`auto` (a GPU if there is one), `cpu`, `cuda` or `cuda:N`.

    Raises:
        DeviceUnavailable: a GPU is asked for and there is none, or the name is unknown.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise DeviceUnavailable(f"device '{name}' is unknown; use auto, cpu, cuda or cuda:N")
    device = torch.device(name)
    if device.type == "cuda" and (not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()):
        raise DeviceUnavailable(
            f"device '{name}' was asked for, but torch {torch.__version__} sees {torch.cuda.device_count()} GPUs; "
            "use device auto or cpu, or install a CUDA build of torch and check nvidia-smi"
        )
    return device


def reset_peak_memory(device: torch.device) -> None:
    """Start a new measurement of the peak of allocated GPU memory."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory_mb(device: torch.device) -> float:
    """Peak of allocated GPU memory in MB since the last reset; 0 on the CPU."""
    return torch.cuda.max_memory_allocated(device) / 1e6 if device.type == "cuda" else 0.0


def device_name(device: torch.device) -> str:
    """Name for results: the GPU's model or `cpu`."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
