"""What results say about how they came about, and the sums of it in the report."""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import json
from pathlib import Path

import pytest

from nsr import cli, job
from nsr.config import resolve
from nsr.job import HeldGpu, Job, running
from nsr.provenance import hash_inputs, manifest
from nsr.rendering.device import pick_device
from nsr.report.collect import collect
from nsr.report.spent import spent, to_tsv
from tests.source_tree import ROOT
from tests.unit.programs import call
from tests.unit.report_fixture import make_run
from tests.unit.training_scene import sphere_scene


@pytest.fixture()
def clock(monkeypatch):
    """A clock that stands still until it is set, in seconds."""
    now = [100.0]
    monkeypatch.setattr(job, "seconds", lambda: now[0])
    return now


def test_cost_of_a_job_with_gpus(clock):
    counters = {"a": 1000.0, "b": 50.0}
    mine = Job(start=90.0)
    for name in "aab":  # a GPU asked for twice counts once
        mine.hold(HeldGpu("Big GPU", name, peak=lambda: 3_000_000_000, energy=counters.__getitem__))
    clock[0] = 130.0
    counters.update(a=7000.0, b=250.0)
    cost = mine.cost()
    assert cost["wall_seconds"] == 40.0
    assert cost["gpu_seconds"] == 60.0
    assert (cost["gpus"], cost["gpu"], cost["gpu_peak_gb"], cost["energy_j"]) == (2, "Big GPU", 3.0, 6200.0)
    assert "energy_note" not in cost
    assert cost["cpu_seconds"] > 0
    assert 0.01 < cost["host_peak_gb"] < 100


def test_energy_that_is_not_known_is_said():
    assert Job().cost()["energy_note"] == job.NO_GPU
    for gpu, reason in (
        (HeldGpu("GPU", "x", share=2, energy=lambda _: 1.0), job.SHARED),
        (HeldGpu("GPU", "x", energy=lambda _: job.NO_COUNTER), job.NO_COUNTER),
    ):
        mine = Job()
        mine.hold(gpu)
        assert (mine.cost()["energy_j"], mine.cost()["energy_note"]) == (None, reason)


def test_a_shared_gpu_counts_by_its_share(clock):
    mine = Job()
    mine.hold(HeldGpu("GPU", "x", share=4))
    clock[0] += 20
    assert mine.cost()["gpu_seconds"] == 5.0


def test_a_resumed_job_costs_what_both_parts_cost(clock):
    def part(energy):
        mine, counter = Job(start=clock[0]), [0.0]
        mine.hold(HeldGpu("GPU", "x", peak=lambda: int(energy * 1e9), energy=lambda _: counter[0]))
        clock[0] += 10
        counter[0] = energy
        return mine

    first, second = part(5.0).cost(), part(3.0)
    second.carry(first)
    both = second.cost()
    assert (both["wall_seconds"], both["gpu_seconds"], both["energy_j"], both["gpu_peak_gb"]) == (20.0, 20.0, 8.0, 5.0)
    second.carry({**first, "energy_j": None, "energy_note": job.NO_DRIVER})
    assert (second.cost()["energy_j"], second.cost()["energy_note"]) == (None, job.NO_DRIVER)


def test_energy_without_a_driver_is_a_reason(monkeypatch):
    assert job.energy_counter("GPU-0") in (job.NO_DRIVER, job.NO_COUNTER)
    monkeypatch.setitem(job.sys.modules, "pynvml", None)  # as if it were not installed
    assert job.energy_counter("GPU-0") == job.NO_DRIVER


def test_inputs_are_hashed_by_content(tmp_path):
    scene = sphere_scene(tmp_path / "scene")
    (tmp_path / "photos").mkdir()
    for name in ("b.jpg", "a.jpg", ".hidden"):
        (tmp_path / "photos" / name).write_text(name)
    found = hash_inputs(Job(inputs={"scene": scene.root, "photos": tmp_path / "photos"}))
    (tmp_path / "photos" / ".hidden").write_text("other")
    (scene.root / "images" / "view00.png").touch()
    assert hash_inputs(Job(inputs={"scene": scene.root, "photos": tmp_path / "photos"})) == found
    (tmp_path / "photos" / "a.jpg").write_text("c.jpg")
    changed = hash_inputs(Job(inputs={"scene": scene.root, "photos": tmp_path / "photos"}))
    assert changed["scene"] == found["scene"]
    assert changed["photos"] != found["photos"]


def test_every_stage_says_what_made_it(tmp_path, monkeypatch):
    """A whole stage: stage, code, inputs, settings, versions, device, seed and cost are in what it writes."""
    scene = sphere_scene(tmp_path / "scene")
    settings = {"train": {"steps": 2, "samples": 500, "march": {"grid_resolution": 8}}, "model": {"sdf": {"hidden": 16}}}
    out = tmp_path / "run"
    monkeypatch.setattr(job.sys, "argv", ["train.py"])
    words = ["model.encoding.levels=2", "model.encoding.log2_table=8"]
    options = ["--scene", scene.root, "--out", out, "--device", "cpu", "--settings", json.dumps(settings)]
    assert call("train", *options, *words) == 0
    made = json.loads((out / "train.json").read_text())["manifest"]
    assert made["stage"] == "train"
    assert made["seed"] == resolve([]).train.seed
    assert made["config"]["model"]["encoding"]["levels"] == 2
    assert set(made["config"]) == {"model", "train"}
    content = (scene.root / "scene.json").read_bytes()
    expected = hashlib.sha256(f"scene.json\0{len(content)}\0".encode() + content).hexdigest()[:16]
    assert made["inputs"] == {"scene": expected}
    assert made["code"] and made["versions"]["torch"]
    cost = made["cost"]
    assert cost["wall_seconds"] > 0
    assert cost["cpu_seconds"] > 0
    assert (cost["gpu_seconds"], cost["gpu"], cost["energy_j"], cost["energy_note"]) == (0, None, None, job.NO_GPU)


def test_commit_and_code_of_a_program():
    parser = argparse.ArgumentParser(prog="mesh.py")
    found = cli._job(parser, argparse.Namespace(model=Path("m.pt"), out=Path("x"), mesh=None))
    assert found.code == cli.code_digest("mesh", ROOT)
    assert dict(found.inputs) == {"model": Path("m.pt")}
    assert cli._job(argparse.ArgumentParser(prog="pytest"), argparse.Namespace()).code is None


def test_a_manifest_has_the_jobs_cost_at_that_moment(clock):
    with running(Job("mesh", "c0de", start=60.0)) as mine:
        assert pick_device("cpu").type == "cpu"
        found = manifest(model="1234")
    assert mine.gpus == []
    assert (found["stage"], found["code"], found["model"], found["cost"]["wall_seconds"]) == ("mesh", "c0de", "1234", 40.0)


def record(path, **cost):
    data = json.loads(path.read_text()) if path.is_file() else {}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**data, "manifest": {"cost": cost}}))


def test_report_sums_what_a_data_set_cost(tmp_path):
    """Two methods share their scene, whose preparation counts once; a result without record and one without energy are said."""
    results = tmp_path / "results"
    rows = []
    for dataset, method in (("demo", "a"), ("demo", "b"), ("other", "a")):
        folder = make_run(results, dataset, "ball", method)
        rows.append({"dataset": dataset, "scene": "ball", "method": method})
        record(folder / "train.json", gpu_seconds=1800.0, cpu_seconds=3600.0, wall_seconds=2000.0, energy_j=1.8e6)
        record(folder / "mesh.json", gpu_seconds=360.0, cpu_seconds=0.0, wall_seconds=400.0, energy_j=None)
    record(results / "demo/ball/scene/prepare.json", gpu_seconds=0.0, cpu_seconds=7200.0, wall_seconds=1200.0, energy_j=None)
    (tmp_path / "runs.json").write_text(json.dumps(rows))
    demo, other = spent(collect(results, tmp_path / "runs.json"))
    assert (demo.dataset, demo.jobs, demo.without_energy) == ("demo", 5, 2)
    assert demo.gpu_hours == pytest.approx(2 * 2160 / 3600)
    assert demo.cpu_hours == pytest.approx(4.0)
    assert demo.wall_hours == pytest.approx(6000 / 3600)
    assert demo.energy_kwh == pytest.approx(1.0)
    assert demo.without_record == other.without_record * 2 > 0
    assert demo.cells == ("demo", "5", "1.200", "4.000", "1.667", "1.0000*")
    table = list(csv.DictReader(io.StringIO(to_tsv([demo, other])), delimiter="\t"))
    assert [row["dataset"] for row in table] == ["demo", "other"]
    assert float(table[0]["energy_kwh"]) == demo.energy_kwh
