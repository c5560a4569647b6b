"""The benchmark of variants, on a small sphere: rows of its runs, failed ones among them, and what a second call repeats."""

from __future__ import annotations

import csv
import os
import queue
import shutil

import numpy as np
import pytest
import yaml

from benchmarks import variants
from nsr.cli import run
from nsr.config import section
from nsr.data.raw import Points
from nsr.gpus import SHARE, claim
from nsr.scene.scene import load_scene, save_points
from tests.unit.programs import the_error
from tests.unit.training_scene import quick_config

SMALL = {**section(quick_config(), "model", "train"), "mesh": {"resolution": 32}, "evaluate": {"samples": 5000}}
RUN = "ablation.plain.seed1"


@pytest.fixture
def ablation(tmp_path):
    """A file of two variants; the second asks for known points that the scene does not have."""
    pointed = {**SMALL, "train": {**SMALL["train"], "loss": {"points": 1.0}}}
    file = tmp_path / "ablation.yaml"
    file.write_text(yaml.safe_dump({"base": "nsr-demo", "seeds": [1], "variants": {"plain": SMALL, "pointed": pointed}}))
    return file


def call(ablation, trained, out, *options):
    scene = f"{trained / 'scene'}={trained / 'sphere.ply'}"
    return run(
        variants.build_parser(),
        variants.main,
        ["--ablation", str(ablation), "--scene", scene, "--out", str(out), *options],
    )


def rows_of(out):
    with (out / "variants.tsv").open() as stream:
        return {row["method"]: row for row in csv.DictReader(stream, delimiter="\t")}


@pytest.mark.xdist_group("variants")
def test_rows_of_runs_and_what_is_not_done_again(ablation, trained, tmp_path, capsys):
    out = tmp_path / "out"
    assert call(ablation, trained, out, "--share", "2") == 0
    rows = rows_of(out)
    plain = {key: float(rows[RUN][key]) for key in (column.key for column in variants._METRICS)}
    assert 0 < plain["chamfer"] < 20, "percent of the radius, of a sphere after 60 steps"
    assert plain["chamfer_all"] >= 0.9 * plain["chamfer"]
    assert 10 < plain["psnr_masked"] < 40
    assert plain["psnr"] > plain["psnr_masked"], "the flat backdrop is easy"
    assert "points" in rows["ablation.pointed.seed1"]["note"], "a run that cannot be done leaves the others, and says why"
    assert f"| plain | {plain['chamfer']:.4f} |" in capsys.readouterr().out
    model = out / "test" / "sphere" / RUN / "model.pt"
    written = model.stat().st_mtime_ns
    assert call(ablation, trained, out, "--variant", "plain", "--seconds", "0") == 0
    assert model.stat().st_mtime_ns == written
    assert rows_of(out) == {RUN: rows[RUN]}
    assert call(ablation, trained, out, "--variant", "plain", "--set", "train.steps=61", "--seconds", "-1") == 0
    assert "out of time" in rows_of(out)[RUN]["note"], "of other settings: it would be done again"


@pytest.mark.xdist_group("variants")
def test_sparse_points_are_found_where_the_workflow_leaves_them(ablation, trained, tmp_path):
    shutil.copytree(trained / "scene", tmp_path / "sphere" / "scene")
    way = np.random.default_rng(3).normal(size=(40, 3))
    surface = load_scene(trained / "scene").similarity.apply(0.5 * way / np.linalg.norm(way, axis=1, keepdims=True))
    (tmp_path / "sphere" / "points").mkdir()
    seen = Points(
        xyz=surface, rgb=np.zeros((40, 3), np.uint8), error=np.full(40, 0.5), offsets=np.arange(41) * 3,
        views=np.tile(np.arange(3, dtype=np.int32), 40),
    )  # fmt: skip
    save_points(seen, tmp_path / "sphere" / "points" / "points.npz")
    out = tmp_path / "out"
    options = ["--scene", str(tmp_path / "sphere" / "scene"), "--variant", "pointed", "--out", str(out)]
    assert run(variants.build_parser(), variants.main, ["--ablation", str(ablation), *options]) == 0
    row = rows_of(out)["ablation.pointed.seed1"]
    assert not row["note"] and float(row["psnr"]) > 10


def test_nothing_is_begun_when_time_is_over(ablation, trained, tmp_path):
    assert call(ablation, trained, tmp_path / "out", "--seconds", "-1", "--variant", "plain") == 0
    assert "out of time" in rows_of(tmp_path / "out")[RUN]["note"]
    assert not (tmp_path / "out" / "test").exists()


def test_mistakes_are_found_before_the_first_run(ablation, trained, tmp_path, capsys):
    assert call(ablation, trained, tmp_path / "out", "--variant", "fancy") == 2
    the_error(capsys.readouterr().err, ("--variant fancy", "plain, pointed"))
    assert call(ablation, trained, tmp_path / "out", "--set", "train.stepps=3") == 2
    the_error(capsys.readouterr().err, ("stepps",))
    assert call(ablation, trained, tmp_path / "out", "--share", "0") == 2
    the_error(capsys.readouterr().err, ("--share 0", "1 or more"))


def test_runs_that_share_a_gpu_take_places_and_not_the_whole(monkeypatch, tmp_path):
    for name in ("CUDA_VISIBLE_DEVICES", SHARE):
        monkeypatch.setenv(name, "")
    waiting = queue.Queue()
    for device in ("1", "1"):
        waiting.put(device)
    slots = []
    for _ in range(2):
        variants._settle(waiting, 2)
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "1"
        slots += claim(["GPU-1"], folder=tmp_path)  # of the whole GPU, the second would wait for the first
    assert [slot.share for slot in slots] == [2, 2]
    for slot in slots:
        slot.release()


def test_scenes_of_one_name_are_refused(ablation, trained, tmp_path, capsys):
    assert call(ablation, trained, tmp_path / "out", "--scene", str(trained / "scene")) == 2
    the_error(capsys.readouterr().err, ("two of 2 have the same name",))
