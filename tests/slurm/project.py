"""A working folder with the example scenes and so small settings that a stage takes seconds, and snakemake in it."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.source_tree import ROOT, STAGES

PROFILE = ("--workflow-profile", "config/profiles/slurm", "--slurm-init-seconds-before-status-checks", "2")
# One thread everywhere: results are then the same wherever they are made.
THREADS = ("--set-threads", *(f"{stage}=1" for stage in STAGES if stage != "check"))
COLUMNS = ("dataset", "scene", "source", "format", "masks", "ground_truth", "gt_cameras", "overrides")
SCENES = {
    "spot": (
        "examples/spot/image",
        "photos",
        "examples/spot/mask",
        "examples/spot/gt_mesh.ply",
        "examples/spot/cameras_sphere.npz",
    ),
    "bob": ("examples/bob", "neus", "", "examples/bob/gt_mesh.ply", ""),
    "posed": ("examples/spot", "neus", "", "", "", "prepare.holdout_every=0"),
}
SMALL: dict[str, Any] = {
    "prepare": {"max_size": 160},
    "sfm": {"first_octave": 0},
    "train": {
        "steps": 60,
        "samples": 2048,
        "max_rays": 512,
        "anneal_steps": 20,
        "random_points": 128,
        "checkpoint_every": 20,
        "watchdog": {"after": 100_000},
        "march": {"grid_warmup": 16, "grid_resolution": 32},
    },
    "mesh": {"resolution": 32},
    "tsdf": {"voxel": 0.06, "downscale": 4},
    "texture": {"size": 256, "faces": 1000},
    "render": {"downscale": 4},
    "evaluate": {"samples": 5000},
}


class Project:
    """A folder in which snakemake runs: links to the checkout's config and examples, a list of scenes and settings."""

    def __init__(self, root: Path, scenes: tuple[str, ...], steps: int = 60) -> None:
        self.root, self.processes = root, list[subprocess.Popen[str]]()
        root.mkdir(parents=True)
        for name in ("config", "examples"):
            (root / name).symlink_to(ROOT / name)
        rows = ["\t".join(COLUMNS), *("\t".join(["examples", name, *SCENES[name]]) for name in scenes)]
        (root / "scenes.tsv").write_text("\n".join(rows) + "\n")
        settings = {**SMALL, "train": {**SMALL["train"], "steps": steps}}
        whole = {"scenes": "scenes.tsv", "methods": ["nsr-demo"], "device": "cpu", "settings": settings}
        (root / "small.json").write_text(json.dumps(whole))

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Snakemake as a process of its own; what it says is appended to `snakemake.txt`."""
        command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--configfile", "small.json"]
        with (self.root / "snakemake.txt").open("a") as log:
            process = subprocess.Popen(
                [*command, *THREADS, "--nocolor", *arguments],
                cwd=self.root,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                stdout=log,
                stderr=subprocess.STDOUT,
                text=True,
            )
        self.processes.append(process)
        return process

    def run(self, *arguments: str, seconds: float = 1500) -> None:
        """Run snakemake to a good end."""
        assert self.start(*arguments).wait(seconds) == 0, self.said()

    def close(self) -> None:
        """End snakemake where a test left it running."""
        for process in self.processes:
            process.kill()
            process.wait()

    def said(self) -> str:
        """The end of what snakemake said, without its copies of commands."""
        return (self.root / "snakemake.txt").read_text()[-6000:]

    def name_of_run(self) -> str:
        """The name that all of snakemake's last jobs have in SLURM."""
        return re.findall(r"SLURM run ID: (\S+)", (self.root / "snakemake.txt").read_text())[-1]

    def facts(self, scene: str, name: str = "train.json") -> dict[str, Any]:
        """A JSON file of a run."""
        return json.loads((self.root / "results/examples" / scene / "nsr-demo" / name).read_text())

    def summary(self) -> list[dict[str, str]]:
        """The final table."""
        with (self.root / "report/summary.tsv").open(newline="") as file:
            return list(csv.DictReader(file, delimiter="\t"))


def model(scene: str) -> str:
    """The file that training a scene makes."""
    return f"results/examples/{scene}/nsr-demo/model.pt"
