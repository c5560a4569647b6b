"""Variants of a preset on prepared scenes, without the workflow: surface, new views, time and memory, a row for each run.

Takes the file of variants that `snakemake ablation` takes. One process for each GPU, or one on the CPU, trains, extracts, renders
and measures run after run, so that imports and compiled kernels serve all of them. Each run has its folder under OUT; what was measured there
with the same settings is not done again, so a list goes on where it was stopped. After a change of code take another folder.
"""

from __future__ import annotations

import argparse
import csv
import json
import multiprocessing
import os
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.timing import benchmark_parser
from nsr.ablation import Ablation, read_ablation, split_name
from nsr.cli import main_exit
from nsr.config import resolve
from nsr.errors import ConfigError
from nsr.job import Job, running
from nsr.provenance import hash_json

_METHODS = Path(__file__).resolve().parents[1] / "config" / "methods"
_RESULT = "variant.json"
_COLUMNS = {
    "chamfer": 4,
    "chamfer_all": 4,
    "f_0.5": 3,
    "psnr": 2,
    "psnr_masked": 2,
    "psnr_train": 2,
    "seconds": 1,
    "memory_gb": 2,
}


@dataclass(frozen=True)
class Run:
    """A variant with a seed on a scene.

    Attributes:
        name: of the run in the ablation. scene, truth: prepared scene, and its true mesh if it has one. out: folder for the run.
        layers: settings over the defaults, the later ones win. overrides: settings over these. until: `time.time()` after which
        it is not begun. threads: of the CPU.
    """

    name: str
    scene: Path
    truth: Path | None
    out: Path
    layers: tuple[Path | Mapping[str, Any], ...]
    overrides: tuple[str, ...]
    until: float
    threads: int


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
    parser.add_argument("--out", type=Path, required=True, help="folder of all runs, and of variants.tsv")
    return parser


def main(args: argparse.Namespace) -> None:
    """Do the runs, print a row for each and the means."""
    devices = _devices()
    threads = max(1, len(os.sched_getaffinity(0)) // len(devices))
    runs = list(_runs(args, time.time() + args.seconds, threads))
    args.out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    context = multiprocessing.get_context("spawn")
    waiting = context.Queue()
    for device in devices:
        waiting.put(device)
    print("\t".join(["scene", "variant", "seed", *_COLUMNS]), flush=True)
    with ProcessPoolExecutor(len(devices), context, _settle, (waiting,)) as pool:
        futures = {pool.submit(measured, run): run for run in runs}
        for done in as_completed(futures):
            rows.append(row_of(futures[done], done))
            print(as_line(rows[-1]), flush=True)
    _write(args.out / "variants.tsv", rows)
    print("\nmeans over the seeds, and half the range of the first number\n" + "\n".join(summary(rows)))


def _runs(args: argparse.Namespace, until: float, threads: int) -> Iterator[Run]:
    listed = read_ablation(args.ablation)
    names = args.variant or list(listed.variants)
    if unknown := set(names) - set(listed.variants):
        raise ConfigError(f"--variant {unknown.pop()}: {args.ablation} has {', '.join(listed.variants)}")
    asked = Ablation(listed.base, tuple(args.seed or listed.seeds), {name: listed.variants[name] for name in names})
    for name in asked.runs():
        layers = (_METHODS / f"{asked.base}.yaml", asked.settings(name))
        resolve(layers, args.set)  # a mistake in the last variant shall not be found after hours
        for given in args.scene:
            scene, _, truth = given.partition("=")
            out = args.out / Path(scene).name / name
            yield Run(name, Path(scene), Path(truth) if truth else None, out, layers, tuple(args.set), until, threads)


def _devices() -> list[str]:
    """CUDA_VISIBLE_DEVICES of each process: one GPU, or none where there is none."""
    import torch

    from benchmarks.multi_gpu import visible_gpus

    return visible_gpus() if torch.cuda.is_available() else [""]


def _settle(waiting: multiprocessing.Queue[str]) -> None:
    """Give a fresh process its GPU, before it imports torch's CUDA side."""
    os.environ["CUDA_VISIBLE_DEVICES"] = waiting.get()


def row_of(run: Run, done: Future[dict[str, Any]]) -> dict[str, Any]:
    """The row of a run that has ended, with its error as `note` if it has one: the others of the list go on."""
    variant, seed = split_name(run.name)
    error = done.exception()
    found = done.result() if error is None else {"note": f"{type(error).__name__}: {' '.join(str(error).split())}"}
    return {"scene": run.scene.name, "variant": variant, "seed": seed} | found


def measured(run: Run) -> dict[str, Any]:
    """The run's numbers: what its folder holds, or what is measured now; `note` instead of them when time is over."""
    file, settings = run.out / _RESULT, hash_json(asdict(resolve(run.layers, run.overrides)))
    if file.is_file():
        found: dict[str, Any] = json.loads(file.read_text())
        if found.pop("settings") == settings:
            return found
    if time.time() > run.until:
        return {"note": "not begun: out of time"}
    with running(Job(stage="variants")):
        numbers = _measure(run)
    file.write_text(json.dumps({"settings": settings, **numbers}, indent=1))
    return numbers


def _measure(run: Run) -> dict[str, Any]:
    import torch

    from nsr.evaluate.views import evaluate_views_stage
    from nsr.mesh.stage import mesh_stage
    from nsr.rendering.device import pick_device
    from nsr.scene.scene import load_scene
    from nsr.train.loop import train_scene
    from nsr.train.model_file import load_model
    from nsr.train.views import render_scene

    torch.set_num_threads(run.threads)
    config = resolve(run.layers, run.overrides)
    device, scene = pick_device("auto"), load_scene(run.scene)
    facts = train_scene(scene, config, run.out, device)
    found = {"psnr_train": facts["psnr_train"], "seconds": facts["seconds"], "memory_gb": facts["peak_memory_mb"] / 1e3}
    if run.truth is not None:
        mesh_stage(run.out / "model.pt", run.scene, run.out / "mesh.ply", config, device=device.type, threads=run.threads)
        found |= _compared(run, run.truth)
    render_scene(load_model(run.out / "model.pt", device), scene, run.out / "render", config.render)
    views = evaluate_views_stage(run.out / "render", run.scene, run.out / "views.json", config)["metrics"]
    return found | {key: views[key] for key in ("psnr", "psnr_masked") if views.get(key) is not None}


def _compared(run: Run, truth: Path) -> dict[str, float]:
    """Distances of the run's mesh to the true one, of what cameras see and of all."""
    from nsr.evaluate.stage import MeshEvaluation, evaluate_mesh_stage

    found: dict[str, float] = {}
    for key, only in (("chamfer", "true"), ("chamfer_all", "false")):
        config = resolve(run.layers, (*run.overrides, f"evaluate.visible_only={only}"))
        job = MeshEvaluation(run.out / "mesh.ply", run.scene, run.out / f"{key}.json", truth)
        metrics = evaluate_mesh_stage(job, config, run.threads)["metrics"]
        found |= {key: metrics["chamfer"]} | ({"f_0.5": metrics["f_0.5"]} if only == "true" else {})
    return found


def as_line(row: Mapping[str, Any]) -> str:
    """A row of the printed table."""
    cells = [f"{row[key]:.{digits}f}" if key in row else "" for key, digits in _COLUMNS.items()]
    return "\t".join([row["scene"], row["variant"], str(row["seed"]), *([row["note"]] if "note" in row else cells)])


def summary(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line for each scene and variant, in the order in which the rows name them."""
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: row["scene"]):
        if "note" not in row:
            groups.setdefault((row["scene"], row["variant"]), []).append(row)
    lines = []
    for (scene, variant), members in groups.items():
        cells: list[str] = []
        for key, digits in _COLUMNS.items():
            values = [member[key] for member in members if key in member]
            half = f" +- {(max(values) - min(values)) / 2:.{digits}f}" if len(values) > 1 and not cells else ""
            cells.append(f"{statistics.fmean(values):.{digits}f}{half}" if values else "")
        lines.append("\t".join([scene, variant, f"{len(members)} seeds", *cells]))
    return lines


def _write(file: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    with file.open("w", newline="") as stream:
        table = csv.DictWriter(stream, ["scene", "variant", "seed", *_COLUMNS, "note"], delimiter="\t")
        table.writeheader()
        table.writerows(rows)


if __name__ == "__main__":
    main_exit(build_parser(), main)
