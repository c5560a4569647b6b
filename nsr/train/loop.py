"""The training loop, top to bottom."""

from __future__ import annotations

import json
import os
import shutil
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch

from nsr.config import Config, section
from nsr.fields.model import SurfaceModel
from nsr.job import current
from nsr.kernels.backend import resolve_backend
from nsr.log import get_logger
from nsr.provenance import hash_json, manifest, whole_file, write_json
from nsr.rendering.device import device_name, peak_memory_mb, reset_peak_memory
from nsr.sampling.occupancy import OccupancyGrid
from nsr.scene.scene import Scene
from nsr.scene.spill import Spill
from nsr.train.average import ParameterMean
from nsr.train.checkpoint import CHECKPOINT_VERSION, alone_in, drop_previous, find_resumable, save_checkpoint
from nsr.train.data import TrainingData, load_training_data
from nsr.train.detail import with_detail
from nsr.train.graph import GraphTrainer, obstacle
from nsr.train.memory import SMALLEST, shortage_named
from nsr.train.metrics import MetricsLog, psnr, truncate_metrics
from nsr.train.model_file import exposures, save_model
from nsr.train.optim import make_optimizer, rate_factor, set_rates
from nsr.train.ranks import ALONE, Ranks
from nsr.train.ready import make_ready
from nsr.train.step import StepResult, next_ray_count, training_step, update_occupancy
from nsr.train.watchdog import check_geometry, check_loss


class Seen(NamedTuple):
    """What training has used up."""

    rays: int
    samples: int


class Trainer:
    """All state of a run; everything in it that changes goes into the checkpoint."""

    def __init__(
        self,
        scene: Scene,
        config: Config,
        out: Path,
        device: torch.device,
        ranks: Ranks = ALONE,
        data: TrainingData | None = None,
    ):
        config = with_detail(config, scene)
        self.scene, self.config, self.out, self.device, self.ranks = scene, config, out, device, ranks
        backend = resolve_backend(config.train.backend, device)
        marcher = resolve_backend(config.train.march.backend, device)
        why_not = obstacle(backend, marcher)
        self.graph: GraphTrainer | None = None
        with shortage_named("photographs and model", "lower prepare.max_size or model.encoding.log2_table"):
            self.data = data or load_training_data(scene, config.model, config.train, device, Spill(out / "checkpoint"))
            self.model = SurfaceModel(
                config.model, torch.Generator().manual_seed(config.train.seed), backend, views=len(self.data.names)
            ).to(device)
            self.mean = ParameterMean(list(self.model.parameters()), config.train.average, config.train.steps)
            self.occupancy = OccupancyGrid(config.train.march.grid_resolution, device)
            if not why_not:
                self.graph = GraphTrainer(
                    self.model, self.occupancy, self.data.store, config.train, device,
                    known=self.data.points, patches=self.data.patches, ranks=ranks,
                )  # fmt: skip
                make_ready(self.graph, device, ranks)
            else:
                self.optimizer = make_optimizer(self.model, config.train.optim)
        self.generator = torch.Generator(device).manual_seed(config.train.seed)
        self.step, self.rays, self.seconds, self.seen = 0, config.train.start_rays, 0.0, Seen(0, 0)
        self.samples, self.shortages = config.train.samples, list[dict[str, int]]()
        self.backends = {"field": backend, "march": marcher, "step": "separate" if why_not else "graph"}
        get_logger().info(
            "back ends: field %s, march %s; step %s", backend, marcher, f"separate ({why_not})" if why_not else "graph"
        )
        self.checkpoint = out / "checkpoint" / "last.pt"
        self.settings = section(config, "model", "train")
        # The two kinds of step keep different states.
        self.identity = {"settings": hash_json(self.settings), "data": self.data.digest, "kind of step": self.backends["step"]}

    def save(self) -> None:
        """Write the checkpoint, on the first rank."""
        if not self.ranks.first:
            return
        state = {
            "version": CHECKPOINT_VERSION,
            "identity": self.identity,
            "step": self.step,
            "rays": self.rays,
            "seconds": self.seconds,
            "seen": list(self.seen_so_far()),
            "model": self.model.state_dict(),
            "mean": self.mean.state(),
            "optimizer": self.optimizer.state_dict() if self.graph is None else self.graph.state(),
            "occupancy": self.occupancy.state(),
            "generator": self.generator.get_state(),
            "similarity": self.scene.similarity.to_dict(),
            "cost": current().cost(),
        }
        save_checkpoint(state, self.checkpoint)

    def resume(self) -> bool:
        """Continue from the checkpoint if there is one of the same settings and data."""
        state = find_resumable(self.checkpoint, self.identity, self.device)
        if state is None:
            return False
        self.step, self.rays, self.seconds = state["step"], state["rays"], state["seconds"]
        self.seen = Seen(*state["seen"])
        self.model.load_state_dict(state["model"])
        self.mean.load(state["mean"])
        self.occupancy.load(state["occupancy"])
        if self.graph is None:
            self.optimizer.load_state_dict(state["optimizer"])
        else:
            self.graph.load(state["optimizer"], self.step)
        self.generator.set_state(state["generator"].cpu())
        current().carry(state.get("cost", {}))
        get_logger().info("resumed at step %d of %d", self.step, self.config.train.steps)
        return True

    def advance(self) -> StepResult:
        """One optimisation step; where memory runs out, it is tried again with half the samples, as long as these are enough."""
        self.step += 1
        with shortage_named(f"step {self.step}", f"set train.samples below {self.budget()}, or lower train.max_rays"):
            while True:
                try:
                    return self._step(self.step - 1)
                except torch.cuda.OutOfMemoryError:
                    if self.budget() // 2 < SMALLEST or self.ranks.count > 1:  # ranks must go on in step
                        raise
                # Not in the handler, which keeps the failed step's tensors alive.
                self._shrink(self.budget() // 2)

    def _shrink(self, samples: int) -> None:
        """Go on with fewer samples a step."""
        get_logger().warning(
            "step %d: GPU memory ran out; trying again with %d samples a step instead of %d", self.step, samples, self.budget()
        )
        self.shortages.append({"step": self.step, "samples": samples})
        self.samples, self.rays = samples, max(16, self.rays // 2)
        if self.graph is not None:
            self.graph.shrink(samples)
        else:
            self.optimizer.zero_grad(set_to_none=True)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _step(self, step: int) -> StepResult:
        if self.graph is None:
            return self._separate_step(step)
        self.graph.advance(step)
        facts = dict(self.graph.facts)
        loss, mse, rays, samples, _ = (facts.pop(name) for name in ("loss", "mse", "rays", "samples", "wanted"))
        return StepResult(loss, facts, mse, rays, samples)

    def _separate_step(self, step: int) -> StepResult:
        train = self.config.train
        self.model.set_step(step)
        if step % train.march.grid_every == 0:
            update_occupancy(self.model, self.occupancy, train, step=step, generator=self.generator)
        set_rates(self.optimizer, rate_factor(train.optim, step, train.steps))
        # Ranks share what the occupancy draws, and draw rays of their own, which depend on seed, rank and step only.
        alone = self.ranks.count == 1
        own = self.generator if alone else torch.Generator(self.device).manual_seed(self.ranks.seed(train.seed, step + 1))
        result = training_step(
            self.model, self.occupancy, self.data.store, train, step=step, rays=self.rays, generator=own,
            points=self.data.points, patches=self.data.patches,
        )  # fmt: skip
        self.optimizer.zero_grad(set_to_none=True)
        if result.loss.requires_grad:
            result.loss.backward()
        self.ranks.average_gradients(self.model.parameters())
        if result.loss.requires_grad or not alone:
            self.optimizer.step()
        result = result if alone else self._of_all(result)
        self.rays = next_ray_count(self.rays, int(result.samples) // self.ranks.count, train, self.samples)
        self.seen = Seen(self.seen.rays + int(result.rays), self.seen.samples + int(result.samples))
        return result

    def _of_all(self, result: StepResult) -> StepResult:
        """Loss and error of all ranks, and their rays and samples together; the terms stay this rank's."""
        counts = (torch.tensor(float(number), device=self.device) for number in (result.rays, result.samples))
        loss, mse, rays, samples = self.ranks.means([result.loss, result.mse, *counts])
        return StepResult(
            loss, result.terms, mse, round(float(rays) * self.ranks.count), round(float(samples) * self.ranks.count)
        )

    def seen_so_far(self) -> Seen:
        """Rays and samples of all steps; waits for the device."""
        return self.seen if self.graph is None else Seen(*(int(number) for number in self.graph.seen))

    def budget(self) -> int:
        """Samples a step aimed at: `train.samples`, or fewer where the GPU has no room for them."""
        return self.samples if self.graph is None else self.graph.samples

    def record(self, result: StepResult, rays_per_second: float) -> dict[str, Any]:
        """Metrics of a step, as plain numbers."""
        train = self.config.train
        return {
            "step": self.step,
            "seconds": round(self.seconds, 3),
            "loss": float(result.loss.detach()),
            "psnr": psnr(float(result.mse)),
            **{name: float(value) for name, value in result.terms.items()},
            "sharpness": float(self.model.sharpness().detach()),
            "levels": int(self.model.sdf.active),
            "occupied": self.occupancy.share(),
            "rays": int(result.rays),
            "samples": int(result.samples),
            "rays_per_second": rays_per_second,
            "learning_rate": train.optim.learning_rate * rate_factor(train.optim, self.step - 1, train.steps),
        }


def train_scene(
    scene: Scene, config: Config, out: Path, device: torch.device, ranks: Ranks = ALONE, data: TrainingData | None = None
) -> dict[str, Any]:
    """Train one field of a scene, or continue where a killed run of the same settings and data stopped.

    Writes `model.pt`, `train.json`, `metrics.jsonl` and `checkpoint/last.pt` into `out`; of several ranks the first one does.
    `data` is what `load_training_data` gives for the scene; None: it is loaded.

    Returns:
        The content of `train.json`; {} on other ranks.

    Raises:
        TrainingDiverged, CheckpointError, DataError, OutOfMemory.
    """
    reset_peak_memory(device)
    trainer = Trainer(scene, config, out, device, ranks, data)  # before anything is written: it may refuse the scene
    with alone_in(out / "checkpoint") if ranks.first else nullcontext():
        ranks.wait()
        resumed = trainer.resume()
        ranks.wait()
        try:
            return _train(trainer, resumed)
        finally:
            if trainer.graph is not None:
                trainer.graph.replay.forget()  # before NCCL is shut down, whose work they hold


def _train(trainer: Trainer, resumed: bool) -> dict[str, Any]:
    """Take all steps and write the results."""
    out, train = trainer.out, trainer.config.train
    # Beside the checkpoint, because a workflow engine deletes the outputs of a killed job before it runs it again.
    metrics_file = trainer.checkpoint.with_name("metrics.jsonl") if trainer.ranks.first else Path(os.devnull)
    if not trainer.ranks.first:
        _run(trainer, metrics_file)
        return {}
    if resumed:
        truncate_metrics(metrics_file, trainer.step)
    else:
        metrics_file.unlink(missing_ok=True)
    _run(trainer, metrics_file)
    info = {
        "step": trainer.step,
        "train_views": list(trainer.data.names),
        "masked": trainer.data.masked,
        "scene": trainer.scene.name,
        "device": device_name(trainer.device),
    }
    trainer.mean.install()
    save_model(out / "model.pt", trainer.model, trainer.occupancy.occupied, trainer.scene.similarity, train, info)
    with whole_file(out / "metrics.jsonl") as partial:
        shutil.copyfile(metrics_file, partial)
    summary = _summary(trainer, metrics_file, resumed)
    write_json(out / "train.json", summary)
    drop_previous(trainer.checkpoint)
    return summary


def _run(trainer: Trainer, metrics_file: Path) -> None:
    train = trainer.config.train
    rays = trainer.seen_so_far().rays
    clock = time.monotonic()
    with MetricsLog(metrics_file, train.steps, trainer.step) as log:
        while trainer.step < train.steps:
            result = trainer.advance()
            trainer.mean.add(trainer.step)
            last = trainer.step == train.steps
            logs = trainer.step % train.log_every == 0 or last
            watches = trainer.step % train.watchdog.every == 0 or last
            saves = trainer.step % train.checkpoint_every == 0 and not last
            if logs or watches or saves:
                # Before anything is kept of this step; it also waits for the device, so that the clock below is true.
                check_loss(float(result.loss.detach()), trainer.step)
            if logs:
                elapsed = time.monotonic() - clock
                trainer.seconds += elapsed
                total = trainer.seen_so_far().rays
                log.record(trainer.record(result, (total - rays) / max(elapsed, 1e-9)))
                clock, rays = time.monotonic(), total
            if watches:
                check_geometry(trainer.model, trainer.occupancy, train.watchdog, trainer.step)
            if saves:
                trainer.save()


def _summary(trainer: Trainer, metrics_file: Path, resumed: bool) -> dict[str, Any]:
    records = [json.loads(line) for line in metrics_file.read_text().splitlines()]
    tail = records[-max(1, len(records) // 10) :]
    return {
        "scene": trainer.scene.name,
        "steps": trainer.step,
        "samples_a_step": trainer.budget(),
        "shortages": trainer.shortages,
        "ranks": trainer.ranks.count,
        "seconds": trainer.seconds,
        "samples_per_second": trainer.seen_so_far().samples / max(trainer.seconds, 1e-9),
        "backends": trainer.backends,
        "device": device_name(trainer.device),
        "peak_memory_mb": peak_memory_mb(trainer.device),
        "psnr_train": sum(record["psnr"] for record in tail) / len(tail),
        "sharpness": records[-1]["sharpness"],
        "masks": trainer.data.masked,
        "exposure": exposures(trainer.model, trainer.data.names),
        "resumed": resumed,
        "train_views": list(trainer.data.names),
        "settings": trainer.settings,
        "manifest": manifest(identity=trainer.identity, seed=trainer.config.train.seed),
    }
