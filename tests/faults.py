"""The real workflow under real faults: what each one loses, and how long it takes to be where an undisturbed run is.

Two painted spheres go through all stages on a CPU; one is done already, while the other is worked on something goes wrong. Each fault
begins with the same state, must leave nothing broken, and after one more call of snakemake the summary must be that of the
undisturbed run, number by number, with no finished stage repeated. Takes minutes; the test suite has the same in small.

python -m tests.faults
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import trimesh

from tests.source_tree import STAGES
from tests.unit.dataset_writers import TrueView, write_neus
from tests.unit.look_at import look_at
from tests.unit.training_scene import RADIUS, K, photograph
from tests.workflow.checkout import make_checkout

_CONFIG = """
scenes: config/scenes.tsv
methods: [tiny]
device: cpu
settings: {}
"""
_METHOD = """
model:
  encoding: {levels: 6, log2_table: 12, base_resolution: 8, finest_resolution: 64, level_steps: 50}
  sdf: {hidden: 16, geometry_features: 4}
  radiance: {hidden: 16, layers: 1, view_degree: 1}
  background: {kind: random}
train:
  steps: 120
  samples: 1500
  start_rays: 64
  max_rays: 256
  anneal_steps: 40
  use_masks: required
  march: {steps: 64, grid_resolution: 16, grid_warmup: 16}
  loss: {mask: 0.1}
  optim: {warmup_steps: 10}
  checkpoint_every: 20
mesh: {resolution: 32}
tsdf: {voxel: 0.05, downscale: 1}
texture: {size: 256, faces: 1000}
evaluate: {samples: 5000}
"""
_SAME = (
    "dataset",
    "scene",
    "method",
    "surface",
    "status",
    "chamfer",
    "accuracy",
    "completeness",
    "psnr",
    "ssim",
    "triangles",
    "steps",
)
_DISK = 16 << 20  # bytes of the file system that becomes full


@dataclass
class Place:
    """A copy of the project, in `root`, in which snakemake runs."""

    root: Path

    def start(self, *targets: str, options: Sequence[str] = ()) -> subprocess.Popen[str]:
        """A call of snakemake in a session of its own."""
        command = [sys.executable, "-m", "snakemake", "--cores", "2", "--nocolor", "--rerun-incomplete"]
        # One thread each: so small a problem gains nothing from more, and two jobs run side by side.
        command += ["--set-threads", *(f"{rule}=1" for rule in STAGES if rule != "check"), *options, "--", *targets]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(
            command, cwd=self.root, env=environment, start_new_session=True, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def run(self, *targets: str, options: Sequence[str] = (), good: bool = True) -> str:
        """Output of a call that must end well, or must not."""
        process = self.start(*targets, options=options)
        text = process.communicate()[0]
        assert (process.returncode == 0) == good, text
        return text

    def results(self) -> dict[str, float]:
        """When each result was written."""
        root = self.root / "results"
        return {str(path.relative_to(root)): path.stat().st_mtime for path in root.rglob("*") if path.is_file()}

    def table(self) -> list[dict[str, str]]:
        """What must be equal of the summary."""
        with (self.root / "report/summary.tsv").open(newline="") as file:
            return [{key: row.get(key, "") for key in _SAME} for row in csv.DictReader(file, delimiter="\t")]

    def until(self, name: str, process: subprocess.Popen[str]) -> None:
        """Wait for a file of the second scene while snakemake runs."""
        path = self.root / "results/faults/second" / name
        while not path.exists():
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.01)

    def kill_training(self) -> None:
        """kill -9 of the training's own process."""
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                words = (entry / "cmdline").read_bytes().split(b"\0")
                if Path(os.readlink(entry / "cwd")) == self.root and any(w.endswith(b"scripts/train.py") for w in words[1:2]):
                    os.kill(int(entry.name), signal.SIGKILL)


def killed_workflow(place: Place) -> str:
    """kill -9 of snakemake and all its jobs in the middle of a training."""
    process = place.start()
    place.until("tiny/checkpoint/last.pt", process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    place.run(options=["--unlock"])
    return "steps since the last checkpoint"


def killed_training(place: Place) -> str:
    """kill -9 of the training alone."""
    process = place.start()
    place.until("tiny/checkpoint/last.pt", process)
    place.kill_training()
    process.communicate()
    assert process.returncode == 1
    return "steps since the last checkpoint"


def full_disk(place: Place) -> str:
    """A disk that becomes full during training; it has room again before the next call."""
    results = place.root / "results"
    kept = place.root / "kept"
    shutil.move(results, kept)
    results.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={_DISK}", "tmpfs", str(results)], check=True)
    shutil.copytree(kept, results, dirs_exist_ok=True, copy_function=shutil.copy2)
    process = place.start()
    place.until("tiny/checkpoint/last.pt", process)
    with (results / "other").open("wb") as other, contextlib.suppress(OSError):
        while True:
            other.write(bytes(1 << 16))
            other.flush()
    text = process.communicate()[0]
    assert process.returncode == 1, text
    log = (place.root / "logs/faults/second/tiny/train.log").read_text()
    assert "disk space" in log or "No space left" in text, log + text
    (results / "other").unlink()
    return "steps since the last checkpoint"


def damaged_checkpoint(place: Place) -> str:
    """Half of each checkpoint there is, as after a fault of the disk."""
    killed_workflow(place)
    for checkpoint in (place.root / "results/faults/second/tiny/checkpoint").glob("*.pt"):
        checkpoint.write_bytes(checkpoint.read_bytes()[: checkpoint.stat().st_size // 2])
    return "the training of this scene, which starts afresh"


def damaged_photograph(place: Place) -> str:
    """Half a photograph; it is put back before the next call."""
    photo = place.root / "data/second/image/003.png"
    whole = photo.read_bytes()
    photo.write_bytes(whole[: len(whole) // 2])
    assert "003.png" in place.run(good=False)
    photo.write_bytes(whole)
    return "nothing"


def damaged_result(place: Place) -> str:
    """Half a model; the stages that read it say so, and it is deleted as they say."""
    place.run("results/faults/second/tiny/model.pt")
    model = place.root / "results/faults/second/tiny/model.pt"
    before = model.stat()
    model.write_bytes(model.read_bytes()[: before.st_size // 2])
    os.utime(model, (before.st_atime, before.st_mtime))
    assert "model.pt: corrupt" in place.run(options=["--keep-going"], good=False)
    for name in ("model.pt", "train.json", "metrics.jsonl"):  # of one stage: they come and go together
        model.with_name(name).unlink()
    return "the last steps of the training, which goes on from its checkpoint"


def impossible_scene(place: Place) -> str:
    """One scene of two has cameras that see nothing, and --keep-going; the report of the failed run has one diagnosis of it."""
    cameras = place.root / "data/second/cameras_sphere.npz"
    whole = cameras.read_bytes()
    cameras.write_bytes(b"")
    place.run(options=["--keep-going"], good=False)
    with (place.root / "report/unfinished/summary.tsv").open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert [row["status"] for row in rows] == ["ok", "ok", "failed", "failed"]
    assert {row["reason"].startswith("prepare: ") and "cameras_sphere.npz" in row["reason"] for row in rows[2:]} == {True}
    cameras.write_bytes(whole)
    return "nothing; the other scene is in the report"


FAULTS: tuple[Callable[[Place], str], ...] = (
    killed_workflow, killed_training, full_disk, damaged_checkpoint, damaged_photograph, damaged_result, impossible_scene,
)  # fmt: skip


def make_place(root: Path) -> Place:
    """The project with two painted spheres."""
    make_checkout(root)
    (root / "config/config.yaml").write_text(_CONFIG)
    (root / "config/methods/tiny.yaml").write_text(_METHOD)
    shutil.rmtree(root / "data")
    lines = ["dataset\tscene\tsource\tformat\tmasks\tground_truth\tregion"]
    for name, turn in (("first", 0.0), ("second", 0.3)):
        write_neus(root / "data" / name, _views(turn))
        truth = trimesh.creation.icosphere(subdivisions=4, radius=RADIUS)
        truth.export(root / f"data/{name}/truth.ply")
        lines.append(f"faults\t{name}\tdata/{name}\tneus\t\tdata/{name}/truth.ply\t0,0,0,1")
    (root / "config/scenes.tsv").write_text("\n".join(lines) + "\n")
    return Place(root)


def _views(turn: float) -> list[TrueView]:
    views = []
    for index in range(12):
        angle, height = turn + 2 * np.pi * index / 12, 0.9 if index % 2 else -0.5
        w2c = look_at(2.4 * np.array([np.cos(angle), np.sin(angle), height]) / np.hypot(1, height))
        views.append(TrueView(f"{index:03d}", K, w2c, *photograph(w2c)))
    return views


@contextlib.contextmanager
def copied(start: Path, root: Path) -> Iterator[Place]:
    """A copy of a place, with the times of its files."""
    shutil.copytree(start, root, symlinks=True)
    try:
        yield Place(root)
    finally:
        subprocess.run(["umount", str(root / "results")], stderr=subprocess.DEVNULL, check=False)


def main() -> int:
    """Print one line for each fault."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [fault.__name__ for fault in FAULTS]
    parser.add_argument("faults", nargs="*", metavar="FAULT", default=names, help=f"default: all of {', '.join(names)}")
    chosen = parser.parse_args().faults
    with tempfile.TemporaryDirectory(prefix="nsr-faults-") as folder:
        start = make_place(Path(folder) / "start")
        start.run(*(f"results/faults/first/tiny/{name}" for name in _ends()))
        with copied(start.root, Path(folder) / "undisturbed") as place:
            begin = time.monotonic()
            place.run()
            whole, table = time.monotonic() - begin, place.table()
        sys.stdout.write(f"undisturbed: {whole:.0f} s\n")
        for fault in (fault for fault in FAULTS if fault.__name__ in chosen):
            with copied(start.root, Path(folder) / fault.__name__) as place:
                lost = fault(place)
                before = place.results()
                begin = time.monotonic()
                place.run()
                seconds = time.monotonic() - begin
                repeated = _repeated(before, place.results())
                assert place.table() == table, f"{fault.__name__}: {place.table()}\n{table}"
                assert not repeated, f"{fault.__name__}: written again: {repeated}"
            sys.stdout.write(f"{fault.__name__}: lost {lost}; recovered in {seconds:.0f} s, same summary\n")
            sys.stdout.flush()
    return 0


def _ends() -> list[str]:
    """Last results of a scene."""
    return ["texture/texture.json", "evaluate/mesh.json", "evaluate/tsdf.json", "evaluate/views.json"]


def _repeated(before: dict[str, float], after: dict[str, float]) -> list[str]:
    """Results that were there after the fault and were written again, beside lists of runs and what training keeps for itself."""
    own = ("checkpoint", "runs.json")
    return [name for name, when in before.items() if not any(part in name for part in own) and after.get(name) != when]


if __name__ == "__main__":
    sys.exit(main())
