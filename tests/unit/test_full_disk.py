"""A disk that is really full: a small file system where this user may mount one, else a limit on the size of files."""

from __future__ import annotations

import resource
import subprocess

import pytest

from tests.unit.programs import call, settings, the_error
from tests.unit.test_training import difference, parameters


@pytest.fixture()
def disk(tmp_path):
    """A file system of 1 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("this user may not mount a file system")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


@pytest.fixture()
def small_files():
    """No file may grow beyond 50 kB."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def training(trained, out):
    return ["--scene", trained / "scene", "--out", out, "--device", "cpu", *settings(steps=6, checkpoint_every=2, log_every=1)]


def test_training_on_a_disk_that_becomes_full(trained, disk, tmp_path, capsys):
    """The steps up to the last checkpoint are kept; with room again the run ends as if nothing had been."""
    assert call("train", *training(trained, tmp_path / "whole")) == 0
    checkpoint = tmp_path / "whole" / "checkpoint" / "last.pt"
    room = checkpoint.stat().st_size
    filler = disk / "other"
    filler.write_bytes(bytes((1 << 20) - room - (1 << 15)))  # for one checkpoint, not for the second beside it
    assert call("train", *training(trained, disk / "run")) == 2
    the_error(capsys.readouterr().err, ("last.pt", "No space left", "run again"))
    assert [path.name for path in (disk / "run").iterdir()] == ["checkpoint"]
    assert sorted(path.name for path in (disk / "run" / "checkpoint").iterdir()) == ["last.pt", "lock", "metrics.jsonl"]
    filler.unlink()
    assert call("train", *training(trained, disk / "run")) == 0
    assert "resumed at step 2 of 6" in capsys.readouterr().err
    assert difference(parameters(tmp_path / "whole"), parameters(disk / "run")) == 0


def test_a_result_that_cannot_be_written_whole_is_not_there(trained, tmp_path, small_files, capsys):
    """The kernel refuses in the middle of the file; the result of before stays."""
    out = tmp_path / "mesh.ply"
    out.write_bytes(b"the mesh of before")
    options = ["--model", trained / "run" / "model.pt", "--scene", trained / "scene", "--device", "cpu"]
    assert call("mesh", *options, "--out", out, "mesh.resolution=64", "mesh.min_views=0", "mesh.mask_dilation=-1") == 2
    the_error(capsys.readouterr().err, ("mesh.ply", "cannot be written", "File too large", "disk space"))
    assert out.read_bytes() == b"the mesh of before"
    assert [path.name for path in tmp_path.iterdir()] == ["mesh.ply"]
