"""Collecting, the summary table and the HTML page, on an invented run folder."""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import math
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest

import nsr.report
from nsr import cli
from nsr.errors import DataError
from nsr.report import figures
from nsr.report.collect import collect
from nsr.report.page import render_page
from nsr.report.tables import summary_rows, to_text, to_tsv, trained_on
from nsr.report.write import write_report
from scripts import report as program
from tests.unit.report_fixture import METRICS, VIEW_METRICS, make_run, write, write_runs

HOSTILE = '<script>alert("x")</script>&\'"$\\alpha$'
VOID = {"meta", "link", "img", "br", "hr", "input", "stop", "path", "use", "rect"}


class Page(HTMLParser):
    """Collects tags, ids, addresses and texts, and notes every end tag that does not match."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.errors: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.values: list[str] = []
        self.scripts: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        named = dict(attrs)
        self.ids += [named["id"]] if "id" in named else []
        self.values += [named["value"]] if tag == "data" else []
        self.addresses += [v or "" for k, v in attrs if k in ("src", "href", "xlink:href", "action", "data", "srcset", "poster")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if tag in VOID:
            return
        if not self.open or self.open.pop() != tag:
            self.errors.append(tag)

    def handle_data(self, data):
        if self.open[-1:] == ["script"]:
            self.scripts.append(data)
        elif self.open[-1:] != ["style"]:
            self.text += data


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with one complete run, one trained on all views, one failed; and the page and rows of them."""
    root = tmp_path_factory.mktemp("made")
    make_run(root / "results")
    make_run(root / "results", scene="all", train_on_all=True)
    log = root / "logs" / "demo" / "broken" / "neus" / "train.log"
    log.parent.mkdir(parents=True)
    log.write_text("12:00:00 INFO go\n12:00:01 WARNING few rays\n12:00:02 ERROR training diverged at step 600; lower the rate\n")
    timing = root / "logs" / "benchmarks" / "demo" / "ball" / "neus" / "mesh.tsv"
    timing.parent.mkdir(parents=True)
    timing.write_text("s\th:m:s\tmax_rss\n12.5\t0:00:12\t800\n")
    names = [("demo", scene, "neus") for scene in ("ball", "all", "broken")]
    write_runs(root / "runs.json", *names, ground_truth=str(root / "results" / "truth.ply"))
    rows, _ = write_report(root / "results", root / "runs.json", root / "report")
    return root, rows, (root / "report" / "index.html").read_text(encoding="utf-8")


def test_page_is_well_formed_with_unique_ids_and_resolved_references(made):
    page = Page(made[2])
    assert not page.errors and not page.open
    assert page.text.lstrip().startswith("Reconstruction report") and made[2].lstrip().startswith("<!DOCTYPE html>")
    assert len(page.ids) == len(set(page.ids))
    local = [address[1:] for address in page.addresses if address.startswith("#")]
    assert local and set(local) <= set(page.ids)
    assert set(re.findall(r"url\(#([^)]*)\)", made[2])) <= set(page.ids)
    assert set(re.findall(r'aria-labelledby="([^"]*)"', made[2])) <= set(page.ids)


def test_page_asks_nothing_of_anybody(made):
    _, _, text = made
    page = Page(text)
    assert all(address.startswith(("#", "data:")) for address in page.addresses)
    assert not {"iframe", "object", "embed", "form", "base"} & set(page.tags)
    without_namespaces = re.sub(r'xmlns(:xlink)?="[^"]*"', "", text).replace('"http://www.w3.org/1999/xhtml"', "")
    assert not re.search(r"https?://|@import|url\((?!#)", without_namespaces)


def test_only_the_packages_own_scripts_may_run(made):
    _, _, text = made
    folder = Path(nsr.report.__file__).parent
    own = [(folder / name).read_text() for name in ("page.js", "vendor/three.bundle.min.js", "viewer.js")]
    assert re.findall(r"<script>(.*?)</script>", text, re.DOTALL) == own
    policy = html.unescape(re.search(r'Content-Security-Policy" content="([^"]*)"', text).group(1))
    allowed = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in own]
    assert policy.startswith("default-src 'none';")
    assert policy.endswith("script-src " + " ".join(f"'sha256-{value}'" for value in allowed))


def test_page_shows_the_numbers_of_the_json_in_full_precision(made):
    values = [float(value) for value in Page(made[2]).values]
    for number in (*METRICS.values(), VIEW_METRICS["psnr"], VIEW_METRICS["ssim"], 1.25, 61.25):
        assert number in values
    assert values.count(METRICS["chamfer"]) == 4  # summary and details of two runs
    first_row = re.search(r"<tbody>\s*<tr>.*?</tr>", made[2], re.DOTALL).group(0)
    shown = re.findall(r'<data value="([^"]*)">([^<]*)</data>', first_row)
    assert len(shown) == 10
    assert all(math.isclose(float(exact), float(text), abs_tol=0.5 * 10 ** -len(text.partition(".")[2])) for exact, text in shown)


def test_page_names_protocol_alignment_culling_device_seed_versions_and_notes(made):
    text = Page(made[2]).text
    for words in (
        "object-surface 1",
        "min_views",
        "mask_dilation",
        "share of the predicted samples left out",
        "prediction_in_silhouettes",
        "two photos skipped",
        "seed",
        "torch 2.13.0",
    ):
        assert words in text, words
    for words in ("ground truth seen by two cameras only", "no mask culling: the scene has no masks", "2026-01-02T03:04:05Z"):
        assert words in text, words
    assert "time of mesh, s" in text and "12.5" in text
    assert "removed share of the extracted triangles" in text and "0.2" in text  # 1280 of 1600 are left
    assert "held out: none of them was trained on" in text


def test_failed_run_is_listed_with_the_reason_of_its_log(made):
    _, rows, text = made
    assert [row["status"] for row in rows] == ["ok"] * 4 + ["failed"] * 2
    assert rows[4]["reason"] == "train: training diverged at step 600; lower the rate"
    assert "train: few rays" in Page(text).text
    assert "training diverged at step 600; lower the rate" in Page(text).text
    assert "1 run with a failed stage" in Page(text).text
    lines = to_text(rows).splitlines()
    reason = [number for number, line in enumerate(lines) if "training diverged" in line]
    assert reason == [7], "once, under both surfaces of the run: a head, four good rows, two failed ones"


def test_training_views_are_named_even_if_the_evaluation_says_held_out(made):
    _, rows, text = made
    assert [row.get("views") for row in rows] == ["held_out"] * 2 + ["training"] * 2 + [None] * 2
    assert "TRAINING VIEWS: not a measure of novel views" in Page(text).text
    lines = to_text(rows).splitlines()
    assert lines[-1] == "* measured on training views"
    assert ["27.12*" in line for line in lines[1:5]] == [False, False, True, True]


def test_partly_trained_views_are_counted(tmp_path, quick):
    folder = make_run(tmp_path / "results")
    train = json.loads((folder / "train.json").read_text())
    write(folder / "train.json", {**train, "train_views": [*train["train_views"], "0004"]})
    [run] = collect(tmp_path / "results", write_runs(tmp_path / "runs.json", ("demo", "ball", "neus")))
    assert trained_on(run) == ("partly training", 1)
    assert "PARTLY TRAINED ON: 1 of them" in render_page([run])


def test_a_render_that_was_seen_in_training_counts_even_without_the_list_of_training(tmp_path):
    folder = make_run(tmp_path / "results", train_on_all=True)
    (folder / "train.json").unlink()
    [run] = collect(tmp_path / "results", write_runs(tmp_path / "runs.json", ("demo", "ball", "neus")))
    assert trained_on(run) == ("training", 2)


def test_tsv_round_trips(made):
    root, rows, _ = made
    frame = pd.read_csv(root / "report" / "summary.tsv", sep="\t")
    assert list(frame.columns[:8]) == ["dataset", "scene", "method", "surface", "status", "chamfer", "accuracy", "completeness"]
    assert len(frame) == len(rows) == 6
    for key in frame.columns:
        for value, row in zip(frame[key], rows, strict=True):
            assert pd.isna(value) if key not in row else value == row[key], key


def test_hostile_names_stay_text(tmp_path, quick):
    scene = HOSTILE.replace("/", "\N{FRACTION SLASH}")
    folder = make_run(tmp_path / "results", scene=scene, method="a\tb\nc")
    evaluation = json.loads((folder / "evaluate" / "mesh.json").read_text())
    write(folder / "evaluate" / "mesh.json", {**evaluation, "notes": [HOSTILE], HOSTILE: HOSTILE})
    train = json.loads((folder / "train.json").read_text())
    write(folder / "train.json", {**train, "device": HOSTILE})
    rows, _ = write_report(tmp_path / "results", write_runs(tmp_path / "runs.json", ("demo", scene, "a\tb\nc")), tmp_path / "out")
    page = Page((tmp_path / "out" / "index.html").read_text(encoding="utf-8"))
    assert not page.errors and not page.open
    assert page.tags.count("script") == 3 + 1 + 2  # ours, the viewer's facts, its two surfaces
    assert page.text.count(HOSTILE) >= 3 and f"demo/{scene}" in page.text
    frame = pd.read_csv(tmp_path / "out" / "summary.tsv", sep="\t")
    assert frame["scene"].tolist() == [scene] * 2 and frame["method"].tolist() == ["a b c"] * 2
    assert len(to_text(rows).splitlines()) == 3


@pytest.fixture
def quick(monkeypatch):
    """Empty drawings in place of matplotlib's, for tests that are about files and not about figures."""
    monkeypatch.setattr(figures, "draw", lambda paint, *, size, prefix, label: f'<svg id="{prefix}"></svg>')


PIECES = ["train.json", "metrics.jsonl", "mesh.ply", "mesh.json", "tsdf.ply", "render", "evaluate", "../scene", "../scene/images"]


@pytest.mark.parametrize("piece", PIECES)
def test_a_missing_piece_is_not_measured(tmp_path, quick, piece):
    folder = make_run(tmp_path / "results")
    target = folder / piece
    shutil.rmtree(target) if target.is_dir() else target.unlink()
    runs = collect(tmp_path / "results", write_runs(tmp_path / "runs.json", ("demo", "ball", "neus")))
    text = render_page(runs)
    page, rows = Page(text), summary_rows(runs)
    assert not page.errors and len(rows) == 2
    if piece in ("train.json", "metrics.jsonl", "render", "evaluate", "../scene"):
        assert "not measured" in page.text.replace("means not measured", "")
    missing = {"mesh.ply": ["missing", "ok"], "tsdf.ply": ["ok", "missing"]}.get(piece, ["ok", "ok"])
    assert [row["status"] for row in rows] == missing
    assert ("chamfer" in rows[0]) == (piece != "evaluate")


def test_nothing_at_all_is_still_a_page(tmp_path):
    runs = collect(tmp_path / "nowhere", write_runs(tmp_path / "runs.json", ("demo", "ball", "neus")))
    page = Page(render_page(runs))
    assert not page.errors and page.text.count("not measured") > 10
    assert [row["status"] for row in summary_rows(runs)] == ["missing", "missing"]


@pytest.mark.parametrize(
    "piece", ["mesh.ply", "evaluate/mesh.npz", "render/0000.png", "render/0000_depth.npz", "../scene/scene.json"]
)
def test_a_broken_piece_is_a_warning(tmp_path, quick, piece):
    folder = make_run(tmp_path / "results")
    (folder / piece).write_bytes(b'{"cut off": ')
    runs = collect(tmp_path / "results", write_runs(tmp_path / "runs.json", ("demo", "ball", "neus")))
    page = Page(render_page(runs))
    warnings = page.text.partition("Warnings")[2].partition("Notes")[0]
    name = Path(piece).name
    assert any(word in warnings for word in (name, name.partition("_")[0].removesuffix(".png"))), warnings
    assert not page.errors


DAMAGED = [("train.json", "train", 2), ("evaluate/mesh.json", "evaluate_mesh", 1), ("tsdf.json", "tsdf", 1)]


@pytest.mark.parametrize(("piece", "stage", "surfaces"), DAMAGED)
@pytest.mark.parametrize("content", [b'{"cut off": ', b"[1, 2]", b"\xff\xfe{}", b'{"metrics": []}'])
def test_damaged_numbers_are_a_failure_that_names_the_file(tmp_path, quick, piece, stage, surfaces, content):
    """The row does not look like one that was never measured, nor like a good one."""
    folder = make_run(tmp_path / "results")
    (folder / piece).write_bytes(content)
    runs = write_runs(tmp_path / "runs.json", ("demo", "ball", "neus"))
    written = write_report(tmp_path / "results", runs, tmp_path / "report")
    failed = [row for row in written.rows if row["status"] == "failed"]
    assert len(failed) == surfaces and written.damaged == [folder / piece]
    assert all(row["reason"].startswith(f"{stage}: {folder / piece}: damaged") for row in failed)
    assert f"{piece.rpartition('/')[2]}: damaged" in Page((tmp_path / "report/index.html").read_text()).text


def test_resumed_log_counts_each_step_once(tmp_path):
    folder = make_run(tmp_path / "results")
    (folder / "metrics.jsonl").write_text(
        '{"step": 2, "psnr": 1}\n{"step": 1, "psnr": 0}\n{"step": 2, "psnr": 5}\n{"step": 3, "ps'
    )
    [run] = collect(tmp_path / "results", write_runs(tmp_path / "runs.json", ("demo", "ball", "neus")))
    assert [(row["step"], row["psnr"]) for row in run.curve] == [(1, 0), (2, 5)]
    assert "metrics.jsonl: 1 unreadable lines left out" in run.warnings


def test_traceback_in_a_log_gives_its_last_line(tmp_path):
    log = tmp_path / "logs" / "demo" / "ball" / "prepare.log"
    log.parent.mkdir(parents=True)
    log.write_text(
        "10:00:00 ERROR unexpected error; please report it\nTraceback (most recent call last):\n  File x\nKeyError: 'K'\n"
    )
    [run] = collect(tmp_path / "results", write_runs(tmp_path / "runs.json", ("demo", "ball", "neus")))
    assert [(f.stage, f.reason) for f in run.failures] == [("prepare", "KeyError: 'K'")]


def test_failure_of_one_surface_leaves_the_other(tmp_path):
    make_run(tmp_path / "results")
    log = tmp_path / "logs" / "demo" / "ball" / "neus" / "evaluate_tsdf.log"
    log.parent.mkdir(parents=True)
    log.write_text("10:00:00 ERROR no ground truth there\n")
    rows = summary_rows(collect(tmp_path / "results", write_runs(tmp_path / "runs.json", ("demo", "ball", "neus"))))
    assert [row["status"] for row in rows] == ["ok", "failed"]


@pytest.mark.parametrize("text", ["[]", "{", '[{"dataset": "a"}]', "3"])
def test_unusable_list_of_runs_is_one_error(tmp_path, text):
    (tmp_path / "runs.json").write_text(text)
    with pytest.raises(DataError, match="runs.json"):
        collect(tmp_path, tmp_path / "runs.json")
    with pytest.raises(DataError, match="absent.json"):
        collect(tmp_path, tmp_path / "absent.json")


def test_not_finite_numbers_survive(tmp_path, quick):
    folder = make_run(tmp_path / "results")
    evaluation = json.loads((folder / "evaluate" / "mesh.json").read_text())
    write(folder / "evaluate" / "mesh.json", {**evaluation, "metrics": {"chamfer": math.nan, "accuracy": math.inf}})
    runs = collect(tmp_path / "results", write_runs(tmp_path / "runs.json", ("demo", "ball", "neus")))
    assert "inf" in render_page(runs)
    frame = pd.read_csv(io.StringIO(to_tsv(summary_rows(runs))), sep="\t")
    assert math.isnan(frame["chamfer"][0]) and frame["accuracy"][0] == math.inf


def test_program_prints_table_and_path_and_leaves_no_partial_file(made, tmp_path, capsys):
    root, rows, _ = made
    options = {"--results": root / "results", "--runs": root / "runs.json", "--out": tmp_path / "r"}
    assert cli.run(program.build_parser(), program.main, [str(part) for pair in options.items() for part in pair]) == 0
    assert capsys.readouterr().out == f"{to_text(rows)}\nreport: {tmp_path / 'r' / 'index.html'}\n"
    names = ["costs.tsv", "index.html", "summary.md", "summary.tex", "summary.tsv"]
    assert sorted(path.name for path in (tmp_path / "r").iterdir()) == names
    assert cli.run(program.build_parser(), program.main, ["--results", ".", "--runs", "absent.json", "--out", str(tmp_path)]) == 2


def test_text_table_of_the_tsv_read_back_is_the_same(made):
    root, rows, _ = made
    frame = pd.read_csv(root / "report" / "summary.tsv", sep="\t")
    back = [{k: v for k, v in row.items() if not pd.isna(v)} for row in frame.to_dict("records")]
    assert to_text(back) == to_text(rows)
    assert to_text([{**rows[0], "scene": 24.0}]).splitlines()[1].startswith("demo/24 ")
