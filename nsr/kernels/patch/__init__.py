"""Photometric consistency where rays cross the zero level: normalised cross-correlation of patches between photographs."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from nsr.kernels.backend import choose
from nsr.kernels.gpu import require_triton
from nsr.kernels.packed import Packed
from nsr.kernels.patch import reference
from nsr.kernels.patch.tables import PatchLoss, PatchRays, PatchShape, PatchTables

__all__ = ["PatchLoss", "PatchRays", "PatchShape", "PatchTables", "patch_loss"]


def _triton(*arrays: Any, **options: Any) -> PatchLoss:
    require_triton(arrays[0].device)
    from nsr.kernels.patch import triton

    return triton.patch_loss(*arrays, **options)


_IMPLEMENTATIONS = {"reference": reference.patch_loss, "triton": _triton}


def patch_loss(
    sdf: Tensor,
    gradient: Tensor,
    t: Tensor,
    packed: Packed,
    rays: PatchRays,
    tables: PatchTables,
    *,
    shape: PatchShape,
    step: float,
    backend: str = "reference",
) -> PatchLoss:
    """1 - NCC of the patch around each ray's pixel and its images in other views (Fu et al. 2022, Geo-NeuS, eq. 9 to 13).

    A ray's first sample that is not outside and the one before it give the crossing `t* = t0 + (t1 - t0) f0 / (f0 - f1)`,
    and their gradients, interpolated there, the normal n of a plane. By the plane's homography the patch is found in the
    sources of the ray's view, bilinearly. Of the sources that see it the `best` with the least 1 - NCC are averaged
    (Galliani et al. 2015). A view of centre c and the source's projection A = K R, with q the direction of a pixel, depth 1:
    `A (q + (c - c_source) (n . q) / (t* n . d))` is the pixel's place in the source, up to scale.

    A ray has no loss if its first sample is inside already, nothing follows on the last one outside within 1.5 steps, the
    distance falls by less than 0.1 a length there, the normal is 69.5 degrees or more off the way back along the ray, or the
    patch leaves the photograph. A source is left out under such an angle, where the patch leaves its photograph, where grey
    levels deviate by less than 2 of 255 from their mean in either, and where 1 - NCC is 0.9 or more, which means that
    something else is seen there.

    Args:
        sdf, t: (N,) of the samples, near to far within each ray. gradient: (N, 3), any strides.
        packed: the samples of ray r are the rows from `starts[r]` on, `counts[r]` of them; `ray` is not read. May hold more
            rays than `rays`.
        rays: R rays. step: length between neighbouring samples of a ray, unit frame.
        backend: `triton` never waits for the device, so that a graph can capture it.

    Returns:
        PatchLoss; `loss` is once differentiable in `sdf`, by way of t*; the normal is taken as given.

    Raises:
        ValueError: shapes do not fit. BackendUnavailable: see `choose`.
    """
    rows, count = len(sdf), len(rays.view)
    if tuple(t.shape) != (rows,) or tuple(gradient.shape) != (rows, 3) or tuple(rays.direction.shape) != (count, 3):
        shapes = [tuple(part.shape) for part in (sdf, gradient, t, rays.direction, rays.view)]
        raise ValueError(f"patch_loss: sdf, gradient, t, direction, view {shapes}")
    if min(len(packed.starts), len(packed.counts)) < count:
        raise ValueError(f"patch_loss: samples of {len(packed.starts)} rays for {count} rays")
    if shape.size < 3 or shape.size % 2 == 0 or shape.spacing < 1 or shape.best < 1:
        raise ValueError(f"patch_loss: {shape}; size must be odd and at least 3, spacing and best at least 1")
    own = Packed(packed.ray, packed.starts[:count], packed.counts[:count])
    run = choose("patch_loss", _IMPLEMENTATIONS, backend)
    found: PatchLoss = run(sdf, gradient, t, own, rays, tables, shape=shape, step=step)
    return found
