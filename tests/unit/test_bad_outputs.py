"""Outputs that cannot be written or must not be replaced: one error line, nothing half-written, nothing lost."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.unit import dataset_writers as writers
from tests.unit.programs import call, output_of, run_process, settings, the_error


def test_full_disk_while_writing_a_checkpoint(trained, tmp_path, capsys):
    """The kernel's own "no space left", at the first checkpoint."""
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full on this system")
    checkpoint = tmp_path / "out" / "checkpoint"
    checkpoint.mkdir(parents=True)
    (checkpoint / "last.pt.partial").symlink_to("/dev/full")
    argv = ["--scene", trained / "scene", "--out", tmp_path / "out", "--device", "cpu", *settings(checkpoint_every=1)]
    assert call("train", *argv) == 2
    the_error(capsys.readouterr().err, ("last.pt", "cannot be written", "free disk space", "run again"))
    assert not list(checkpoint.glob("last.pt*"))
    assert not (tmp_path / "out" / "model.pt").exists() and not (tmp_path / "out" / "train.json").exists()


@pytest.mark.parametrize("program", ["mesh", "evaluate_mesh", "report"])
def test_full_disk_while_writing_a_result(program, trained, tmp_path, capsys):
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full on this system")
    (tmp_path / "runs.json").write_text('[{"dataset": "d", "scene": "s", "method": "m"}]')
    (tmp_path / "out").mkdir()
    surface = ["--mesh", trained / "sphere.ply", "--ground-truth", trained / "sphere.ply", "evaluate.samples=500"]
    model = ["--model", trained / "run" / "model.pt", "--device", "cpu", "mesh.resolution=24", "mesh.min_views=0"]
    out, argv = {
        "mesh": ("out/mesh.ply", [*model, "mesh.mask_dilation=-1", "--scene", trained / "scene"]),
        "evaluate_mesh": ("out/mesh.json", [*surface, "--scene", trained / "scene"]),
        "report": ("out", ["--results", tmp_path, "--runs", tmp_path / "runs.json"]),
    }[program]
    first = {"mesh": "mesh.ply", "evaluate_mesh": "mesh.npz", "report": "summary.tsv"}[program]
    (tmp_path / "out" / f"{first}.partial").symlink_to("/dev/full")
    assert call(program, *argv, "--out", tmp_path / out) == 2
    the_error(capsys.readouterr().err, (first, "cannot be written", "No space left", "disk space"))
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("program", ["sfm", "prepare", "render"])
def test_a_folder_with_other_content_is_not_replaced(program, neus, trained, tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "holiday.png").write_bytes((neus / "image" / "000.png").read_bytes())
    argv = {
        "sfm": ["--photos", neus / "image"],
        "prepare": ["--format", "neus", "--source", neus, "--name", "d/s"],
        "render": ["--model", trained / "run" / "model.pt", "--scene", trained / "scene", "--device", "cpu"],
    }[program]
    assert call(program, *argv, "--out", tmp_path / "mine") == 2
    the_error(capsys.readouterr().err, ("mine", "holds 'holiday.png'", "choose another --out"))
    assert [p.name for p in tmp_path.iterdir() if p != neus] == ["mine"]
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["holiday.png"]


def test_a_source_is_not_replaced_by_its_scene(tmp_path, capsys):
    source = tmp_path / "source"
    writers.write_neus(source, writers.make_views(3))
    (source / "cameras_sphere.npz").rename(tmp_path / "cameras_sphere.npz")
    (source / "image").rename(source / "images")
    (tmp_path / "image").symlink_to(source / "images")
    assert (
        call("prepare", "--format", "neus", "--source", tmp_path, "--masks", source / "mask", "--name", "d/s", "--out", source)
        == 2
    )
    the_error(capsys.readouterr().err, ("source", "choose another --out"))
    shutil.move(source / "mask", tmp_path / "mask")
    assert call("prepare", "--format", "neus", "--source", tmp_path, "--name", "d/s", "--out", source) == 2
    the_error(capsys.readouterr().err, ("holds the input", "would be replaced", "choose another --out"))
    assert len(list((source / "images").iterdir())) == 3


@pytest.mark.parametrize("program", ["sfm", "prepare", "train", "mesh", "evaluate_mesh", "evaluate_views", "report"])
def test_output_under_a_file(program, neus, trained, tmp_path, capsys):
    (tmp_path / "file").write_text("x")
    (tmp_path / "runs.json").write_text('[{"dataset": "d", "scene": "s", "method": "m"}]')
    (tmp_path / "render.json").write_text('{"views": {}}')
    scene = ["--scene", trained / "scene"]
    model = ["--model", trained / "run" / "model.pt", "--device", "cpu", "mesh.resolution=24", "mesh.min_views=0"]
    argv = {
        "sfm": ["--photos", neus / "image"],
        "prepare": ["--format", "neus", "--source", neus, "--name", "d/s"],
        "train": [*scene, "--device", "cpu", *settings()],
        "mesh": [*model, *scene, "mesh.mask_dilation=-1"],
        "evaluate_mesh": ["--mesh", trained / "sphere.ply", *scene],
        "evaluate_views": ["--render", tmp_path, *scene],
        "report": ["--results", tmp_path, "--runs", tmp_path / "runs.json"],
    }[program]
    assert call(program, *argv, "--out", tmp_path / "file" / output_of(program)) == 2
    the_error(capsys.readouterr().err, (f"{tmp_path / 'file'}", "check the"))
    assert (tmp_path / "file").read_text() == "x"


def test_log_that_cannot_be_written(neus, refused, tmp_path):
    argv = ["--format", "neus", "--source", neus, "--name", "d/s", "--log", tmp_path]
    refused("prepare", *argv, words=("--log", tmp_path.name, "Is a directory", "check the path"))


PROCESSES = {
    "sfm": (["--photos", "absent"], ("absent", "no such folder", "check the path")),
    "prepare": (["--format", "neus", "--source", "absent", "--name", "d/s"], ("absent", "check the path")),
    "triangulate": (["--scene", "absent"], ("absent/scene.json", "no such file", "run prepare first")),
    "train": (["--scene", "absent"], ("absent/scene.json", "no such file", "run prepare first")),
    "mesh": (["--model", "absent.pt", "--scene", "absent"], ("out", "ends in .ply")),
    "tsdf": (["--model", "absent.pt", "--scene", "absent"], ("out", "ends in .ply")),
    "texture": (["--mesh", "absent.ply", "--scene", "absent"], ("absent/scene.json", "no such file", "run prepare first")),
    "render": (["--model", "absent.pt", "--scene", "absent"], ("absent.pt", "no such file", "train the scene first")),
    "evaluate_mesh": (["--mesh", "absent.ply", "--scene", "absent"], ("out", "ends in .json")),
    "evaluate_views": (["--render", "absent", "--scene", "absent"], ("out", "ends in .json")),
    "report": (["--results", "absent", "--runs", "absent.json"], ("absent.json", "No such file", "--runs")),
}


@pytest.mark.parametrize("program", PROCESSES)
def test_processes(program, tmp_path):
    argv, words = PROCESSES[program]
    done = run_process(program, *argv, "--out", tmp_path / "out")
    assert done.returncode == 2
    assert done.stdout == ""
    the_error(done.stderr, words)
    assert list(tmp_path.iterdir()) == []
