"""The training step on a GPU: fixed sizes, no wait for the device, captured once as a CUDA graph and replayed.

Same meaning as `nsr.train.step`, with these differences: rays come from counter-based random numbers, so that a step depends
on seed and step alone; every cell of the occupancy grid is probed at every update; table entries no sample touched keep their
running means; rays whose samples do not fit into the budget are left out. Whatever follows a schedule is tabulated for all
steps in advance and looked up by a step counter on the device.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from nsr.config import TrainConfig, ever_positive
from nsr.fields.model import SurfaceModel
from nsr.fields.sdf import active_levels
from nsr.kernels.adam import AdamSettings, AdamState, adam_step
from nsr.kernels.hashgrid import TableStorage
from nsr.kernels.march import PaddedSamples, march_padded, pack_occupancy
from nsr.kernels.neus import RaySums, neus_composite
from nsr.kernels.neus.alpha import cell_visibility
from nsr.kernels.packed import Packed
from nsr.kernels.patch import PatchTables
from nsr.kernels.points import points_in_ball, points_in_cells, points_of_table
from nsr.kernels.rays import DrawnRays, draw_rays
from nsr.kernels.sdf import SdfOutput
from nsr.losses import colour_mse, curvature, eikonal, mask_entropy, opaque_entropy, sparsity, zero_level
from nsr.rendering.volume import as_photographed, background_where, plain_background, step_length
from nsr.sampling.occupancy import OccupancyGrid
from nsr.sampling.pixels import PixelStore
from nsr.train.patch import patch_term
from nsr.train.points import SurfacePoints
from nsr.train.ranks import ALONE, Ranks
from nsr.train.replay import Replays
from nsr.train.schedule import tabulated
from nsr.train.step import COLOUR_TERMS, POINT_CHUNK, masked_mean

_TERMS = (
    "colour_weight", "mask", "eikonal", "eikonal_random", "sparsity", "opaque", "curvature", "distortion", "points", "patch",
)  # fmt: skip
# Opacity from which on what is behind a ray is not looked at: it changes the colour by less than half a grey level, and its
# gradient, which is proportional to what the ray lets pass, is as small.
_OPAQUE = 1 - 2**-9
_OVERSIZE = 1.125  # room above the samples aimed at, so that few rays are cut


def obstacle(backend: str, marcher: str) -> str:
    """Why a step cannot run as a graph on these back ends, and runs as separate kernels instead; empty if it can."""
    return "" if backend == marcher == "triton" else f"back ends {backend} and {marcher}"


class GraphTrainer:
    """Parameters' optimiser, occupancy and random state of a run on the device, and its step.

    Args:
        model: on `device`, back end `triton`. steps of `config` are all that can be taken.

    Attributes:
        samples, rays: the most of a step, `train.samples` and `train.max_rays` unless `limit` lowered them.
    """

    def __init__(
        self, model: SurfaceModel, occupancy: OccupancyGrid, store: PixelStore, config: TrainConfig, device: torch.device,
        *, known: SurfacePoints | None = None, patches: PatchTables | None = None, ranks: Ranks = ALONE,
    ):  # fmt: skip
        self.model, self.occupancy, self.config, self.device, self.ranks = model, occupancy, config, device, ranks
        self.seed = ranks.seed(config.seed)  # of what ranks draw for themselves
        self.pixels = store.tables
        impossible = {"mask"} if store.masks is None else set()
        impossible |= set() if config.random_points else {"eikonal_random", "sparsity"}
        impossible |= {"points"} if known is None else set()
        impossible |= {"patch"} if patches is None else set()
        self.terms = tuple(name for name in _TERMS if ever_positive(getattr(config.loss, name)) and name not in impossible)
        self.random = config.random_points if {"eikonal_random", "sparsity"} & set(self.terms) else 0
        self.known, self.patches, sparse = known, patches, config.sparse_points if "points" in self.terms else 0
        self.points = self.random + sparse
        self.length = step_length(config.march.steps)
        self.samples, self.rays = config.samples, config.max_rays
        self.step = torch.zeros(1, dtype=torch.int32, device=device)
        self.live = torch.tensor([min(config.start_rays, config.max_rays)], dtype=torch.int32, device=device)
        self.seen = torch.zeros(2, dtype=torch.int64, device=device)  # rays and samples of all steps
        self.active = torch.ones(1, dtype=torch.int32, device=device)
        self.difference = torch.ones(1, device=device)
        self.cells = occupancy.ball_cells()
        self.bits = pack_occupancy(occupancy.occupied, backend="triton")
        self._tabulate()
        self._make_optimizer()
        self.facts: dict[str, Tensor] = {}
        self.replay = Replays(device, lambda: self.optimizer.zero_grad(set_to_none=True))

    def _tabulate(self) -> None:
        self.names, values = tabulated(self.config, self.model.config, self.terms)
        self.schedule = torch.tensor(values, dtype=torch.float32, device=self.device)
        levels = [active_levels(self.model.config.encoding, k) for k in range(self.config.steps)]
        self.levels = torch.tensor(levels, dtype=torch.int32, device=self.device)

    def _make_optimizer(self) -> None:
        optim, model = self.config.optim, self.model
        self.states, self.storages = [], []
        owners = [model.sdf] + ([model.background] if model.background is not None else [])
        for owner in owners:
            table = owner.table
            owner.storage = TableStorage(table.detach().half(), torch.zeros_like(table))
            self.storages.append(owner.storage)
            self.states.append(AdamState(torch.zeros_like(table), torch.zeros_like(table)))
        self.table_rate = torch.zeros(1, device=self.device)
        self.rates = [
            (optim.learning_rate, torch.zeros((), device=self.device)),
            (optim.sharpness_rate, torch.zeros((), device=self.device)),
        ]
        groups = [
            {"params": model.network_parameters(), "lr": self.rates[0][1], "weight_decay": optim.weight_decay},
            {"params": [model.log_sharpness], "lr": self.rates[1][1], "weight_decay": 0.0},
        ]
        if own := model.photograph_parameters():
            self.rates.append((optim.photograph_rate, torch.zeros((), device=self.device)))
            groups.append({"params": own, "lr": self.rates[2][1], "weight_decay": 0.0})
        gpu = self.device.type == "cuda"
        self.optimizer = torch.optim.AdamW(groups, betas=optim.betas, eps=optim.eps, capturable=gpu, fused=gpu, foreach=False)

    def advance(self, step: int) -> None:
        """Take training step `step`; the results are in `facts`, on the device."""
        if step % self.config.march.grid_every == 0:
            self.replay("occupancy", self._update_occupancy)
        self.replay("step", self._train)

    def limit(self, samples: int) -> None:
        """Aim at fewer samples a step, with as much fewer rays at most; no step may be captured yet."""
        most = self.config.max_rays
        self.samples, self.rays = samples, min(most, max(16, most * samples // self.config.samples))
        self.live.clamp_(max=self.rays)

    def shrink(self, samples: int) -> None:
        """Aim at fewer samples from now on, after a step that could not be finished; what it left behind is dropped.

        Nothing but gradients can be half done: parameters, counters and occupancy change at a step's end.
        """
        self.replay.forget()
        self.facts = {}
        self.optimizer.zero_grad(set_to_none=True)
        for storage in self.storages:
            storage.gradient.zero_()
        self.limit(samples)

    def rehearse(self, call: Callable[[Callable[[], None]], None] = lambda body: body()) -> None:
        """Go through all that `advance` launches and leave no trace, before the first step: for `compile_ahead`.

        Only what torch's operations change needs to be put back; kernels write nothing.

        Args:
            call: calls the occupancy's update and then the step, which keep separate memory as graphs.
        """
        model, occupancy = self.model, self.occupancy
        changed = [*model.dense_parameters(), occupancy.values, occupancy.occupied]
        changed += [self.live, self.seen, self.step, self.active, self.difference]
        kept, ranks = [tensor.detach().clone() for tensor in changed], self.ranks
        self.ranks = ALONE  # ranks may rehearse more or less often than others
        try:
            call(self._update_occupancy)
            call(self._train)
        finally:
            self.ranks = ranks
            with torch.no_grad():
                for tensor, before in zip(changed, kept, strict=True):
                    tensor.copy_(before)
            self.optimizer.state.clear()
            self.optimizer.zero_grad(set_to_none=True)
            self.facts = {}

    @torch.no_grad()
    def _update_occupancy(self) -> None:
        model, march = self.model, self.config.march
        self.active.copy_(self.levels.index_select(0, self.step.long()))
        model.sdf.active = self.active
        points = points_in_cells(self.cells, march.grid_resolution, seed=self.config.seed, step=self.step, backend="triton")
        sdf = torch.cat([model.sdf.value(part) for part in points.split(POINT_CHUNK)])
        reach = 3**0.5 / march.grid_resolution
        fresh = cell_visibility(sdf, model.sharpness().detach(), self.length, reach, march.grid_threshold)
        self.occupancy.refresh(self.cells, fresh, threshold=march.grid_threshold, decay=march.grid_decay)
        pack_occupancy(self.occupancy.occupied, out=self.bits, backend="triton")

    def _train(self) -> None:
        now = dict(zip(self.names, self.schedule.index_select(0, self.step.long())[0].unbind(), strict=True))
        self.active.copy_(self.levels.index_select(0, self.step.long()))
        self.model.sdf.active = self.active
        self.difference.copy_(now["difference"].reshape(1))
        self.model.sdf.difference = self.difference
        loss, facts = self.loss(now, *self.draw())
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        facts |= self.ranks.share(facts, [storage.gradient for storage in self.storages], self.model.dense_parameters())
        self._optimize(now["rate"])
        self.facts = facts
        self.seen += torch.stack([facts["rays"].long(), facts["samples"].long()])
        # As `next_ray_count`; `wanted` counts what the live rays asked for, also beyond the budget.
        aimed = self.live * (self.samples / facts["wanted"].clamp(min=1))
        bound = (0.9 * self.live + 0.1 * aimed).clamp(16, self.rays)
        self.live.copy_(bound.to(torch.int32))
        self.step += 1

    def _optimize(self, factor: Tensor) -> None:
        optim = self.config.optim
        for base, rate in self.rates:
            rate.copy_(factor * base)
        self.table_rate.copy_(self.rates[0][1].reshape(1))
        settings = AdamSettings((optim.betas[0], optim.betas[1]), optim.eps, optim.table_weight_decay)
        for table, storage, state in zip(self.model.table_parameters(), self.storages, self.states, strict=True):
            adam_step(
                table.detach(), storage.gradient, state, storage.values, rate=self.table_rate, step=self.step,
                settings=settings, backend="triton",
            )  # fmt: skip
        self.optimizer.step()

    def draw(self) -> tuple[DrawnRays, PaddedSamples]:
        """Rays of the current step and their samples.

        The first `points` positions are others: `random` points of the ball, then known points of the surface, whose
        standard errors and weights go to `drawn`.
        """
        rays = draw_rays(self.pixels, self.rays, seed=self.seed, step=self.step, backend="triton")
        samples = march_padded(
            rays.origin, rays.direction, self.bits, step=self.length, jitter=rays.jitter, live=self.live,
            budget=int(self.samples * _OVERSIZE), first=self.points, backend="triton",
        )  # fmt: skip
        if self.random:
            points_in_ball(samples.position[: self.random], seed=self.seed, step=self.step, backend="triton")
        if self.known is not None and self.points > self.random:
            room = samples.position[self.random : self.points]
            self.drawn = points_of_table(room, *self.known, seed=self.seed, step=self.step, backend="triton")
        return rays, samples

    def loss(self, now: dict[str, Tensor], rays: DrawnRays, samples: PaddedSamples) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted loss of what was drawn, and facts for the records, all on the device.

        Args:
            now: values of the schedules: `cosine` and the weight of each term.
        """
        model = self.model
        if "curvature" in self.terms:
            out, laplacian = model.sdf.with_laplacian(samples.position, samples.total)
        else:
            out, laplacian = model.sdf(samples.position, samples.total), None
        if model.photograph_parameters():  # a rehearsal's rays are of photographs that do not exist
            rays = rays._replace(view=rays.view.clamp(0, len(self.pixels.starts) - 1))
        codes = model.codes(len(rays.view), rays.view)
        packed = Packed(samples.ray, samples.starts, samples.counts)
        colour = model.radiance.shade(
            samples.position, out.features, out.gradient, rays.direction, packed,
            codes=codes, count=samples.total,
        )  # fmt: skip
        sums = neus_composite(
            out.sdf, out.gradient, colour, samples.t, rays.direction, packed,
            sharpness=model.sharpness(), cosine_ratio=now["cosine"].reshape(1), step=self.length, backend="triton",
        )  # fmt: skip
        valid = rays.valid & samples.kept
        rendered, target = self._colours(rays, sums, samples.kept, codes)
        terms = self._ray_terms(rendered, target, rays, sums, valid)
        terms |= self._sample_terms(out, sums, samples, now)
        if laplacian is not None:
            terms["curvature"] = masked_mean(curvature(laplacian), self._in_use(samples))
        if self.patches is not None and "patch" in self.terms:
            found = (out.sdf, out.gradient, samples.t, packed, rays, self.patches)
            terms["patch"] = patch_term(*found, config=self.config.patch, step=self.length, backend="triton")
        loss = torch.stack([now[name] * terms[name] for name in self.terms]).sum()
        facts = {name.removesuffix("_weight"): value.detach() for name, value in terms.items()}
        facts |= {
            "loss": loss.detach(),
            "mse": masked_mean(colour_mse(rendered.detach(), target), valid),
            "rays": samples.kept.sum(),
            "samples": samples.total[0] - self.points,
            "wanted": samples.wanted[0],
        }
        return loss, facts

    def _in_use(self, samples: PaddedSamples) -> Tensor:
        """Rows (N,) bool that hold samples."""
        row = torch.arange(len(samples.t), device=self.device)
        return (row >= self.points) & (row < samples.total)

    def _colours(self, rays: DrawnRays, sums: RaySums, kept: Tensor, codes: Tensor | None) -> tuple[Tensor, Tensor]:
        """Rendered and observed colours (R, 3); with masks and no learned background both before the same backdrop."""
        model, kind = self.model, self.model.config.background.kind
        rest = (1 - sums.opacity)[:, None]
        if kind == "learned":
            wanted = kept & (sums.opacity.detach() < _OPAQUE)
            behind = background_where(model, rays.origin, rays.direction, rays.noise[:, 0], wanted, codes)
            return as_photographed(model, sums.colour + rest * behind, rays.view), rays.colour
        behind = rays.noise if kind == "random" else torch.full_like(rays.colour, plain_background(kind))
        rendered = sums.colour if kind == "none" else sums.colour + rest * behind
        if self.pixels.masks is None:
            return as_photographed(model, rendered, rays.view), rays.colour
        rendered = as_photographed(model, rendered, rays.view, opacity=sums.opacity, backdrop=behind)
        return rendered, rays.colour * rays.mask[:, None] + behind * (1 - rays.mask[:, None])

    def _ray_terms(self, rendered: Tensor, target: Tensor, rays: DrawnRays, sums: RaySums, valid: Tensor) -> dict[str, Tensor]:
        terms = {"colour_weight": masked_mean(COLOUR_TERMS[self.config.loss.colour](rendered, target), valid)}
        if "mask" in self.terms:
            terms["mask"] = masked_mean(mask_entropy(sums.opacity, rays.mask), valid)
        if "opaque" in self.terms:
            terms["opaque"] = masked_mean(opaque_entropy(sums.opacity), valid)
        return terms

    def _sample_terms(self, out: SdfOutput, sums: RaySums, samples: PaddedSamples, now: dict[str, Tensor]) -> dict[str, Tensor]:
        terms = {}
        if "eikonal" in self.terms:
            terms["eikonal"] = sums.eikonal.sum() / (samples.total - self.points).clamp(min=1)[0]
        if "eikonal_random" in self.terms:
            terms["eikonal_random"] = eikonal(out.gradient[: self.random]).mean()
        if "sparsity" in self.terms:
            terms["sparsity"] = sparsity(out.sdf[: self.random], self.config.loss.sparsity_scale).mean()
        if "distortion" in self.terms:
            terms["distortion"] = masked_mean(sums.distortion, samples.kept)
        if "points" in self.terms:
            width, weight = self.drawn.unbind(1)
            terms["points"] = (weight * zero_level(out.sdf[self.random : self.points], width, now["inverse_cutoff"])).mean()
        return terms

    def state(self) -> dict[str, Any]:
        """What changes from step to step beside the model and the occupancy, to save."""
        return {
            "live": self.live,
            "seen": self.seen,
            "tables": [[state.mean, state.square] for state in self.states],
            "networks": self.optimizer.state_dict(),
        }

    def load(self, state: dict[str, Any], step: int) -> None:
        """Inverse of `state`, before the first step; the model and the occupancy must hold their saved values already."""
        self.step.fill_(step)
        self.live.copy_(state["live"].clamp(max=self.rays))
        self.seen.copy_(state["seen"])
        for mine, saved in zip(self.states, state["tables"], strict=True):
            mine.mean.copy_(saved[0])
            mine.square.copy_(saved[1])
        self.optimizer.load_state_dict(state["networks"])
        for group, (_, rate) in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate
        for table, storage in zip(self.model.table_parameters(), self.storages, strict=True):
            storage.values.copy_(table.detach())
        pack_occupancy(self.occupancy.occupied, out=self.bits, backend="triton")
