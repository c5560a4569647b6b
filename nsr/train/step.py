"""One training step: rays, samples, rendering, the weighted sum of the loss terms."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nsr.config import LossConfig, TrainConfig
from nsr.fields.model import SurfaceModel
from nsr.kernels.backend import resolve_backend
from nsr.kernels.neus.alpha import cell_visibility
from nsr.kernels.patch import PatchTables
from nsr.losses import (
    colour_huber,
    colour_l1,
    colour_mse,
    curvature,
    distortion,
    eikonal,
    mask_entropy,
    opaque_entropy,
    sparsity,
    zero_level,
)
from nsr.rendering.volume import Rendered, as_photographed, background_colour, draw_samples, render_samples, step_length
from nsr.sampling.occupancy import OccupancyGrid
from nsr.sampling.pixels import PixelStore, RayBatch
from nsr.train.patch import patch_term
from nsr.train.points import SurfacePoints
from nsr.train.schedule import cosine_ratio, inverse_cutoff, loss_weight, schedule_value

COLOUR_TERMS = {"l1": colour_l1, "mse": colour_mse, "huber": colour_huber}
POINT_CHUNK = 1 << 18


@dataclass
class StepResult:
    """`loss` to differentiate; `terms`: the unweighted mean of each term; `mse` of the colours; rays and samples used.

    The last two are numbers, or tensors that have not been waited for.
    """

    loss: Tensor
    terms: dict[str, Tensor]
    mse: Tensor
    rays: int | Tensor
    samples: int | Tensor


def training_step(
    model: SurfaceModel,
    occupancy: OccupancyGrid,
    store: PixelStore,
    config: TrainConfig,
    *,
    step: int,
    rays: int,
    generator: torch.Generator,
    points: SurfacePoints | None = None,
    patches: PatchTables | None = None,
) -> StepResult:
    """Render `rays` random rays and compare them with the photographs, and the SDF with known points of the surface.

    Where the first rays cross the zero level, patches of the photographs are compared with each other.
    """
    length = step_length(config.march.steps)
    batch = store.sample(rays, generator)
    marcher = resolve_backend(config.march.backend, batch.origin.device)
    samples = draw_samples(batch.origin, batch.direction, occupancy.occupied, length, generator, backend=marcher)
    background = background_colour(model, batch.origin, batch.direction, generator, batch.view)
    ratio = cosine_ratio(config, step)
    out = render_samples(
        model, batch.origin, batch.direction, samples, step=length, cosine_ratio=ratio, background=background, view=batch.view
    )  # fmt: skip
    cut_out = store.masks is not None and model.background is None
    seen = {"opacity": out.opacity, "backdrop": background} if cut_out else {}
    out = out._replace(colour=as_photographed(model, out.colour, batch.view, **seen))
    target = _target(batch, background, cut_out=cut_out)
    terms = _ray_terms(out, batch, target, store, config.loss, step)
    terms |= _sample_terms(model, out, config, step, length, generator)
    if points is not None and schedule_value(config.loss.points, step) > 0:
        position, width, weight = points.draw(config.sparse_points, generator)
        terms["points"] = (weight * zero_level(model.sdf.value(position), width, inverse_cutoff(config, step))).mean()
    if patches is not None and len(out.sdf) and schedule_value(config.loss.patch, step) > 0:
        found = (out.sdf, out.gradient, out.t, out.packed, batch, patches)
        terms["patch"] = patch_term(*found, config=config.patch, step=length, backend="reference")
    loss = sum((loss_weight(config, name, step) * value for name, value in terms.items()), torch.zeros(()).to(target))
    mse = masked_mean(colour_mse(out.colour.detach(), target), batch.valid)
    names = {"colour_weight": "colour"}
    detached = {names.get(name, name): value.detach() for name, value in terms.items()}
    return StepResult(loss, detached, mse, rays, len(samples.t))


def update_occupancy(
    model: SurfaceModel, occupancy: OccupancyGrid, config: TrainConfig, *, step: int, generator: torch.Generator
) -> None:
    """Refresh the occupancy grid from the current SDF and sharpness."""
    length = step_length(config.march.steps)
    sharpness = model.sharpness().detach()
    # The sampled point may lie anywhere in its cell: samples up to half a cell's diagonal away are its responsibility.
    reach = 3**0.5 / occupancy.resolution

    def visibility(points: Tensor) -> Tensor:
        sdf = torch.cat([model.sdf.value(part) for part in points.split(POINT_CHUNK)]) if len(points) else points[:, 0]
        return cell_visibility(sdf, sharpness, length, reach, config.march.grid_threshold)

    occupancy.update(
        visibility,
        threshold=config.march.grid_threshold,
        decay=config.march.grid_decay,
        everywhere=step < config.march.grid_warmup,
        generator=generator,
    )


def next_ray_count(rays: int, samples: int, config: TrainConfig, budget: int | None = None) -> int:
    """Rays of the next step, so that the samples approach `budget` (None: `config.samples`); smoothed, within the bounds.

    With a smaller budget the most rays are as much fewer, as in the graph step.
    """
    budget = config.samples if budget is None else budget
    wanted = rays * budget / max(1, samples)
    most = max(16, config.max_rays * budget // config.samples)
    return int(min(max(0.9 * rays + 0.1 * wanted, 16), most))


def _target(batch: RayBatch, background: Tensor | None, *, cut_out: bool) -> Tensor:
    """Colours to reach: with masks, the photograph cut out and put before the same background as the rendering."""
    if not cut_out:
        return batch.colour
    behind = torch.zeros_like(batch.colour) if background is None else background
    return batch.colour * batch.mask[:, None] + behind * (1 - batch.mask[:, None])


def masked_mean(values: Tensor, valid: Tensor) -> Tensor:
    """Mean of the values (N,) that are valid (N,), 0 if none is; the others may be anything."""
    return torch.where(valid, values, torch.zeros_like(values)).sum() / valid.sum().clamp(min=1)


def _ray_terms(
    out: Rendered, batch: RayBatch, target: Tensor, store: PixelStore, loss: LossConfig, step: int
) -> dict[str, Tensor]:
    terms = {"colour_weight": masked_mean(COLOUR_TERMS[loss.colour](out.colour, target), batch.valid)}
    if store.masks is not None and schedule_value(loss.mask, step) > 0:
        terms["mask"] = masked_mean(mask_entropy(out.opacity, batch.mask), batch.valid)
    if schedule_value(loss.opaque, step) > 0:
        terms["opaque"] = masked_mean(opaque_entropy(out.opacity), batch.valid)
    return terms


def _sample_terms(
    model: SurfaceModel, out: Rendered, config: TrainConfig, step: int, length: float, generator: torch.Generator
) -> dict[str, Tensor]:
    loss, terms = config.loss, {}
    if len(out.sdf):
        if schedule_value(loss.eikonal, step) > 0:
            terms["eikonal"] = eikonal(out.gradient).mean()
        if schedule_value(loss.distortion, step) > 0:
            terms["distortion"] = distortion(out.weights, out.t, length, out.packed).mean()
        if schedule_value(loss.curvature, step) > 0:
            _, laplacian = model.sdf.finite_differences(out.position, out.sdf)
            terms["curvature"] = curvature(laplacian).mean()
    everywhere = {name: schedule_value(getattr(loss, name), step) for name in ("eikonal_random", "sparsity")}
    if config.random_points > 0 and any(weight > 0 for weight in everywhere.values()):
        sdf, _, gradient = model.sdf(points_in_ball(config.random_points, generator))
        values = {"eikonal_random": eikonal(gradient).mean(), "sparsity": sparsity(sdf, loss.sparsity_scale).mean()}
        terms |= {name: values[name] for name, weight in everywhere.items() if weight > 0}
    return terms


def points_in_ball(count: int, generator: torch.Generator) -> Tensor:
    """`count` points (count, 3), uniform in the unit ball."""
    device = generator.device
    direction = torch.nn.functional.normalize(torch.randn(count, 3, generator=generator, device=device), dim=1)
    return direction * torch.rand(count, 1, generator=generator, device=device) ** (1 / 3)
