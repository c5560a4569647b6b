"""Golden ranges: what passes, what fails with both numbers, what a wrong table is told; the lists that come with the project."""

from __future__ import annotations

import csv
import json
import statistics
from collections import defaultdict
from pathlib import Path

import pytest

from nsr.errors import ConfigError, ResultOutOfRange
from nsr.evaluate.dtu import dtu_files
from nsr.evaluate.golden import COLUMNS, check_results, measured, read_ranges, read_runs
from nsr.evaluate.tanks import TAU
from nsr.manifest import read_manifest, truth_files
from tests.unit.programs import call, the_error

ROOT = Path(__file__).parents[2]


@pytest.fixture
def finished(tmp_path):
    """One run with results, and a function that writes a table of ranges."""
    folder = tmp_path / "a/b/nsr"
    (folder / "evaluate").mkdir(parents=True)
    (folder / "evaluate/mesh.json").write_text(json.dumps({"metrics": {"chamfer": 0.61, "nothing": None}}))
    (folder / "train.json").write_text(json.dumps({"psnr_train": 31.5}))
    runs = [{"dataset": "a", "scene": "b", "method": "nsr", "folder": str(folder)}]

    def table(*rows):
        lines = ["# ranges", "\t".join(COLUMNS), *("\t".join(row.split(" ")) for row in rows)]
        (tmp_path / "golden.tsv").write_text("\n".join(lines) + "\n")
        return tmp_path / "golden.tsv"

    return runs, table, tmp_path / "check.tsv"


def test_results_in_range_pass_and_are_listed(finished):
    runs, table, out = finished
    golden = table("a b nsr mesh chamfer 0.5 0.61", "a b nsr train psnr_train 30 ", "a b other mesh chamfer 0 0.1")
    check_results(golden, runs, out)
    rows = list(csv.DictReader(out.read_text().splitlines(), delimiter="\t"))
    assert [(row["metric"], float(row["measured"])) for row in rows] == [("chamfer", 0.61), ("psnr_train", 31.5)]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("a b nsr mesh chamfer 0.4 0.6", "a/b nsr mesh chamfer: 0.61, golden 0.4 to 0.6"),
        ("a b nsr train psnr_train 32 ", "psnr_train: 31.5, golden 32 to any"),
        ("a b nsr mesh nothing 0 1", "nothing: not measured, golden 0 to 1"),
        ("a b nsr tsdf chamfer 0 1", "tsdf chamfer: not measured"),
    ],
)
def test_a_regression_fails_with_both_numbers(finished, row, words):
    runs, table, out = finished
    with pytest.raises(ResultOutOfRange, match="1 of 2 results are out of their range") as error:
        check_results(table(row, "a b nsr mesh chamfer 0 1"), runs, out)
    assert words in str(error.value)
    assert not out.exists()


def test_program_ends_with_its_own_exit_code(finished, tmp_path, capsys):
    runs, table, out = finished
    (tmp_path / "runs.json").write_text(json.dumps(runs))
    golden = table("a b nsr mesh chamfer 0.4 0.6")
    assert call("check", "--golden", golden, "--runs", tmp_path / "runs.json", "--out", out) == 5
    the_error(capsys.readouterr().err, ("0.61", "0.4 to 0.6"))
    assert call("check", "--golden", table("a b nsr mesh chamfer 0.4 0.7"), "--runs", tmp_path / "runs.json", "--out", out) == 0


def test_wrong_tables_and_lists_are_named(finished, tmp_path):
    _, table, _ = finished
    for row, words in (
        ("a b nsr meshes chamfer 0 1", "result 'meshes'"),
        ("a b nsr mesh chamfer x 1", "low 'x'"),
        ("a b nsr mesh chamfer 2 1", "low 2 is over high 1"),
        ("a b nsr mesh chamfer nan 1", "is over high"),
    ):
        with pytest.raises(ConfigError, match=words):
            read_ranges(table(row))
    (tmp_path / "golden.tsv").write_text("dataset\tscene\n")
    with pytest.raises(ConfigError, match="columns must be"):
        read_ranges(tmp_path / "golden.tsv")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_ranges(tmp_path / "none.tsv")
    (tmp_path / "runs.json").write_text('[{"scene": "b"}]')
    with pytest.raises(ConfigError, match="not a JSON list of runs"):
        read_runs(tmp_path / "runs.json")
    (tmp_path / "evaluate").mkdir()
    (tmp_path / "evaluate/views.json").write_text("broken")
    assert measured(tmp_path, "views", "psnr") is None


@pytest.mark.parametrize(("content", "words"), [(b"\xff\xfe", "save it as a table in UTF-8"), (b"a" * 200_000, "no table")])
def test_files_that_are_no_table_of_ranges(tmp_path, content, words):
    (tmp_path / "golden.tsv").write_bytes(content)
    with pytest.raises(ConfigError, match=rf"golden\.tsv: .*{words}"):
        read_ranges(tmp_path / "golden.tsv")


@pytest.mark.parametrize("content", ["[" * 3000, '{"psnr_train": 1' + "0" * 400 + "}"])
def test_numbers_that_cannot_be_read_are_not_measured(tmp_path, content):
    (tmp_path / "train.json").write_text(content)
    assert measured(tmp_path, "train", "psnr_train") is None
    (tmp_path / "runs.json").write_text("[" * 3000)
    with pytest.raises(ConfigError, match=r"runs\.json: not a JSON list of runs"):
        read_runs(tmp_path / "runs.json")


def test_shipped_ranges_are_those_of_the_demo(monkeypatch):
    monkeypatch.chdir(ROOT)
    ranges = read_ranges(ROOT / "config/golden.tsv")
    assert {f"{item.dataset}/{item.scene}" for item in ranges} == {row.name for row in read_manifest(Path("config/scenes.tsv"))}
    assert {item.method for item in ranges} == {"nsr-demo"}


@pytest.mark.parametrize(("name", "count"), [("dtu", 15), ("tanks", 6)])
def test_shipped_lists_of_benchmarks(name, count, tmp_path, monkeypatch):
    """With data in the described layout the list is accepted, and all files that its protocol reads are watched."""
    table = ROOT / f"config/{name}.tsv"
    lines = [line for line in table.read_text().splitlines() if not line.startswith("#")]
    for row in csv.DictReader(lines, delimiter="\t"):
        (tmp_path / row["source"]).mkdir(parents=True)
        for column in ("ground_truth", "gt_cameras"):
            if row[column]:
                (tmp_path / row[column]).parent.mkdir(parents=True, exist_ok=True)
                (tmp_path / row[column]).touch()
        if row["gt_cameras"]:
            (tmp_path / row["gt_cameras"].replace("_COLMAP_SfM.log", "_trans.txt")).touch()
    monkeypatch.chdir(tmp_path)
    rows = read_manifest(table)
    assert len(rows) == count
    if name == "dtu":
        for row in rows:
            assert truth_files(row)[1:] == [path.as_posix() for path in dtu_files(Path(row.ground_truth))]
            assert int(row.scene.removeprefix("scan")) == int(Path(row.ground_truth).name[3:6])
    else:
        assert {row.scene for row in rows} == set(TAU) - {"Church"}
        names = [Path(path).name for path in truth_files(rows[0])]
        assert names == ["Barn.ply", "Barn_COLMAP_SfM.log", "Barn.json", "Barn_trans.txt"]


def test_published_table_is_whole():
    lines = [line for line in (ROOT / "config/published/dtu.tsv").read_text().splitlines() if not line.startswith("#")]
    by_method = defaultdict(dict)
    for row in csv.DictReader(lines, delimiter="\t"):
        by_method[row["method"]][row["scan"]] = float(row["chamfer"])
        assert row["source"]
    scans = [row.split("\t")[1].removeprefix("scan") for row in (ROOT / "config/dtu.tsv").read_text().splitlines()[4:]]
    for method, values in by_method.items():
        assert set(values) == {*scans, "mean"}, method
        assert statistics.mean(values[scan] for scan in scans) == pytest.approx(values["mean"], abs=0.012), method
