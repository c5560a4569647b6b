"""Whole training of one prepared scene: seconds, samples per second, memory, PSNR, and the time to the first step.

The time to the first step counts from the start of this program: imports, loading of the photographs, compilation of the
kernels, one step. With --cold-cache Triton compiles everything again, as on a machine that never ran it. With --profile N
training is not run to its end; N of its steps are recorded, and the share of the time is printed in which the GPU was busy.
"""

from __future__ import annotations

import argparse
import gc
import os
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.timing import benchmark_parser, preset, require_gpu, training_scene
from nsr.cli import main_exit
from nsr.config import resolve
from nsr.errors import ConfigError

if TYPE_CHECKING:
    import torch

    from nsr.train.loop import Trainer

_START = time.perf_counter()
_NAME_WIDTH = 90


def build_parser() -> argparse.ArgumentParser:
    """The program's options."""
    parser = benchmark_parser(__doc__)
    parser.add_argument("--scene", type=Path, required=True, help="scene folder of the prepare stage")
    parser.add_argument("--method", default="nsr", help="preset in config/methods, default nsr")
    parser.add_argument("--set", action="append", default=[], metavar="key=value", help="a setting; repeatable")
    parser.add_argument("--out", type=Path, help="keep model and metrics in this folder; default: a temporary one")
    parser.add_argument("--cold-cache", action="store_true", help="compile all Triton kernels anew")
    parser.add_argument("--memory", type=float, metavar="GB", help="let torch allocate no more than this")
    parser.add_argument("--profile", type=int, metavar="N", help="record N steps instead of training")
    parser.add_argument("--skip", type=int, default=200, metavar="N", help="steps before the recorded ones, default 200")
    parser.add_argument("--rows", type=int, default=20, metavar="N", help="kernels to list with --profile, default 20")
    return parser


def main(args: argparse.Namespace) -> None:
    """Print the figures."""
    if args.cold_cache:
        # Before Triton is imported, and removed with the process' other temporary files only at its end.
        cache = tempfile.TemporaryDirectory(prefix="triton-cache-")
        os.environ["TRITON_CACHE_DIR"] = cache.name
    device = require_gpu()
    import torch

    from nsr.train.loop import Trainer
    from nsr.train.members import train_members

    config = resolve([preset(args.method)], args.set)
    if args.profile and config.train.steps < 1 + args.skip + 2 * args.profile:
        raise ConfigError(f"--profile: needs {1 + args.skip + 2 * args.profile} steps, train.steps is {config.train.steps}")
    if args.memory:
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(args.memory * 1e9 / total, 1.0))
    imported = time.perf_counter() - _START
    with tempfile.TemporaryDirectory() as folder:
        scene = training_scene(args.scene, config)
        trainer = Trainer(scene, config, Path(folder), device)
        loaded = time.perf_counter() - _START
        trainer.advance()
        torch.cuda.synchronize()
        first = time.perf_counter() - _START
        print(f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}; back ends {trainer.backends}")
        print(
            f"import {imported:.1f} s, loading and compiling {loaded - imported:.1f} s, first step {first - loaded:.1f} s; in all {first:.1f} s"
        )
        if args.profile:
            _profile(trainer, args)
            return
        del trainer
        gc.collect()
        torch.cuda.empty_cache()
        _report(train_members(scene, config, args.out or Path(folder), device), time.perf_counter() - _START)


def _report(summary: dict[str, Any], seconds: float) -> None:
    """Print the figures of a whole training."""
    steps = summary["steps"]
    rows = {
        "seconds, training": f"{summary['seconds']:.1f}",
        "seconds, whole program": f"{seconds:.1f}",
        "steps": f"{steps}",
        "ms a step": f"{1e3 * summary['seconds'] / steps:.2f}",
        "M samples/s": f"{summary['samples_per_second'] / 1e6:.1f}",
        "peak memory, GB": f"{summary['peak_memory_mb'] / 1e3:.2f}",
        "PSNR of training rays, dB": f"{summary['psnr_train']:.2f}",
        "sharpness": f"{summary['sharpness']:.1f}",
    }
    for name, value in rows.items():
        print(f"{name:<28}{value:>12}")


def _profile(trainer: Trainer, args: argparse.Namespace) -> None:
    """Print the GPU's busy share over some steps and the kernels that take the most time."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    for _ in range(args.skip):
        trainer.advance()
    torch.cuda.synchronize()
    start = time.perf_counter()
    samples = trainer.seen_so_far().samples
    for _ in range(args.profile):
        trainer.advance()
    torch.cuda.synchronize()
    plain = time.perf_counter() - start
    samples = trainer.seen_so_far().samples - samples
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as recorded:
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(args.profile):
            trainer.advance()
        torch.cuda.synchronize()
        wall = time.perf_counter() - start
    kernels = [event for event in recorded.events() if _is_device_work(event, torch.autograd.DeviceType.CUDA)]
    busy = _covered([(event.time_range.start, event.time_range.end) for event in kernels]) / 1e6
    print(
        f"{args.profile} steps after {args.skip}: {1e3 * plain / args.profile:.3f} ms a step, {samples / plain / 1e6:.1f} M samples/s; "
        f"recorded {1e3 * wall / args.profile:.3f} ms a step, GPU busy {1e3 * busy / args.profile:.3f} ms a step, "
        f"{busy / wall:.1%} of the recorded time and {min(1.0, busy / plain):.1%} of that without recording"
    )
    times: Counter[str] = Counter()
    calls: Counter[str] = Counter()
    for event in kernels:
        times[event.name] += event.time_range.elapsed_us()
        calls[event.name] += 1
    print(f"\n{'us a step':>12}{'share':>9}{'calls a step':>14}  kernel")
    total = sum(times.values())
    for name, spent in times.most_common(args.rows):
        print(f"{spent / args.profile:>12.1f}{spent / total:>9.1%}{calls[name] / args.profile:>14.1f}  {name[:_NAME_WIDTH]}")


def _is_device_work(event: Any, cuda: torch.autograd.DeviceType) -> bool:
    """Whether a recorded event is a kernel or copy on the GPU, and no marker of a range."""
    return event.device_type == cuda and not getattr(event, "is_user_annotation", False)


def _covered(intervals: list[tuple[float, float]]) -> float:
    """Length of the union of intervals: work on several streams at once counts once."""
    covered, reached = 0.0, float("-inf")
    for start, end in sorted(intervals):
        covered += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return covered


if __name__ == "__main__":
    main_exit(build_parser(), main)
