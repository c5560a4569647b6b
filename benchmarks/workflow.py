"""Scale of the workflow: seconds and memory of `snakemake -n` over many scenes and methods, on one core.

A working folder is made with a list of scenes of data set "many", each with a few one-pixel photographs, a ground truth and, unless
--plain, a setting of its own, so that nothing is shared between scenes. Commands are measured, each as a process on one core:
  parse      `snakemake --list-rules`: config, list of scenes and rules, without a graph of jobs
  dry run    `snakemake -n --quiet rules`: everything until the first job would start
  printed    `snakemake -n`, which prints every job
The first dry run reads every source to hash it, the others find the hashes remembered. Python's compiled modules are there, as where
snakemake was called before. Beside the wall clock stands the CPU time; on busy cores it grows, too, but less.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

from benchmarks.timing import benchmark_parser
from nsr.cli import main_exit
from nsr.errors import ConfigError

ROOT = Path(__file__).resolve().parents[1]
COLUMNS = ("dataset", "scene", "source", "format", "ground_truth", "overrides")


def build_parser() -> argparse.ArgumentParser:
    """The program's options."""
    parser = benchmark_parser(__doc__)
    parser.add_argument("--scenes", type=int, nargs="+", default=[100, 1000], metavar="N", help="default 100 1000")
    parser.add_argument("--methods", type=int, default=3, metavar="M", help="presets a scene is run with; default 3")
    parser.add_argument("--files", type=int, default=3, metavar="F", help="photographs a scene; default 3")
    parser.add_argument("--plain", action="store_true", help="no setting of its own for each scene")
    return parser


def make_project(root: Path, scenes: int, methods: int, files: int, *, plain: bool = False) -> Path:
    """A working folder with sources, list of scenes and config.

    Args:
        root: folder to make it in. scenes, methods, files: how many. plain: scenes have no settings of their own.

    Returns:
        The config file to run with.

    Raises:
        ConfigError: there are fewer presets than `methods`.
    """
    presets = sorted((path.stem for path in (ROOT / "config/methods").glob("*.yaml")), key=_first_ours)
    if methods > len(presets):
        raise ConfigError(f"--methods {methods}: there are {len(presets)} presets")
    shutil.copytree(ROOT / "config", root / "config")
    pixel = root / "pixel.png"
    Image.new("RGB", (1, 1)).save(pixel)
    rows = ["\t".join(COLUMNS)]
    for number in range(scenes):
        folder = root / "sources" / f"{number:05d}"
        (folder / "image").mkdir(parents=True)
        for name in (*(f"image/{index:03d}.png" for index in range(files)), "cameras_sphere.npz", "truth.ply"):
            shutil.copyfile(pixel, folder / name)
        source = folder.relative_to(root).as_posix()
        own = "" if plain else f"prepare.max_size={1000 + number}"
        rows.append("\t".join(["many", f"scene{number:05d}", source, "neus", f"{source}/truth.ply", own]))
    (root / "scenes.tsv").write_text("\n".join(rows) + "\n")
    config = {"scenes": "scenes.tsv", "methods": presets[:methods], "device": "cpu"}
    path = root / "many.json"
    path.write_text(json.dumps(config))
    return path


def _first_ours(preset: str) -> tuple[bool, str]:
    """Order of the presets: `nsr` and its kin, which train with triangulated points, before the ancestors."""
    return not preset.startswith("nsr"), preset


def measure(root: Path, *arguments: str) -> tuple[float, float, float, str]:
    """Wall seconds, CPU seconds, peak memory in MB and output of one snakemake process on one core.

    Raises:
        ConfigError: snakemake failed; its last lines are in the message.
    """
    command = [
        sys.executable,
        "-m",
        "snakemake",
        "--snakefile",
        str(ROOT / "Snakefile"),
        "--cores",
        "1",
        "--configfile",
        "many.json",
    ]
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment = {**kept, "OMP_NUM_THREADS": "1", "PYTHONPYCACHEPREFIX": str(root / "pyc")}
    start = time.perf_counter()
    log = root / "snakemake.log"
    with log.open("w") as handle:
        process = subprocess.Popen(
            [*command, *arguments],
            cwd=root,
            env=environment,
            stdout=handle,
            stderr=subprocess.STDOUT,
            preexec_fn=_one_core,
        )
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    seconds, text = time.perf_counter() - start, log.read_text()
    if process.returncode:
        raise ConfigError(f"snakemake {' '.join(arguments)} failed: {' '.join(text.split())[-500:]}")
    memory = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6
    return seconds, usage.ru_utime + usage.ru_stime, memory, text


def jobs_of(text: str) -> int:
    """Number of jobs in the table that a dry run ends with."""
    return next((int(line.split()[1]) for line in text.splitlines() if line.startswith("total ")), 0)


def main(args: argparse.Namespace) -> None:
    """Measure and write a table."""
    out = sys.stdout
    out.write(f"{'scenes':>7} {'methods':>8} {'jobs':>7} {'command':<16} {'seconds':>8} {'CPU':>7} {'MB':>7}\n")
    for scenes in args.scenes:
        with tempfile.TemporaryDirectory(prefix="nsr-workflow-") as folder:
            root = Path(folder)
            make_project(root, scenes, args.methods, args.files, plain=args.plain)
            measure(root, "--version")  # compiles snakemake's modules
            dry = ("-n", "--quiet", "rules")
            commands = {"parse": ("--list-rules",), "dry run": dry, "dry run, again": dry, "printed": ("-n",)}
            for name, arguments in commands.items():
                seconds, cpu, memory, text = measure(root, *arguments)
                out.write(
                    f"{scenes:7d} {args.methods:8d} {jobs_of(text):7d} {name:<16} {seconds:8.1f} {cpu:7.1f} {memory:7.0f}\n"
                )
                out.flush()


def _one_core() -> None:
    """Keep the process to one of the cores it may use, where the system can do that."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    main_exit(build_parser(), main)
