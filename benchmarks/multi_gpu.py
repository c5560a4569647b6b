"""Many scenes on a host with several GPUs: each job's GPU, how busy the GPUs were, and the time against one GPU.

Starts one training for each of --jobs scenes (those of --scene in turn, with a seed of its own for each round) at the same time, as
the workflow does, lets the jobs take their GPUs by the locks of `nsr.gpus`, and does so on each number of GPUs in --gpus. How busy a GPU was is what nvidia-smi says,
twice a second; its memory too. Kernels are compiled once before, by a short training that is not counted.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from benchmarks.timing import benchmark_parser, preset, require_gpu, triangulated_points
from nsr.cli import main_exit
from nsr.errors import DeviceUnavailable, NsrError
from nsr.gpus import FOLDER, SHARE

_ROOT = Path(__file__).resolve().parents[1]
_FIELDS = "index,uuid,utilization.gpu,memory.used"


@dataclass(frozen=True)
class Sample:
    """What nvidia-smi said of a GPU at one moment. Attributes: uuid; busy, %; memory, MB."""

    uuid: str
    busy: float
    memory: float


def build_parser() -> argparse.ArgumentParser:
    """The program's options."""
    parser = benchmark_parser(__doc__)
    parser.add_argument("--scene", type=Path, action="append", required=True, help="prepared scene; repeatable")
    parser.add_argument("--jobs", type=int, default=8, metavar="M", help="trainings, default 8")
    parser.add_argument("--gpus", type=int, nargs="+", metavar="N", help="numbers of GPUs to try; default: 1 and all")
    parser.add_argument("--share", type=int, default=1, metavar="K", help="jobs on a GPU at a time, default 1")
    parser.add_argument("--method", default="nsr", help="preset in config/methods, default nsr")
    parser.add_argument("--set", action="append", default=[], metavar="key=value", help="a setting; repeatable")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="leave all results there, job by job; default: nothing")
    parser.add_argument("--threads", type=int, help="CPU threads of a job; default: the cores divided among the jobs that run")
    return parser


def main(args: argparse.Namespace) -> None:
    """Print the figures."""
    require_gpu()
    visible = visible_gpus()
    numbers = args.gpus or sorted({1, len(visible)})
    if max(numbers) > len(visible) or min(numbers) < 1:
        raise DeviceUnavailable(f"--gpus: {max(numbers)} were asked for and {len(visible)} are visible")
    with tempfile.TemporaryDirectory() as folder:
        _train(args, Path(folder) / "warm", visible[:1], 1, ["train.steps=20"])
        seconds: dict[int, float] = {}
        for number in numbers:
            seconds[number] = _train(args, (args.keep or Path(folder)) / str(number), visible[:number], args.jobs, [])
        for number in numbers:
            gain = f", {seconds[1] / seconds[number]:.2f} times as fast as one" if 1 in seconds else ""
            print(f"{args.jobs} trainings on {number} GPUs: {seconds[number]:.1f} s{gain}")


def visible_gpus() -> list[str]:
    """UUIDs of the GPUs that this process may use, in its order."""
    import torch

    from nsr.rendering.device import gpu_name

    return [gpu_name(index) for index in range(torch.cuda.device_count())]


def _train(args: argparse.Namespace, folder: Path, gpus: Sequence[str], jobs: int, more: list[str]) -> float:
    """Seconds that `jobs` trainings took together; prints what each did and how busy the GPUs were."""
    threads = args.threads or max(1, (os.cpu_count() or 1) // (len(gpus) * args.share))
    places = {"CUDA_VISIBLE_DEVICES": ",".join(gpus), FOLDER: str(folder / "locks"), SHARE: str(args.share)}
    search = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, **places, "PYTHONPATH": search}
    start = time.perf_counter()
    with sampled() as samples:
        started = []
        for job in range(jobs):
            scene = args.scene[job % len(args.scene)]
            points = triangulated_points(scene)
            command = [sys.executable, _ROOT / "scripts/train.py", "--scene", scene]
            command += ["--points", points] if points is not None else []
            command += ["--out", folder / f"job{job}", "--device", "cuda", "--threads", str(threads)]
            command += ["--log", folder / f"job{job}.log", "--config", preset(args.method)]
            words = [*map(str, command), f"train.seed={1 + job // len(args.scene)}", *args.set, *more]
            started.append(subprocess.Popen(words, env=environment, stderr=subprocess.DEVNULL))
        codes = [process.wait() for process in started]
    seconds = time.perf_counter() - start
    for job, code in enumerate(codes):
        if code:
            raise NsrError(f"training {job} ended with {code}: {(folder / f'job{job}.log').read_text().splitlines()[-1:]}")
    if not more:
        _print(folder, jobs, gpus, samples)
    return seconds


def _print(folder: Path, jobs: int, gpus: Sequence[str], samples: list[Sample]) -> None:
    for job in range(jobs):
        facts = json.loads((folder / f"job{job}" / "train.json").read_text())
        cost = facts["manifest"]["cost"]
        place = gpus.index(cost["gpu_ids"][0])
        energy = f", {cost['energy_j'] / 1e3:.1f} kJ" if cost["energy_j"] is not None else ""
        print(
            f"{len(gpus)} GPUs, job {job}: GPU {place}, held {cost['gpu_seconds'] * cost['gpu_share']:.1f} s of "
            f"{cost['wall_seconds']:.1f} s, training {facts['seconds']:.1f} s, {facts['samples_per_second'] / 1e6:.1f} M samples/s, "
            f"PSNR {facts['psnr_train']:.2f} dB{energy}"
        )
    of = defaultdict(list)
    for sample in samples:
        of[sample.uuid].append(sample)
    for place, uuid in enumerate(gpus):
        mine = of[uuid]
        if mine:
            print(f"GPU {place}: busy {mean(s.busy for s in mine):.0f} %, at most {max(s.memory for s in mine) / 1e3:.1f} GB")


@contextmanager
def sampled() -> Iterator[list[Sample]]:
    """Use of all GPUs during the block, in the list when it ends; empty where there is no nvidia-smi."""
    found: list[Sample] = []
    command = ["nvidia-smi", f"--query-gpu={_FIELDS}", "--format=csv,noheader,nounits", "-lms", "500"]
    with tempfile.TemporaryFile("w+") as output:
        try:
            watcher = subprocess.Popen(command, stdout=output, stderr=subprocess.DEVNULL)
        except OSError:
            yield found
            return
        try:
            yield found
        finally:
            watcher.terminate()
            watcher.wait()
            output.seek(0)
            found += read_samples(output.read())


def read_samples(text: str) -> list[Sample]:
    """The samples in nvidia-smi's output; a line that was cut off, or of a GPU that does not say, is left out."""
    found = []
    for cells in csv.reader(text.splitlines(), skipinitialspace=True):
        try:
            found.append(Sample(cells[1], float(cells[2]), float(cells[3])))
        except (IndexError, ValueError):
            continue
    return found


if __name__ == "__main__":
    main_exit(build_parser(), main)
