"""The benchmark of variants, on a small sphere: rows of its runs, failed ones among them, and what a second call repeats."""

from __future__ import annotations

import csv

import pytest
import yaml

from benchmarks import variants
from nsr.cli import run
from tests.unit.programs import the_error

SMALL = {
    "model": {
        "encoding": {"levels": 4, "log2_table": 10, "finest_resolution": 32, "level_steps": 10},
        "radiance": {"hidden": 16},
    },
    "train": {"steps": 60, "samples": 1500, "march": {"steps": 64, "grid_resolution": 16, "grid_warmup": 16}, "anneal_steps": 20},
    "mesh": {"resolution": 32},
    "evaluate": {"samples": 5000},
}


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
        return {row["variant"]: row for row in csv.DictReader(stream, delimiter="\t")}


@pytest.mark.xdist_group("variants")
def test_rows_of_runs_and_what_is_not_done_again(ablation, trained, tmp_path, capsys):
    out = tmp_path / "out"
    assert call(ablation, trained, out) == 0
    rows = rows_of(out)
    plain = {key: float(rows["plain"][key]) for key in variants._COLUMNS}
    assert 0 < plain["chamfer"] < 20, "percent of the radius, of a sphere after 60 steps"
    assert plain["chamfer_all"] >= 0.9 * plain["chamfer"]
    assert 10 < plain["psnr_masked"] < 40
    assert plain["psnr"] > plain["psnr_masked"], "the flat backdrop is easy"
    assert "points" in rows["pointed"]["note"], "a run that cannot be done leaves the others, and says why"
    assert "1 seeds" in capsys.readouterr().out
    model = out / "scene" / "ablation.plain.seed1" / "model.pt"
    written = model.stat().st_mtime_ns
    assert call(ablation, trained, out, "--variant", "plain", "--seconds", "0") == 0
    assert model.stat().st_mtime_ns == written
    assert rows_of(out) == {"plain": rows["plain"]}
    assert call(ablation, trained, out, "--variant", "plain", "--set", "train.steps=61", "--seconds", "-1") == 0
    assert "out of time" in rows_of(out)["plain"]["note"], "of other settings: it would be done again"


def test_nothing_is_begun_when_time_is_over(ablation, trained, tmp_path):
    assert call(ablation, trained, tmp_path / "out", "--seconds", "-1", "--variant", "plain") == 0
    assert "out of time" in rows_of(tmp_path / "out")["plain"]["note"]
    assert not (tmp_path / "out" / "scene").exists()


def test_mistakes_are_found_before_the_first_run(ablation, trained, tmp_path, capsys):
    assert call(ablation, trained, tmp_path / "out", "--variant", "fancy") == 2
    the_error(capsys.readouterr().err, ("--variant fancy", "plain, pointed"))
    assert call(ablation, trained, tmp_path / "out", "--set", "train.stepps=3") == 2
    the_error(capsys.readouterr().err, ("stepps",))


def test_means_over_seeds():
    rows = [{"scene": "s", "variant": "v", "seed": seed, "chamfer": value, "psnr": 20.0} for seed, value in ((1, 0.2), (2, 0.3))]
    (line,) = variants.summary([*rows, {"scene": "s", "variant": "v", "seed": 3, "note": "failed"}])
    assert line.split("\t")[:4] == ["s", "v", "2 seeds", "0.2500 +- 0.0500"]
