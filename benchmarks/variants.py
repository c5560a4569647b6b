"""Variants of a preset on prepared scenes, without the workflow: surface, new views, time and memory, a row for each run.

Takes the file of variants that `snakemake ablation` takes. One process for each GPU, or one on the CPU, trains, extracts, renders
and measures run after run, so that imports and compiled kernels serve all of them; with --share more of them, which keep a GPU busy
while others measure. A run whose loss has sparse points takes those that the workflow left in `points/` beside the scene's folder.
Each run has its folder under OUT; what was measured there with the same settings is not done again, so a list goes on where it was
stopped. After a change of code take another folder.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.timing import benchmark_parser, preset, training_scene
from nsr.ablation import Ablation, read_ablation
from nsr.cli import main_exit
from nsr.config import Config, resolve
from nsr.errors import ConfigError
from nsr.gpus import SHARE
from nsr.job import Job, running
from nsr.provenance import hash_json, write_json, write_text
from nsr.report.ablation import statistics_of, to_markdown
from nsr.report.tables import Column, tab_separated

_RESULT = "variant.json"
_METRICS = (
    Column("chamfer", "Chamfer", 4),
    Column("chamfer_all", "all surface", 4),
    Column("f_0.5", "F@0.5", 3),
    Column("psnr", "PSNR", 2),
    Column("psnr_masked", "masked", 2),
    Column("psnr_train", "of training rays", 2),
    Column("train_seconds", "training s", 1),
    Column("peak_memory_mb", "GPU GB", 2, scale=1e-3),
)
_HEAD = ("dataset", "scene", "method", *(column.key for column in _METRICS), "note")


@dataclass(frozen=True)
class Run:
    """A variant with a seed on a scene.

    Attributes:
        name: of the run in the ablation. scene, truth: prepared scene, and its true mesh if it has one. dataset, title: its
        name. out: folder for the run. until: `time.time()` after which it is not begun. threads: of the CPU.
    """

    name: str
    scene: Path
    dataset: str
    title: str
    truth: Path | None
    out: Path
    config: Config
    until: float
    threads: int

    def identity(self) -> str:
        """Hash of what its numbers follow from, but for the code."""
        return hash_json([asdict(self.config), str(self.scene.resolve()), str(self.truth)])


def build_parser() -> argparse.ArgumentParser:
    """The program's options."""
    parser = benchmark_parser(__doc__)
    parser.add_argument("--ablation", type=Path, required=True, metavar="FILE", help="variants, as config/ablation.yaml")
    parser.add_argument(
        "--scene", action="append", required=True, metavar="FOLDER[=MESH]", help="prepared scene, and its true mesh; repeatable"
    )
    parser.add_argument("--variant", action="append", metavar="NAME", help="only this one; repeatable")
    parser.add_argument("--seed", action="append", type=int, metavar="N", help="instead of the file's seeds; repeatable")
    parser.add_argument("--set", action="append", default=[], metavar="key=value", help="a setting of all runs; repeatable")
    parser.add_argument("--seconds", type=float, default=float("inf"), metavar="S", help="begin no run later than this")
    parser.add_argument(
        "--share", type=int, default=1, metavar="K", help="runs on a GPU at a time, default 1; times are then not comparable"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of all runs, and of variants.tsv")
    return parser


def main(args: argparse.Namespace) -> None:
    """Do the runs, print a row for each and the means."""
    if args.share < 1:
        raise ConfigError(f"--share {args.share}: give 1 or more runs on a GPU at a time")
    devices = _devices() * args.share
    threads = max(1, len(os.sched_getaffinity(0)) // len(devices))
    runs = list(_runs(args, time.time() + args.seconds, threads))
    context = multiprocessing.get_context("spawn")
    waiting = context.Queue()
    for device in devices:
        waiting.put(device)
    print("\t".join(_HEAD), flush=True)
    with ProcessPoolExecutor(len(devices), context, _settle, (waiting, args.share)) as pool:
        futures = {pool.submit(measured, run): run for run in runs}
        for done in as_completed(futures):
            print(as_line(row_of(futures[done], done)), flush=True)
    rows = [row_of(run, done) for done, run in futures.items()]
    write_text(args.out / "variants.tsv", tab_separated(_HEAD, ([row.get(key, "") for key in _HEAD] for row in rows)))
    good = [row for row in rows if "note" not in row]
    for place in dict.fromkeys((row["dataset"], row["scene"]) for row in good):
        print("\n" + to_markdown(statistics_of([row for row in good if (row["dataset"], row["scene"]) == place], _METRICS)))


def _runs(args: argparse.Namespace, until: float, threads: int) -> Iterator[Run]:
    listed = read_ablation(args.ablation)
    names = args.variant or list(listed.variants)
    if unknown := set(names) - set(listed.variants):
        raise ConfigError(f"--variant {unknown.pop()}: {args.ablation} has {', '.join(listed.variants)}")
    asked = Ablation(listed.base, tuple(args.seed or listed.seeds), {name: listed.variants[name] for name in names})
    scenes = dict(_scene(given) for given in args.scene)
    if len(scenes) < len(args.scene):
        raise ConfigError(f"--scene: two of {len(args.scene)} have the same name; prepare one of them under another")
    for name in asked.runs():
        config = resolve((preset(asked.base), asked.settings(name)), args.set)
        for (dataset, title), (scene, truth) in scenes.items():
            yield Run(name, scene, dataset, title, truth, args.out / dataset / title / name, config, until, threads)


def _scene(given: str) -> tuple[tuple[str, str], tuple[Path, Path | None]]:
    """Data set and scene by name, and the folder and true mesh of FOLDER[=MESH]."""
    from nsr.scene.scene import load_scene

    folder, _, truth = given.partition("=")
    dataset, _, title = load_scene(Path(folder)).name.rpartition("/")
    return (dataset, title), (Path(folder), Path(truth) if truth else None)


def _devices() -> list[str]:
    """CUDA_VISIBLE_DEVICES of each process: one GPU, or none where there is none."""
    import torch

    from benchmarks.multi_gpu import visible_gpus

    return visible_gpus() if torch.cuda.is_available() else [""]


def _settle(waiting: multiprocessing.Queue[str], share: int) -> None:
    """Give a fresh process its GPU, before it imports torch's CUDA side, and the number of those that it is on it with."""
    os.environ["CUDA_VISIBLE_DEVICES"], os.environ[SHARE] = waiting.get(), str(share)


def row_of(run: Run, done: Future[dict[str, Any]]) -> dict[str, Any]:
    """The row of a run that has ended, with its error as `note` if it has one: the others of the list go on."""
    error = done.exception()
    found = done.result() if error is None else {"note": f"{type(error).__name__}: {' '.join(str(error).split())}"}
    return {"dataset": run.dataset, "scene": run.title, "method": run.name} | found


def measured(run: Run) -> dict[str, Any]:
    """The run's numbers: what its folder holds, or what is measured now; `note` instead of them when time is over."""
    file = run.out / _RESULT
    if file.is_file():
        kept: dict[str, Any] = json.loads(file.read_text())
        if kept.pop("identity") == run.identity():
            return kept
    if time.time() > run.until:
        return {"note": "not begun: out of time"}
    with running(Job(stage="variants")):
        numbers = _measure(run)
    write_json(file, {"identity": run.identity(), **numbers})
    return numbers


def _measure(run: Run) -> dict[str, Any]:
    import torch

    from nsr.evaluate.views import evaluate_views_stage
    from nsr.mesh.stage import mesh_stage
    from nsr.rendering.device import pick_device
    from nsr.train.members import train_members
    from nsr.train.model_file import load_model
    from nsr.train.views import render_scene

    torch.set_num_threads(run.threads)
    device, scene, model = pick_device("auto"), training_scene(run.scene, run.config), run.out / "model.pt"
    facts = train_members(scene, run.config, run.out, device)
    found = {"train_seconds": facts["seconds"]} | {key: facts[key] for key in ("psnr_train", "peak_memory_mb")}
    if run.truth is not None:
        mesh_stage(model, run.scene, run.out / "mesh.ply", run.config, device=device.type, threads=run.threads)
        found |= _compared(run, run.truth)
    render_scene(load_model(model, device), scene, run.out / "render", run.config.render)
    views = evaluate_views_stage(run.out / "render", run.scene, run.out / "views.json", run.config)["metrics"]
    return found | {key: views[key] for key in ("psnr", "psnr_masked") if key in views}


def _compared(run: Run, truth: Path) -> dict[str, float]:
    """Distances of the run's mesh to the true one, of what cameras see and of all."""
    from nsr.evaluate.stage import MeshEvaluation, evaluate_mesh_stage

    def metrics(name: str, *, visible_only: bool) -> dict[str, float]:
        config = replace(run.config, evaluate=replace(run.config.evaluate, visible_only=visible_only))
        job = MeshEvaluation(run.out / "mesh.ply", run.scene, run.out / f"{name}.json", truth)
        found: dict[str, float] = evaluate_mesh_stage(job, config, run.threads)["metrics"]
        return found

    seen, every = metrics("chamfer", visible_only=True), metrics("chamfer_all", visible_only=False)
    return {"chamfer": seen["chamfer"], "f_0.5": seen["f_0.5"], "chamfer_all": every["chamfer"]}


def as_line(row: Mapping[str, Any]) -> str:
    """A row of the printed table."""
    cells = [f"{row[one.key] * one.scale:.{one.digits}f}" if one.key in row else "" for one in _METRICS]
    return "\t".join([row["dataset"], row["scene"], row["method"], *cells, row.get("note", "")])


if __name__ == "__main__":
    main_exit(build_parser(), main)
