"""Random training rays from photographs that lie on the device as bytes."""

from __future__ import annotations

from torch import Tensor

from nsr.kernels.backend import choose
from nsr.kernels.gpu import require_triton
from nsr.kernels.rays import reference
from nsr.kernels.rays.tables import DrawnRays, PixelTables

__all__ = ["DrawnRays", "PixelTables", "draw_rays"]


def _triton(pixels: PixelTables, count: int, *, seed: int, step: Tensor) -> DrawnRays:
    require_triton(pixels.colours.device)
    from nsr.kernels.rays import triton

    return triton.draw_rays(pixels, count, seed=seed, step=step)


_IMPLEMENTATIONS = {"reference": reference.draw_rays, "triton": _triton}


def draw_rays(pixels: PixelTables, count: int, *, seed: int, step: Tensor, backend: str = "reference") -> DrawnRays:
    """`count` random rays through pixel centres, every pixel of every window equally likely.

    All random numbers follow from `seed`, `step` and the ray's index (see `nsr.kernels.rays.philox`), the same for all back
    ends. None of them waits for the device.

    Args:
        seed: in [-2^63, 2^63). step: (1,) integer on the tables' device.

    Raises:
        ValueError: no rays, or `step` is not one number. BackendUnavailable: see `choose`.
    """
    if count < 1 or tuple(step.shape) != (1,) or step.is_floating_point():
        raise ValueError(f"draw_rays: {count} rays, step {tuple(step.shape)} {step.dtype}")
    rays: DrawnRays = choose("draw_rays", _IMPLEMENTATIONS, backend)(pixels, count, seed=seed, step=step)
    return rays
