"""NeuS volume rendering of packed samples: opacity, transmittance and the sums over each ray in one operation."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

from nsr.kernels.backend import choose
from nsr.kernels.gpu import require_triton
from nsr.kernels.neus import reference
from nsr.kernels.packed import Packed

__all__ = ["RaySums", "neus_composite"]


class RaySums(NamedTuple):
    """Sums over the samples of R rays, 0 for rays without samples; `w` are the weights of the samples.

    Attributes:
        colour: (R, 3) sum of `w * colour`. normal: (R, 3) sum of `w * n`, `n` the unit normals.
        depth: (R,) sum of `w * t`, not divided by the opacity. opacity: (R,) sum of `w`, in [0, 1].
        eikonal: (R,) sum of `(|gradient| - 1)^2`, unweighted.
        distortion: (R,) `sum_ij w_i w_j |t_i - t_j| + sum_i w_i^2 step / 3` (Barron et al. 2022, mip-NeRF 360, eq. 15).
        weights: (N,) `w`, 0 in rows of no ray; not differentiable.
    """

    colour: Tensor
    normal: Tensor
    depth: Tensor
    opacity: Tensor
    eikonal: Tensor
    distortion: Tensor
    weights: Tensor


def _triton(*arrays: Any, **options: Any) -> tuple[Tensor, ...]:
    require_triton(arrays[0].device)
    from nsr.kernels.neus import triton

    return triton.neus_composite(*arrays, **options)


_IMPLEMENTATIONS = {"reference": reference.neus_composite, "triton": _triton}


def neus_composite(
    sdf: Tensor,
    gradient: Tensor,
    colour: Tensor,
    t: Tensor,
    direction: Tensor,
    packed: Packed,
    *,
    sharpness: Tensor,
    cosine_ratio: Tensor,
    step: float,
    backend: str = "reference",
) -> RaySums:
    """Render rays from what the field says of their samples (Wang et al. 2021, NeuS).

    The cosine of direction and unit normal `n = gradient / max(|gradient|, 1e-6)` is annealed, gives the opacity of the
    sample's segment (see `nsr.kernels.neus.alpha`), and with the transmittance of the ray's earlier samples its weight.

    Args:
        sdf, t: (N,) of the samples, near to far within each ray. gradient, colour: (N, 3), any strides.
        direction: (R, 3) of length 1.
        packed: the samples of ray r are the rows from `starts[r]` on, `counts[r]` of them. Rows of no ray are not read, and
            their gradients are 0. `ray` is not read; integers of any width.
        sharpness: one number, 1/s. cosine_ratio: (1,), see `annealed_cosine`; 1 when not training.
        step: length of a sample's segment, unit frame.
        backend: `triton` never waits for the device, so that a graph can capture it. It ends a ray early: after a block of 32
            samples that leaves a transmittance under 1e-5 the ray's other samples have weight 0, and of the gradients only
            that of the Eikonal sum. Opacity is then too low by less than 1e-5, colour by that times the brightest sample.

    Returns:
        RaySums; once differentiable in `sdf`, `gradient`, `colour` and `sharpness` but for `weights`.

    Raises:
        ValueError: shapes do not fit. BackendUnavailable: see `choose`.
    """
    rows, rays = len(sdf), len(direction)
    fits = tuple(gradient.shape) == tuple(colour.shape) == (rows, 3) and tuple(sdf.shape) == tuple(t.shape) == (rows,)
    if not fits or tuple(direction.shape) != (rays, 3):
        shapes = [tuple(part.shape) for part in (sdf, gradient, colour, t, direction)]
        raise ValueError(f"neus_composite: sdf, gradient, colour, t, direction {shapes}")
    if not tuple(packed.starts.shape) == tuple(packed.counts.shape) == (rays,):
        raise ValueError(f"neus_composite: starts {tuple(packed.starts.shape)}, counts {tuple(packed.counts.shape)}, {rays} rays")
    if sharpness.numel() != 1 or tuple(cosine_ratio.shape) != (1,):
        raise ValueError(f"neus_composite: sharpness {tuple(sharpness.shape)}, cosine_ratio {tuple(cosine_ratio.shape)}")
    run = choose("neus_composite", _IMPLEMENTATIONS, backend)
    sums = run(sdf, gradient, colour, t, direction, packed, sharpness=sharpness, cosine_ratio=cosine_ratio, step=step)
    return RaySums(*sums)
