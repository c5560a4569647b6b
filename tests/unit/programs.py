"""Programs run as a user runs them, and what a refusal must look like."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from nsr.cli import run
from nsr.config import section
from tests.source_tree import ROOT, child_environment
from tests.unit.training_scene import quick_config

ERROR = re.compile(r"\d\d:\d\d:\d\d ERROR (.+)")


def settings(**train) -> list[str]:
    """Options for a model of a few parameters."""
    return ["--settings", json.dumps(section(quick_config(**{"steps": 2, "log_every": 1, **train}), "model", "train"))]


def call(program: str, *argv: object) -> int:
    """Exit code of a program run in this process, with one thread."""
    import torch

    module, threads = import_module(f"scripts.{program}"), torch.get_num_threads()
    try:
        return run(module.build_parser(), module.main, ["--threads", "1", *map(str, argv)])
    finally:
        torch.set_num_threads(threads)


def run_process(program: str, *argv: object) -> subprocess.CompletedProcess[str]:
    """A program run as a process of its own, from another working directory."""
    command = [sys.executable, ROOT / "scripts" / f"{program}.py", "--threads", "1", *argv]
    environment = child_environment(OMP_NUM_THREADS="1")
    return subprocess.run(map(str, command), cwd=ROOT.parent, env=environment, capture_output=True, text=True, check=False)


def the_error(stderr: str, words: tuple[str, ...]) -> str:
    """The message of the one error line, which holds all the words; no traceback around it."""
    assert "Traceback" not in stderr, stderr
    errors = [line for line in stderr.splitlines() if "WARNING" not in line and "INFO" not in line]
    assert len(errors) == 1, stderr
    match = ERROR.fullmatch(errors[0])
    assert match, stderr
    for word in words:
        assert word in match[1], match[1]
    return match[1]


def cut(path: Path) -> None:
    """Keep the first half of a file."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def output_of(program: str) -> str:
    """A name that a program's `--out` may have."""
    endings = {"mesh": ".ply", "tsdf": ".ply", "evaluate_mesh": ".json", "evaluate_views": ".json"}
    return "out" + endings.get(program, "")


class Refusal:
    """Runs programs that must fail and looks at what they say and leave."""

    def __init__(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.capsys = tmp_path / "results", capsys

    def __call__(self, program: str, *argv: object, words: tuple[str, ...], code: int = 2, out: str | None = None) -> None:
        """Run with `--out` in an empty folder, which must stay empty."""
        self.folder.mkdir(exist_ok=True)
        self.capsys.readouterr()
        assert call(program, *argv, "--out", self.folder / (out or output_of(program))) == code
        the_error(self.capsys.readouterr().err, words)
        assert list(self.folder.iterdir()) == [], "something was left behind"
