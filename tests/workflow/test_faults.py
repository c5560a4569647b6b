"""The workflow under faults: killed, with a scene that cannot be done, with damaged results. A rerun finishes and repeats nothing."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from itertools import pairwise

from tests.source_tree import child_environment
from tests.workflow.checkout import HEADER, STUB, Checkout

# What one run of the two scenes calls; see `name_of` in the stub.
OF_BOTH = ("prepare", "triangulate", "train", "mesh", "tsdf", "texture", "render", "evaluate_views")
CALLS = {f"{stage} {scene}" for stage in OF_BOTH for scene in ("photographed", "posed")} | {
    "sfm photographed", "evaluate_mesh photographed mesh", "evaluate_mesh photographed tsdf", "report",
}  # fmt: skip


def calls(checkout: Checkout) -> Counter[str]:
    """How often each stage was called and ended well, since this was asked last."""
    path = checkout.root / "calls.txt"
    found = Counter(path.read_text().splitlines()) if path.exists() else Counter()
    path.unlink(missing_ok=True)
    return found


def contents(checkout: Checkout) -> dict[str, bytes]:
    """All results."""
    root = checkout.root / "results"
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def faults(checkout: Checkout, **what: str) -> None:
    """What goes wrong from now on."""
    (checkout.root / "faults.json").write_text(json.dumps({key.replace("_", " "): value for key, value in what.items()}))


def killed(checkout: Checkout) -> None:
    """Start snakemake with a training that hangs, and kill it and all its jobs, as a machine that stops does."""
    command = [sys.executable, "-m", "snakemake", "--cores", "2", "--nocolor"]
    environment = child_environment(STUB)
    process = subprocess.Popen(command, cwd=checkout.root, env=environment, start_new_session=True, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 200
    while not (checkout.root / "hanging").exists():
        assert process.poll() is None, "ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


def test_kill_9_of_the_workflow(fresh: Checkout, finished: Checkout) -> None:
    """Nothing finished is done again, the half-written model is, and every result is what an undisturbed run leaves."""
    faults(fresh, train_posed="hang")
    killed(fresh)
    before = calls(fresh)
    assert (fresh.root / "results/main/posed/nsr/model.pt").read_text() == "half"
    faults(fresh)
    fresh.snakemake("--unlock")
    fresh.snakemake("--rerun-incomplete")
    after = calls(fresh)
    assert before + after == Counter(CALLS)
    assert "train posed" in after
    assert contents(fresh) == contents(finished)
    assert (fresh.root / "report/summary.tsv").read_bytes() == (finished.root / "report/summary.tsv").read_bytes()


def test_a_scene_that_cannot_be_done_leaves_the_others(fresh: Checkout, finished: Checkout) -> None:
    faults(fresh, prepare_posed="fail", report="real")
    text = fresh.snakemake("--keep-going", check=False)
    done = calls(fresh)
    assert done == Counter(call for call in CALLS if "photographed" in call), "all of the other scene, each once"
    # The diagnosis, by name, in the report that a failed run leaves.
    assert "main/posed" in text and "prepare: the photographs show nothing; take others" in text
    with (fresh.root / "report/unfinished/summary.tsv").open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert {(row["scene"], row["status"]) for row in rows} == {("photographed", "ok"), ("posed", "failed")}
    assert {row["reason"] for row in rows if row["scene"] == "posed"} == {"prepare: the photographs show nothing; take others"}
    page = (fresh.root / "report/unfinished/index.html").read_text()
    assert "the photographs show nothing; take others" in page
    assert not (fresh.root / "report/index.html").exists(), "the whole report is that of all scenes"
    # The photographs are better now: only this scene and the report are left to do.
    faults(fresh)
    fresh.snakemake()
    assert set(calls(fresh)) == {call for call in CALLS if "posed" in call.split()} | {"report"}
    assert contents(fresh) == contents(finished)
    assert not (fresh.root / "report/unfinished").exists()


def test_a_damaged_result_is_named_and_made_again(finished: Checkout) -> None:
    """A stage that cannot read its input says to delete it: then that is made again and what follows from it, nothing else."""
    calls(finished)
    before = contents(finished)
    views, mesh = (
        finished.root / "results/main" / name for name in ("photographed/nsr/evaluate/views.json", "posed/nsr/mesh.ply")
    )
    views.write_bytes(views.read_bytes()[:-9])
    faults(finished, report="real")
    text = finished.snakemake(check=False)
    assert not calls(finished)
    assert "results that cannot be read: results/main/photographed/nsr/evaluate/views.json; delete them" in text
    with (finished.root / "report/unfinished/summary.tsv").open(newline="") as file:
        found = {(row["scene"], row["status"], row["reason"].partition(" (")[0]) for row in csv.DictReader(file, delimiter="\t")}
    reason = "evaluate_views: results/main/photographed/nsr/evaluate/views.json: damaged"
    assert found == {("photographed", "failed", reason), ("posed", "ok", "")}
    faults(finished)
    views.unlink()
    mesh.unlink()
    finished.snakemake()
    assert calls(finished) == Counter({"mesh posed", "texture posed", "evaluate_views photographed", "report"})
    assert contents(finished) == before


def test_a_stage_that_ran_again_and_failed_is_done_by_the_next_run(finished: Checkout) -> None:
    """Its results are gone then, and the report of before is still there and looks up to date."""
    calls(finished)
    before = contents(finished)
    faults(finished, texture_posed="fail")
    (finished.root / "results/main/posed/nsr/texture/texture.json").unlink()
    finished.snakemake(check=False)
    assert (finished.root / "report/index.html").exists()
    faults(finished)
    finished.snakemake()
    assert calls(finished) == Counter({"report": 2, "texture posed": 1})  # the report of the failed run, and the whole one
    assert contents(finished) == before


def test_one_of_twenty_scenes_that_cannot_be_done(fresh: Checkout) -> None:
    """19 results, and one diagnosis under the scene's name, in the table, on the page and in what snakemake says."""
    scenes = [f"s{index:02d}" for index in range(20)]
    rows = [f"main\t{scene}\tdata/q\tneus\t\t\t\t\n" for scene in scenes]
    (fresh.root / "config/scenes.tsv").write_text(HEADER + "".join(rows))
    faults(fresh, prepare_s07="fail", report="real")
    text = fresh.snakemake("--keep-going", check=False)
    others = [scene for scene in scenes if scene != "s07"]
    assert calls(fresh) == Counter(f"{stage} {scene}" for stage in OF_BOTH for scene in others)
    with (fresh.root / "report/unfinished/summary.tsv").open(newline="") as file:
        found = {row["scene"]: (row["status"], row["reason"]) for row in csv.DictReader(file, delimiter="\t")}
    reason = "prepare: the photographs show nothing; take others"
    assert found == {scene: ("failed", reason) if scene == "s07" else ("ok", "") for scene in scenes}
    said = [line.split()[0] for line, below in pairwise(text.splitlines()) if below.strip() == reason]
    assert said and set(said) == {"main/s07"}, text
    page = re.split(r'<section class="scene" id="[^"]*"', (fresh.root / "report/unfinished/index.html").read_text())
    assert len(page) == 21
    assert [part.count("prepare failed:") for part in page] == [0] * 8 + [1] + [0] * 12


def test_preflight_of_a_scene_that_cannot_be_prepared(fresh: Checkout) -> None:
    """The page over the other scenes is there, with this one first and why; the next run makes the whole one."""
    faults(fresh, prepare_posed="fail", preflight="real")
    text = fresh.snakemake("--keep-going", "preflight", check=False)
    page = fresh.root / "report/unfinished/preflight.html"
    assert page.is_file(), text
    rows = re.findall(r'<tr><th scope="row">(.*?)</tr>', page.read_text(), re.DOTALL)
    assert len(rows) == 2
    assert rows[0].startswith("main/posed<") and "the photographs show nothing; take others" in rows[0] and ">stop<" in rows[0]
    assert "results/main/photographed/preflight/index.html" in rows[1] and ">ok<" in rows[1]
    assert "1 stop, 0 warning, 1 ok" in text
    assert not (fresh.root / "report/unfinished/index.html").exists(), "no results were asked for"
    faults(fresh, preflight="real")
    calls(fresh)
    fresh.snakemake("preflight")
    assert set(calls(fresh)) == {"prepare posed", "preflight posed"}
    assert 'href="../results/main/posed/preflight/index.html"' in (fresh.root / "report/preflight.html").read_text()
    assert not page.exists()
