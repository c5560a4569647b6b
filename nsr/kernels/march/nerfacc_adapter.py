"""Ray marching by nerfacc 0.5 (Li et al. 2023), which walks the grid cell by cell and runs on CUDA GPUs only."""

from __future__ import annotations

import importlib
from functools import cache
from typing import Any

import torch
from torch import Tensor

from nsr.errors import BackendUnavailable
from nsr.kernels.march.reference import ball_interval


def march(origin: Tensor, direction: Tensor, occupied: Tensor, step: float, jitter: Tensor) -> tuple[Tensor, Tensor]:
    """See `nsr.kernels.march.march`; returns midpoints (S,) and counts (R,)."""
    package = require_nerfacc(origin.device)
    near, far = ball_interval(origin, direction)
    if not len(origin):
        return near, torch.zeros(0, dtype=torch.int64, device=origin.device)
    # The package's first sample is half a step past the near plane, ours `jitter` steps past the ball's surface.
    start = near + (jitter - 0.5) * step
    _, samples, _ = package.traverse_grids(
        origin.float(),
        direction.float(),
        occupied[None],
        _cube(origin.device),
        near_planes=start.float(),
        far_planes=far.float(),
        step_size=step,
    )
    ray = samples.ray_indices
    # It adds up steps, which drifts by some hundredths of a step along a ray; the number of steps is exact.
    number = ((samples.vals - near[ray]) / step - jitter[ray]).round()
    return near[ray] + (number + jitter[ray]) * step, samples.packed_info[:, 1]


def require_nerfacc(device: torch.device) -> Any:
    """The package `nerfacc`, its CUDA sources compiled.

    Raises:
        BackendUnavailable: it is not installed, too old, cannot be compiled, or `device` is no CUDA GPU.
    """
    try:
        package = importlib.import_module("nerfacc")
    except ImportError as error:
        raise BackendUnavailable(
            "march: the package nerfacc is not installed; pip install 'nerfacc>=0.5.3,<0.6', or use train.march.backend=reference"
        ) from error
    if device.type != "cuda":
        raise BackendUnavailable(
            f"march: nerfacc needs a CUDA GPU, the device is '{device}'; use device=cuda, or train.march.backend=reference"
        )
    reason = _obstacle()
    if reason:
        raise BackendUnavailable(f"march: {reason}; or use train.march.backend=reference")
    return package


@cache
def _obstacle() -> str:
    """Why the installed package cannot run here, with the remedy; empty if it can. The first call may compile for minutes."""
    if not hasattr(importlib.import_module("nerfacc"), "traverse_grids"):
        return "nerfacc is older than 0.5; pip install 'nerfacc>=0.5.3,<0.6'"
    try:
        compiled = importlib.import_module("nerfacc.cuda._backend")._C
    except (ImportError, OSError, RuntimeError) as error:
        cause = (str(error) or type(error).__name__).splitlines()[0]
        return f"nerfacc's CUDA sources do not compile ({cause}); install the CUDA toolkit of torch's version"
    return (
        "" if compiled is not None else "nerfacc compiles its CUDA sources with nvcc, which is missing; install the CUDA toolkit"
    )


@cache
def _cube(device: torch.device) -> Tensor:
    """The grid's box as the package takes it, (1, 6)."""
    return torch.tensor([[-1.0, -1.0, -1.0, 1.0, 1.0, 1.0]], device=device)
