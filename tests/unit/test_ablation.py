"""Variants of a preset over several seeds: the file that lists them, their settings, and the table."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from nsr.ablation import PATTERN, read_ablation, run_name, split_name
from nsr.config import section
from nsr.errors import ConfigError, DataError
from nsr.manifest import NAME, SceneRow, WorkflowConfig, resolve_scene
from nsr.report.ablation import statistics_of, to_markdown, to_tsv, write_ablation
from tests.source_tree import ROOT

FILE = """
base: nsr
seeds: [3, 1]
variants:
  default: {}
  plain: {train: {loss: {points: 0.0}, steps: 700}}
"""


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    path = tmp_path / "ablation.yaml"
    path.write_text(FILE)
    return path


def test_runs_are_named_by_variant_and_seed(listed: Path) -> None:
    import re

    runs = read_ablation(listed).runs()
    assert runs == ["ablation.default.seed3", "ablation.default.seed1", "ablation.plain.seed3", "ablation.plain.seed1"]
    assert all(re.fullmatch(PATTERN, run) and NAME.fullmatch(run) for run in runs)
    assert split_name(run_name("a-b_c", 12)) == ("a-b_c", 12)


def test_settings_are_preset_variant_config_scene_in_that_order(listed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    row = SceneRow("d", "s", "x", "neus", overrides="train.max_rays=77")
    workflow = WorkflowConfig(ablation=str(listed), settings={"mesh": {"resolution": 99}})
    plain = resolve_scene(row, workflow, "ablation.plain.seed1")
    preset = resolve_scene(row, WorkflowConfig(), "nsr")
    assert (plain.train.seed, plain.train.steps, plain.train.max_rays, plain.mesh.resolution) == (1, 700, 77, 99)
    assert plain.model == preset.model
    default = resolve_scene(row, workflow, "ablation.default.seed3")
    assert (default.train.steps, default.train.seed) == (preset.train.steps, 3)
    with pytest.raises(ConfigError, match=r"no run 'ablation\.none\.seed1'"):
        resolve_scene(row, workflow, "ablation.none.seed1")


def test_each_shipped_variant_changes_something(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that repeats a default, because the default has changed since, would be trained for nothing."""
    monkeypatch.chdir(ROOT)
    row, workflow = SceneRow("d", "s", "x", "neus"), WorkflowConfig()
    listed = read_ablation(ROOT / workflow.ablation)
    assert len(listed.seeds) >= 3
    kinds = [section(resolve_scene(row, workflow, run_name(name, 1)), "model", "train") for name in listed.variants]
    assert all(kinds.count(kind) == 1 for kind in kinds)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("base: nsr\n", "", "needs the keys"),
        ("seeds: [3, 1]", "seeds: []", "seeds must be"),
        ("seeds: [3, 1]", "seeds: [1, 1]", "twice"),
        ("seeds: [3, 1]", "seeds: [true]", "seeds must be"),
        ("  plain:", "  pl.ain:", "cannot name a variant"),
        ("default: {}", "default: 3", "settings by section"),
        ("base: nsr", "base: [", "no YAML"),
        ("base: nsr", "base: " + "[" * 3000, "no YAML"),
        ("base: nsr", "base: 2000-13-13", "no YAML"),
    ],
)
def test_mistakes_in_the_file_are_named(listed: Path, old: str, new: str, words: str) -> None:
    listed.write_text(FILE.replace(old, new))
    with pytest.raises(ConfigError, match=words):
        read_ablation(listed)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_ablation(listed.with_name("none.yaml"))


def test_mistakes_in_the_settings_are_named(listed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    row, workflow = SceneRow("d", "s", "x", "neus"), WorkflowConfig(ablation=str(listed))
    for old, new, words in (
        ("steps: 700", "stepz: 700", "stepz"),
        ("train: {loss", "prepare: {region: masks}, train: {loss", "'prepare' belongs to the scene"),
        ("base: nsr", "base: nrs", "no preset"),
    ):
        listed.write_text(FILE.replace(old, new))
        with pytest.raises(ConfigError, match=words):
            resolve_scene(row, workflow, "ablation.plain.seed1")


def row(scene: str, variant: str, seed: int, **values: object) -> dict[str, object]:
    return {"dataset": "d", "scene": scene, "method": run_name(variant, seed), "surface": "mesh", "unit": "%", **values}


def test_statistics_are_means_spreads_and_changes_of_each_scene() -> None:
    rows = [
        row("a", "first", 1, chamfer=0.2, peak_memory_mb=900.0),
        row("a", "first", 2, chamfer=0.3, peak_memory_mb=1100.0),
        row("a", "other", 1, chamfer=0.5),
        row("b", "other", 1, psnr=30.0),
    ]
    found = {(one.scene, one.variant, one.column.key): one for one in statistics_of(rows)}
    first, other = found["d/a", "first", "chamfer"], found["d/a", "other", "chamfer"]
    assert (first.mean, first.change, first.unit) == (pytest.approx(0.25), 0.0, "%")
    assert first.spread == pytest.approx(0.4)
    assert (other.spread, other.change) == (0.0, pytest.approx(1.0))
    assert found["d/a", "first", "peak_memory_mb"].mean == pytest.approx(1.0)
    assert set(key[2] for key in found) == {"chamfer", "psnr", "peak_memory_mb"}
    lines = to_markdown(statistics_of(rows)).splitlines()
    assert lines[0] == "| variant | a Chamfer, % | a GPU memory, GB | b PSNR, dB |"
    assert lines[2:] == ["| first | 0.250 ± 0.050 | 1.00 ± 0.10 | – |", "| other | 0.500 | – | 30.00 |"]
    table = list(csv.DictReader(to_tsv(statistics_of(rows)).splitlines(), delimiter="\t"))
    assert [line["metric"] for line in table] == ["chamfer", "peak_memory_mb", "chamfer", "psnr"]
    assert float(table[2]["change"]) == pytest.approx(1.0) and table[2]["seeds"] == "1"


def test_results_of_stages_become_the_table(tmp_path: Path) -> None:
    results, runs = tmp_path / "results", tmp_path / "runs.json"
    listed = [("d", "a", run_name(variant, seed)) for variant in ("one", "two") for seed in (1, 2)]
    runs.write_text(json.dumps([{"dataset": d, "scene": s, "method": m} for d, s, m in listed]))
    with pytest.raises(DataError, match="no run of the ablation"):
        write_ablation(results, runs, tmp_path)
    for number, (dataset, scene, method) in enumerate(listed):
        folder = results / dataset / scene / method / "evaluate"
        folder.mkdir(parents=True)
        metrics = {"metrics": {"chamfer": 1.0 + number}, "unit": {"name": "percent of the object radius"}}
        (folder / "mesh.json").write_text(json.dumps(metrics))
    write_ablation(results, runs, tmp_path)
    assert (tmp_path / "ablation.md").read_text().splitlines()[2:] == ["| one | 1.500 ± 0.500 |", "| two | 3.500 ± 0.500 |"]
    assert len((tmp_path / "ablation.tsv").read_text().splitlines()) == 3
