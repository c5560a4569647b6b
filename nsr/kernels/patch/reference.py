"""Patches at the zero level in plain torch; the derivative is autograd's."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from nsr.conventions import PIXEL_CENTRE
from nsr.kernels.packed import Packed
from nsr.kernels.patch.tables import (
    GRAZING,
    HIDDEN,
    LEAST_DEVIATION,
    LEAST_SLOPE,
    PatchLoss,
    PatchRays,
    PatchShape,
    PatchTables,
)


class Crossing(NamedTuple):
    """Where C of the rays enter the object: `ray` (C,) their indices, `t` (C,) distance along them, `normal` (C, 3)."""

    ray: Tensor
    t: Tensor
    normal: Tensor


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
) -> PatchLoss:
    """See `nsr.kernels.patch.patch_loss`."""
    count, dtype = len(rays.view), sdf.dtype
    loss, used = sdf.new_zeros(count), torch.zeros(count, dtype=torch.bool, device=sdf.device)
    hit = first_crossing(sdf, gradient, t, packed, step=step)
    direction, view = rays.direction[hit.ray].to(dtype), rays.view[hit.ray].long()
    cosine = (hit.normal * direction).sum(1)
    column, row = _patch_pixels(rays.column[hit.ray], rays.row[hit.ray], shape)
    keep = torch.nonzero((cosine < -GRAZING) & _within(column, row, tables.sizes[view]))[:, 0]
    if not len(keep):
        return PatchLoss(loss, used)
    hit, view, cosine = Crossing(*(part[keep] for part in hit)), view[keep], cosine[keep]
    column, row, direction = column[keep], row[keep], direction[keep]
    own = tables.grey[tables.starts[view][:, None] + row * tables.sizes[view, :1] + column].to(dtype)
    pixel = torch.stack([column + PIXEL_CENTRE, row + PIXEL_CENTRE, torch.ones_like(column)], dim=2).to(dtype)
    towards = torch.einsum("rij,rpj->rpi", tables.towards[view].to(dtype), pixel)
    scaled = torch.einsum("rpi,ri->rp", towards, hit.normal) / (hit.t * cosine)[:, None]
    source = tables.sources[view].long()
    place, seen = _places(towards, scaled, view, source, tables)
    point = tables.centre[view].to(dtype) + hit.t.detach()[:, None] * direction
    there = normalize(tables.centre[source.clamp(min=0)].to(dtype) - point[:, None], dim=2)
    seen = seen & ((there * hit.normal[:, None]).sum(2) > GRAZING) & (source >= 0)
    cost = _one_minus_ncc(own, *_bilinear(place, source.clamp(min=0), tables, seen))
    mean, some = _mean_of_best(cost, shape.best)
    return PatchLoss(loss.index_put((hit.ray,), mean), used.index_put((hit.ray,), some))


def first_crossing(sdf: Tensor, gradient: Tensor, t: Tensor, packed: Packed, *, step: float) -> Crossing:
    """The crossings of all rays that have one; `t` is differentiable in `sdf`."""
    own = Packed.from_counts(packed.counts.long())
    number = torch.arange(len(own.ray), device=sdf.device) - own.starts[own.ray]
    rows = number + packed.starts.long()[own.ray]
    none = len(sdf)
    place = torch.where(sdf[rows] <= 0, number, none)
    first = torch.full_like(own.counts, none).scatter_reduce_(0, own.ray, place, "amin")
    ray = torch.nonzero((first > 0) & (first < none))[:, 0]
    inside = packed.starts.long()[ray] + first[ray]
    gap, fall = t[inside] - t[inside - 1], sdf[inside - 1] - sdf[inside]
    near = (gap < 1.5 * step) & (fall > LEAST_SLOPE * gap)
    ray, inside = ray[near], inside[near]
    share = sdf[inside - 1] / fall[near]
    slope = torch.lerp(gradient[inside - 1], gradient[inside], share[:, None]).detach()
    return Crossing(ray, t[inside - 1] + gap[near] * share, normalize(slope, dim=1, eps=1e-6))


def _patch_pixels(column: Tensor, row: Tensor, shape: PatchShape) -> tuple[Tensor, Tensor]:
    """Columns and rows (R, P) of the patches' pixels, row by row."""
    offset = (torch.arange(shape.size, device=column.device) - shape.size // 2) * shape.spacing
    across, down = offset.repeat(shape.size), offset.repeat_interleave(shape.size)
    return column.long()[:, None] + across, row.long()[:, None] + down


def _within(column: Tensor, row: Tensor, sizes: Tensor) -> Tensor:
    """Whether all pixels (R, P) lie in photographs of (R, 2) width and height."""
    inside = (column >= 0) & (row >= 0) & (column < sizes[:, :1]) & (row < sizes[:, 1:])
    return inside.all(1)


def _places(towards: Tensor, scaled: Tensor, view: Tensor, source: Tensor, tables: PatchTables) -> tuple[Tensor, Tensor]:
    """Where the patches' pixels lie in the sources (R, S, P, 2), and whether all of a patch do so inside of it (R, S)."""
    other = source.clamp(min=0)
    projection = tables.projection[other].to(towards.dtype)
    shift = tables.centre[view][:, None] - tables.centre[other]
    moved = towards[:, None] + shift.to(towards.dtype)[:, :, None] * scaled[:, None, :, None]
    image = torch.einsum("rsij,rspj->rspi", projection, moved)
    ahead = (image.detach()[..., 2] > 0) & (scaled.detach() > 0)[:, None]
    place = image[..., :2] / torch.where(ahead, image[..., 2], 1.0)[..., None]
    corner = place.detach() - PIXEL_CENTRE
    fits = (corner >= 0) & (corner <= (tables.sizes[other] - 1)[:, :, None])
    return place, (fits.all(3) & ahead).all(2)


def _bilinear(place: Tensor, source: Tensor, tables: PatchTables, seen: Tensor) -> tuple[Tensor, Tensor]:
    """Grey levels (R, S, P) at places in the sources; places of what is not seen are replaced. Returns `seen` too."""
    x, y = (torch.where(seen[..., None], part, 1.0) - PIXEL_CENTRE for part in place.unbind(3))
    width, height = (part[..., None].long() for part in tables.sizes[source].unbind(2))
    left, top = (torch.minimum(part.detach().long(), size - 2) for part, size in ((x, width), (y, height)))
    right, down = x - left, y - top
    flat = tables.starts[source][..., None] + top * width + left
    taps = [tables.grey[flat + shift].to(place.dtype) for shift in (0, 1, width, width + 1)]
    upper, lower = torch.lerp(taps[0], taps[1], right), torch.lerp(taps[2], taps[3], right)
    return torch.lerp(upper, lower, down), seen


def _one_minus_ncc(own: Tensor, theirs: Tensor, seen: Tensor) -> Tensor:
    """1 - NCC (R, S) of patches (R, P) and (R, S, P), infinite where it means nothing."""
    own = (own - own.mean(1, keepdim=True))[:, None]
    theirs = theirs - theirs.mean(2, keepdim=True)
    least = LEAST_DEVIATION**2 * own.shape[2]
    one, two = own.square().sum(2), theirs.square().sum(2)
    good = seen & (one > least) & (two > least)
    product = torch.where(good, one * two, 1.0)
    cost = 1 - (own * theirs).sum(2) / product.sqrt()
    return torch.where(good & (cost < HIDDEN), cost, torch.inf)


def _mean_of_best(cost: Tensor, best: int) -> tuple[Tensor, Tensor]:
    """Mean (R,) of the at most `best` least finite costs (R, S), 0 and False where there are none."""
    least = cost.sort(dim=1, stable=True).values[:, :best]
    good = least.isfinite()
    total = torch.where(good, least, 0.0).sum(1)
    return total / good.sum(1).clamp(min=1), good.any(1)
