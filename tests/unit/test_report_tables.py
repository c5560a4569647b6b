"""Best numbers, means, costs, other formats, published numbers and the comparison of two runs, on rows written by hand."""

from __future__ import annotations

import io
import json
import math
import re

import numpy as np
import pandas as pd
import pytest

from nsr import cli
from nsr.errors import DataError
from nsr.report import figures
from nsr.report.collect import collect
from nsr.report.compare import changes, changes_tsv, read_summary
from nsr.report.formats import to_latex, to_markdown
from nsr.report.published import matrices, read_published
from nsr.report.tables import best_cells, better, cell, mean_rows, short_columns, summary_rows, to_text, to_tsv
from scripts import report as program
from tests.unit.report_fixture import make_run, write, write_runs


def row(scene: str, method: str, surface: str = "mesh", **values):
    """A row of the summary, measured in percent by the project's own protocol unless said otherwise."""
    place = {"dataset": "d", "scene": scene, "method": method, "surface": surface, "status": "ok"}
    return {**place, "protocol": "object-surface 1", "unit": "%", "alignment": "none", **values}


def best_of(rows):
    return {(rows[index]["method"], key) for index, key in best_cells(rows, short_columns(rows))}


def test_best_is_least_error_and_most_score_within_a_scene():
    rows = [
        row("a", "one", chamfer=0.5, psnr=30.0, train_seconds=100),
        row("a", "two", chamfer=0.4, psnr=29.0, train_seconds=50),
        row("b", "three", chamfer=0.1, psnr=20.0),
    ]
    assert best_of(rows) == {("two", "chamfer"), ("one", "psnr"), ("two", "train_seconds")}


def test_numbers_that_do_not_compare_have_no_best():
    for other in ({"unit": "mm"}, {"protocol": "dtu 1"}, {"alignment": "icp"}):
        assert best_of([row("a", "one", chamfer=0.5), row("a", "two", chamfer=0.4, **other)]) == set()
    assert best_of([row("a", "one", psnr=30.0), row("a", "two", psnr=35.0, views="training")]) == set()
    assert best_of([row("a", "one", chamfer=0.5), row("a", "two", chamfer=math.nan)]) == set()
    assert best_of([row("a", "one", chamfer=0.5), row("a", "two", chamfer=0.4, status="failed")]) == set()
    fast = [row("a", "one", train_seconds=9, device="cpu"), row("a", "two", train_seconds=8, device="GPU")]
    assert best_of(fast) == set() and best_of([{**entry, "device": "cpu"} for entry in fast]) == {("two", "train_seconds")}
    assert best_of([row("a", "one", chamfer=0.5), row("a", "two", chamfer=0.5)]) == set()


def test_corrected_psnr_is_a_column_where_a_method_knows_of_photographs(tmp_path):
    rows = [row("a", "one", psnr=20.0, psnr_corrected=26.0), row("a", "two", psnr=21.0, psnr_corrected=25.0)]
    assert "psnr_corrected" not in [column.key for column in short_columns(rows)]
    rows[1]["exposure"] = "gain"
    assert "psnr_corrected" in [column.key for column in short_columns(rows)]
    assert best_of(rows) == {("two", "psnr"), ("one", "psnr_corrected")}
    folder = make_run(tmp_path / "results")
    runs = write_runs(tmp_path / "runs.json", ("demo", "ball", "neus"))
    for model, said in (({"exposure": "affine"}, "affine"), ({"exposure": "none", "appearance": 8}, "codes"), ({}, None)):
        facts = json.loads((folder / "train.json").read_text())
        write(folder / "train.json", facts | {"settings": {"model": model, "train": {"seed": 42}}})
        assert summary_rows(collect(tmp_path / "results", runs))[0].get("exposure") == said


def test_shared_best_is_marked_twice():
    rows = [row("a", name, chamfer=value) for name, value in (("one", 0.5), ("two", 0.5), ("three", 0.9))]
    assert best_of(rows) == {("one", "chamfer"), ("two", "chamfer")}


def test_means_need_every_scene():
    rows = [row("a", "one", chamfer=0.2, psnr=20.0), row("b", "one", chamfer=0.4), row("a", "two", chamfer=1.0)]
    [mean] = mean_rows(rows, short_columns(rows))
    assert mean["chamfer"] == pytest.approx(0.3) and "psnr" not in mean and mean["scenes"] == 2
    devices = [row("a", "one", train_seconds=9, device="cpu"), row("b", "one", train_seconds=8, device="GPU")]
    assert "train_seconds" not in mean_rows(devices, short_columns(devices))[0]
    failed = [row("a", "one", chamfer=0.2), row("b", "one", chamfer=0.4, status="failed")]
    assert mean_rows(failed, short_columns(failed)) == []
    mixed = [row("a", "one", chamfer=0.2), row("b", "one", chamfer=0.4, unit="mm")]
    assert "chamfer" not in mean_rows(mixed, short_columns(mixed))[0]


def test_units_stand_in_the_head_or_in_the_cells():
    same = [row("a", "one", chamfer=0.2, unit="mm")]
    assert short_columns(same)[0].unit == "mm" and cell(same[0], short_columns(same)[0]) == "0.200"
    mixed = [*same, row("b", "one", chamfer=0.4)]
    column = short_columns(mixed)[0]
    assert column.unit == "" and [cell(entry, column) for entry in mixed] == ["0.200 mm", "0.400 %"]
    assert "0.200 mm" in to_text(mixed)


@pytest.mark.parametrize(
    "key, sign", [("psnr_masked", 1), ("f_0.5", 1), ("chamfer_world", -1), ("normal_error", -1), ("seed", 0)]
)
def test_direction_of_metrics_also_of_unknown_ones(key, sign):
    assert better(key) == sign


def test_columns_are_those_of_the_protocols():
    """Tanks and Temples has shares and no lengths; what one row has is a column, with the unit of the rows that have lengths."""
    tanks = row("barn", "one", protocol="tanks-and-temples 1", unit="m", tau=0.01, f_score=0.5, precision=0.6, recall=0.4)
    titles = [(column.title, column.unit) for column in short_columns([tanks])]
    assert titles[:3] == [("F-score", ""), ("precision", ""), ("recall", "")]
    assert not {"Chamfer", "accuracy", "completeness", "normal error", "depth error"} & {title for title, _ in titles}
    ours = row("a", "one", chamfer=0.2, normal_error=5.0, depth_error=0.4)
    titles = [(column.title, column.unit) for column in short_columns([tanks, ours])]
    assert {("Chamfer", "%"), ("normal error", "°"), ("depth error", "%"), ("F-score", "")} <= set(titles)
    assert best_of([ours, row("a", "two", chamfer=0.2, normal_error=4.0, depth_error=0.5)]) == {
        ("two", "normal_error"),
        ("one", "depth_error"),
    }


def test_other_culls_do_not_compare():
    dtu = {"dataset": "dtu", "protocol": "dtu 1", "unit": "mm"}
    rows = [row("24", "one", chamfer=0.5, cull="mask-24px", **dtu), row("24", "two", chamfer=0.4, cull="no-cull", **dtu)]
    assert best_of(rows) == set()
    [change] = changes(rows[:1], [{**rows[0], "chamfer": 0.6, "cull": "no-cull"}])
    assert (change.metric, change.verdict) == ("cull", "changed")


def test_cost_is_gpu_time_times_price(tmp_path):
    folder = make_run(tmp_path / "results")
    times = {"train": 1800.0, "mesh": 360.0, "evaluate_mesh": 3600.0}
    for stage, seconds in times.items():
        timing = tmp_path / "logs" / "benchmarks" / "demo" / "ball" / "neus" / f"{stage}.tsv"
        timing.parent.mkdir(parents=True, exist_ok=True)
        timing.write_text(f"s\tmax_rss\n{seconds}\t1\n")
    names = write_runs(tmp_path / "runs.json", ("demo", "ball", "neus"))
    runs = collect(tmp_path / "results", names)
    assert "cost" not in summary_rows(runs, 3.0)[0]  # trained on a CPU
    train = json.loads((folder / "train.json").read_text())
    write(folder / "train.json", {**train, "device": "A GPU"})
    [priced, _] = summary_rows(collect(tmp_path / "results", names), 3.0)
    assert priced["cost"] == pytest.approx((1800 + 360) / 3600 * 3.0)
    assert priced["total_seconds"] == sum(times.values())
    assert any(column.key == "cost" for column in short_columns([priced]))
    assert "cost" not in summary_rows(collect(tmp_path / "results", names))[0]


ROWS = [
    row("a_1", "m|x", chamfer=0.5, psnr=30.123, f_score=0.9),
    row("a_1", "two & 50%", chamfer=0.4, views="training", psnr=33.0),
    row("b", "two & 50%", surface="tsdf"),
]


def test_markdown_has_the_numbers_and_no_broken_row():
    lines = to_markdown(ROWS).splitlines()
    cells = [[part.strip() for part in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    assert len({len(line) for line in cells}) == 1 and len(lines) == 5
    assert cells[0][:5] == ["scene", "method", "surface", "Chamfer, %", "accuracy, %"]
    assert cells[2][:4] == [r"d/a\_1", r"m\|x", "mesh", "0.500"]
    assert cells[3][3] == "**0.400**" and r"33.00\*" in cells[3]
    assert cells[4][3] == "–" and "0.900" in cells[2]


def test_latex_escapes_and_balances():
    text = to_latex(ROWS)
    assert r"two \& 50\%" in text and r"\textbf{0.400}" in text and r"d/a\_1" in text
    columns = re.search(r"\\begin\{tabular\}\{(\w+)\}", text)[1]
    body = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert {len(re.findall(r"(?<!\\)&", line)) + 1 for line in body} == {len(columns)}
    assert text.count(r"\addlinespace") == 1
    assert text.count("{") - text.count(r"\{") == text.count("}") - text.count(r"\}")


PUBLISHED = "# where it is from\nmethod\tscan\tchamfer\tsource\nNeuS\t24\t1.00\tpaper A\nNeuS\t37\t1.37\tpaper A\nX\tscan024\t0.5\trepo B\n"


@pytest.fixture
def published(tmp_path):
    (tmp_path / "dtu.tsv").write_text(PUBLISHED)
    return tmp_path


def test_published_numbers_stand_beside_ours_of_the_same_protocol(published):
    official = {"dataset": "dtu", "protocol": "dtu 1", "unit": "mm"}
    rows = [row("scan24", "nsr", chamfer=0.7, **official), row("scan37", "nsr", chamfer=0.9, **official)]
    [matrix] = matrices(rows, published)
    assert (matrix.scenes, matrix.unit, matrix.note) == (("scan24", "scan37"), "mm", "")
    ours, neus, other = matrix.columns
    assert ours.ours and not neus.ours and (ours.title, neus.title, neus.source) == ("nsr, mesh", "NeuS", "paper A")
    assert (ours.values, neus.values) == ((0.7, 0.9), (1.0, 1.37)) and other.values[0] == 0.5 and math.isnan(other.values[1])
    assert (ours.mean, neus.mean, other.mean) == (pytest.approx(0.8), pytest.approx(1.185), None)
    assert (matrix.best(0), matrix.best(1)) == (0.5, 0.9)


def test_other_protocols_are_kept_away_from_published_numbers(published):
    [matrix] = matrices([row("scan24", "nsr", chamfer=0.1, dataset="dtu")], published)
    assert [column.title for column in matrix.columns] == ["NeuS", "X"]
    assert "object-surface 1" in matrix.note


def test_our_column_names_the_cull(published):
    official = {"dataset": "dtu", "protocol": "dtu 1", "unit": "mm", "cull": "mask-24px"}
    [matrix] = matrices([row("scan24", "nsr", chamfer=0.7, **official)], published)
    assert matrix.columns[0].title == "nsr, mesh, mask-24px"


def test_without_published_numbers_methods_are_compared():
    rows = [row(scene, method, chamfer=1.0) for scene in "ab" for method in ("one", "two")]
    [matrix] = matrices(rows)
    assert [column.title for column in matrix.columns] == ["one, mesh", "two, mesh"]
    assert matrices(rows[:1]) == []


@pytest.mark.parametrize("text", ["method\tscan\n", "method\tscan\tchamfer\tsource\nA\t24\tgood\tB\n", "A\n1\n", "A" * 200_000])
def test_unusable_published_numbers_are_one_error(tmp_path, text):
    (tmp_path / "dtu.tsv").write_text(text.replace("\n", "\n") + ("" if "\t24" in text else "x\n"))
    with pytest.raises(DataError, match=r"dtu\.tsv.*method, scan, chamfer, source"):
        read_published(tmp_path / "dtu.tsv")


def test_changes_say_better_and_worse():
    before = [row("a", "one", chamfer=0.5, psnr=30.0, ssim=0.9), row("gone", "one", chamfer=1.0)]
    after = [row("a", "one", chamfer=0.4, psnr=29.0, ssim=0.9), row("new", "one")]
    found = {(c.place[1], c.metric): c for c in changes(after, before)}
    assert set(found) == {("a", "chamfer"), ("a", "psnr"), ("new", "row"), ("gone", "row")}
    assert found["a", "chamfer"].verdict == "better" and found["a", "chamfer"].relative == pytest.approx(-0.2)
    assert found["a", "psnr"].verdict == "worse" and found["a", "psnr"].relative == pytest.approx(-1 / 30)
    assert (found["new", "row"].verdict, found["gone", "row"].verdict) == ("new", "gone")


def test_lengths_of_another_protocol_are_not_compared():
    [change] = changes([row("a", "one", chamfer=0.4, protocol="dtu 1")], [row("a", "one", chamfer=0.5)])
    assert (change.metric, change.before, change.after, change.verdict) == ("protocol", "object-surface 1", "dtu 1", "changed")


def test_numbers_that_come_go_or_are_none():
    rows = [row("a", "one", chamfer=math.nan, ssim=0.9, accuracy=math.inf)]
    earlier = [row("a", "one", chamfer=math.nan, psnr=30.0, accuracy=1.0)]
    found = {change.metric: change for change in changes(rows, earlier)}
    assert set(found) == {"ssim", "psnr", "accuracy"}
    assert (found["ssim"].verdict, found["psnr"].verdict, found["accuracy"].verdict) == ("new", "gone", "worse")
    assert found["accuracy"].relative is None


def test_a_summary_compared_with_itself_read_back_is_the_same(tmp_path):
    make_run(tmp_path / "results", scene="24")
    rows = summary_rows(collect(tmp_path / "results", write_runs(tmp_path / "runs.json", ("demo", "24", "neus"))))
    (tmp_path / "summary.tsv").write_text(to_tsv(rows))
    back = read_summary(tmp_path / "summary.tsv")
    assert back[0]["scene"] == "24" and back[0]["chamfer"] == rows[0]["chamfer"]
    assert changes(rows, back) == []
    frame = pd.read_csv(io.StringIO(changes_tsv(changes([{**rows[0], "chamfer": 9.0}], back))), sep="\t")
    assert frame["metric"].tolist() == ["chamfer", "row"] and frame["verdict"].tolist() == ["worse", "gone"]
    assert np.isclose(frame["relative"][0], 9.0 / rows[0]["chamfer"] - 1)


@pytest.mark.parametrize("text", ["", "dataset\tscene\n", "a\tb\n1\t2\n", "a\tb\n1\t2\t3\n"])
def test_an_unusable_summary_is_one_error(tmp_path, text):
    (tmp_path / "summary.tsv").write_text(text)
    with pytest.raises(DataError, match=r"summary\.tsv"):
        read_summary(tmp_path / "summary.tsv")
    with pytest.raises(DataError, match=r"absent\.tsv"):
        read_summary(tmp_path / "absent.tsv")


@pytest.fixture
def quick(monkeypatch):
    """Empty drawings: this is not about figures."""
    monkeypatch.setattr(figures, "draw", lambda paint, *, size, prefix, label: f'<svg id="{prefix}"></svg>')


def test_program_compares_and_prints_published_numbers(tmp_path, quick, capsys):
    make_run(tmp_path / "results", dataset="dtu", scene="scan24")
    names = write_runs(tmp_path / "runs.json", ("dtu", "scan24", "neus"))
    before = [{**entry, "chamfer": 2 * entry["chamfer"]} for entry in summary_rows(collect(tmp_path / "results", names))]
    (tmp_path / "before.tsv").write_text(to_tsv(before))
    (tmp_path / "published").mkdir()
    (tmp_path / "published" / "dtu.tsv").write_text(PUBLISHED)
    options = {"--results": tmp_path / "results", "--runs": names, "--out": tmp_path / "r", "--compare": tmp_path / "before.tsv"}
    options |= {"--published": tmp_path / "published", "--gpu-price": 2}
    arguments = [str(part) for pair in options.items() for part in pair]
    assert cli.run(program.build_parser(), program.main, arguments) == 0
    frame = pd.read_csv(tmp_path / "r" / "changes.tsv", sep="\t")
    assert frame["metric"].tolist() == ["chamfer"] * 2 and frame["verdict"].tolist() == ["better"] * 2
    assert np.allclose(frame["relative"], -0.5)
    page = (tmp_path / "r" / "index.html").read_text(encoding="utf-8")
    assert "Changes against" in page and "-50.00 %" in page
    assert "paper A" in page and "Measured by object-surface 1 and therefore not beside published numbers." in page
    capsys.readouterr()
    arguments[arguments.index("--compare") + 1] = str(tmp_path / "absent.tsv")
    assert cli.run(program.build_parser(), program.main, arguments) == 2
    assert "absent.tsv" in capsys.readouterr().err
