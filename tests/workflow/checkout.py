"""A checkout in a temporary folder, with two tiny scenes, in which stage programs only write their files."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.source_tree import ROOT, child_environment

STUB = Path(__file__).resolve().parent / "stub"
COPIED = ("Snakefile", "rules", "scripts", "nsr", "config")
HEADER = "dataset\tscene\tsource\tformat\tmasks\tground_truth\tgt_cameras\toverrides\n"
ROWS = (
    "main\tphotographed\tdata/p/image\tphotos\tdata/p/mask\tdata/p/truth.ply\tdata/p/cameras.npz\t\nmain\tposed\tdata/q\tneus\n"
)


@dataclass(frozen=True)
class Checkout:
    """A copy of the project and its snakemake."""

    root: Path

    def snakemake(self, *arguments: str, check: bool = True) -> str:
        """Standard output and error of a call in the copy."""
        command = [sys.executable, "-m", "snakemake", "--cores", "2", "--nocolor", *arguments]
        # Compiled modules are kept apart, so that the second call starts faster wherever the tests run.
        caches = {"PYTHONPYCACHEPREFIX": str(self.root.parents[1] / "pyc"), "XDG_CACHE_HOME": str(self.root.parents[1] / "cache")}
        environment = child_environment(STUB, **caches)
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        done = subprocess.run(command, cwd=self.root, env=environment, text=True, capture_output=True, timeout=240)
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def reruns(self, *arguments: str) -> dict[tuple[str, str], str]:
        """What `snakemake -n` would run: (rule, scene) -> reason; scene is "" for rules over all scenes."""
        found: dict[tuple[str, str], str] = {}
        rule = reason = ""
        for line in self.snakemake("-n", *arguments).splitlines():
            if head := re.match(r"(?:local)?rule (\w+):", line):
                rule = head[1]
            elif line.startswith("    reason: "):
                reason = line.split(": ", 1)[1]
                if rule == "report":
                    found[rule, ""] = reason
            elif line.startswith("    wildcards: "):
                wildcards = dict(pair.split("=") for pair in line.split(": ", 1)[1].split(", "))
                name = f"{rule}:{wildcards['kind']}" if "kind" in wildcards else rule
                found[name, wildcards["scene"]] = reason
        return found


def make_checkout(root: Path) -> Checkout:
    """Copy the project's code and write two scenes of a few bytes."""
    root.mkdir(parents=True)
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__", "*.partial"))
        else:
            shutil.copy(ROOT / name, root / name)
    for name in ("p/image/1.jpg", "p/image/2.jpg", "p/mask/1.png", "p/mask/2.png", "p/truth.ply", "p/cameras.npz"):
        write(root / "data" / name, name)
    for name in ("q/image/1.jpg", "q/mask/1.png", "q/cameras_sphere.npz"):
        write(root / "data" / name, name)
    (root / "config/scenes.tsv").write_text(HEADER + ROWS)
    return Checkout(root)


def write(path: Path, text: str) -> None:
    """Write a file and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
