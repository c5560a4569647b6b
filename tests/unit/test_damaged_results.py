"""Damaged results of stages: the report names them, and a training passes over a checkpoint that it cannot use."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from nsr.errors import DataError
from nsr.report.collect import Run, collect
from nsr.report.spent import spent
from nsr.train.checkpoint import CHECKPOINT_VERSION, find_resumable, save_checkpoint

DEEP = "[" * 3000
RUN = {"dataset": "d", "scene": "s", "method": "m"}


def collected(root: Path, **more: Any) -> Run:
    (root / "runs.json").write_text(json.dumps([{**RUN, **more}]))
    (run,) = collect(root / "r", root / "runs.json")
    return run


def written(path: Path, content: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def test_lists_in_lists_without_end(tmp_path: Path) -> None:
    for name in ("train.json", "metrics.jsonl"):
        written(tmp_path / "r/d/s/m" / name, DEEP)
    run = collected(tmp_path)
    assert [failure.stage for failure in run.failures] == ["train"]
    assert "train.json: damaged" in run.failures[0].reason
    assert run.warnings == ("metrics.jsonl: 1 unreadable lines left out",)
    assert spent([run])[0].without_record == 1
    (tmp_path / "runs.json").write_text(DEEP)
    with pytest.raises(DataError, match=r"runs\.json: not a JSON list"):
        collect(tmp_path / "r", tmp_path / "runs.json")


def test_a_step_that_is_no_number_of_this_world(tmp_path: Path) -> None:
    written(tmp_path / "r/d/s/m/metrics.jsonl", '{"step": 1' + "0" * 400 + '}\n{"step": 5}\n')
    run = collected(tmp_path)
    assert run.curve == ({"step": 5},)
    assert run.warnings == ("metrics.jsonl: 1 unreadable lines left out",)


@pytest.mark.parametrize("content", [b"s\xff\n1\n", b"s" * 200_000, b""])
def test_times_that_cannot_be_read_are_not_there(tmp_path: Path, content: bytes) -> None:
    written(tmp_path / "logs/benchmarks/d/s/m/train.tsv", content)
    written(tmp_path / "logs/benchmarks/d/s/m/mesh.tsv", b"s\n2.5\n")
    assert collected(tmp_path).seconds == {"mesh": 2.5}


@pytest.mark.parametrize("name", ["a" * 300, "../../..", "a\0b"])
def test_names_in_the_list_of_runs_that_are_no_paths(tmp_path: Path, name: str) -> None:
    for key in RUN:
        with pytest.raises(DataError, match=r"runs\.json: names no run below .*(leads out of|too long a path|is no path)"):
            collected(tmp_path, **{key: name + "/.." if key == "method" and name[0] == "." else name})


def test_folders_in_the_list_of_runs_that_are_no_paths(tmp_path: Path) -> None:
    for key in ("folder", "ground_truth"):
        with pytest.raises(DataError, match=r"runs\.json: folder and ground_truth of d/s must be paths"):
            collected(tmp_path, **{key: [1]})
    run = collected(tmp_path, folder="a" * 300, ground_truth="b" * 300)
    assert run.folder == tmp_path / "r/d/s/m"
    assert run.ground_truth is None


@pytest.mark.parametrize("identity", [None, 3])
def test_a_checkpoint_that_does_not_say_whose_it_is(tmp_path: Path, caplog: pytest.LogCaptureFixture, identity: Any) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint({"version": CHECKPOINT_VERSION, "identity": {"data": "x"}, "step": 1}, path)
    save_checkpoint({"version": CHECKPOINT_VERSION, "identity": identity, "step": 2}, path)
    found = find_resumable(path, {"data": "x"}, torch.device("cpu"))
    assert found is not None and found["step"] == 1, "the one before it"
    assert "last.pt: does not say whose checkpoint it is" in caplog.text


def test_a_changed_byte_of_a_weight_is_damage(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path, weights = tmp_path / "last.pt", torch.full((64,), 1.5)
    save_checkpoint({"version": CHECKPOINT_VERSION, "identity": {}, "model": weights}, path)
    content = bytearray(path.read_bytes())
    content[content.index(weights.numpy().tobytes()) + 5] ^= 1
    path.write_bytes(content)
    assert find_resumable(path, {}, torch.device("cpu")) is None
    assert "last.pt: corrupt (BadZipFile); delete it and train again" in caplog.text
