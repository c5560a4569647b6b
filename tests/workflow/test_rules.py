"""The rules as they are written, and what they make of a list of scenes."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from nsr.runs import list_runs
from tests.source_tree import STAGES
from tests.workflow.checkout import HEADER, ROOT, ROWS, Checkout

RULES = {path.name: path.read_text(encoding="utf-8") for path in [ROOT / "Snakefile", *sorted((ROOT / "rules").glob("*.smk"))]}
DIRECTIVES = ("input", "output", "log", "benchmark", "threads", "resources", "params", "shell")


def blocks() -> dict[str, str]:
    """The text of each rule."""
    parts = [part for text in RULES.values() for part in re.split(r"^(?=\S)", text, flags=re.MULTILINE)]
    return {head[1]: part for part in parts if (head := re.match(r"rule (\w+):", part))}


def test_rules_are_the_stages() -> None:
    assert set(blocks()) == {*STAGES, "all", "preflight_scene"}, "a rule with wildcards is no target"


@pytest.mark.parametrize("rule", sorted(STAGES))
def test_rule_is_complete(rule: str) -> None:
    block = blocks()[rule]
    assert re.match(r'rule \w+:\n    """[A-Z].*\."""\n', block), "no docstring"
    for directive in DIRECTIVES:
        assert re.search(rf"^    {directive}:", block, re.MULTILINE), f"no {directive}"
    for resource, function in (("mem_mb", "memory"), ("runtime", "minutes")):
        fixed = {"report": f"report_{function}", **dict.fromkeys(("check", "ablation", "preflight"), r"\d+")}
        value = fixed.get(rule, rf'{function}\("{rule}"\)')
        assert re.search(rf"^        {resource}={value},$", block, re.MULTILINE)
    assert f'code=code_digest("{rule}")' in block
    assert f"scripts/{rule}.py " in block
    assert "--threads {threads} --log {log:q}" in block


@pytest.mark.parametrize("rule", ["train", "mesh", "tsdf", "render"])
def test_gpu_rules_ask_for_one_and_take_the_device_as_resource(rule: str) -> None:
    block = blocks()[rule]
    assert ("gpu=train_gpus" if rule == "train" else "gpu=gpus") in block
    assert "--device {resources.device}" in block


def test_functions_are_in_common_only() -> None:
    for name, text in RULES.items():
        assert (name == "common.smk") == bool(re.search(r"^\s*def ", text, re.MULTILINE)), name
        assert "lambda" not in text, name
        assert not re.search(r"^\s+(run|script):", text, re.MULTILINE), name
    assert not re.search(r"^rule ", RULES["common.smk"], re.MULTILINE)


def test_options_in_rules_exist() -> None:
    """Every option a rule passes is one its program has, and every required one is passed."""
    for rule in STAGES:
        text = subprocess.run(
            [sys.executable, f"scripts/{rule}.py", "--help"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
        ).stdout
        passed = set(re.findall(r"(--[a-z-]+) ", blocks()[rule]))
        passed |= {"--ground-truth", "--gt-cameras"} if rule == "evaluate_mesh" else set()
        known = set(re.findall(r"(--[a-z-]+)", text))
        assert passed <= known, f"{rule}: {passed - known}"


def test_checkpoint_is_no_output() -> None:
    assert "checkpoint" not in blocks()["train"].split("output:")[1]


def test_snakefmt_agrees() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "snakefmt", "--check", "Snakefile", "rules"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr


def test_jobs_of_a_list(fresh: Checkout) -> None:
    (fresh.root / "config/scenes.tsv").write_text(HEADER + ROWS.rstrip() + "\t\t\t\tprepare.holdout_every=0\n")
    (fresh.root / "config/methods/second.yaml").write_text("train:\n  split: all\n")
    found = set(fresh.reruns("--config", "methods=[nsr,second]"))
    scenes = {("sfm", "photographed"), ("prepare", "photographed"), ("prepare", "posed"), ("report", "")}
    both = {(rule, scene) for rule in ("triangulate", "train", "mesh", "tsdf", "texture") for scene in ("photographed", "posed")}
    measured = {("evaluate_mesh:mesh", "photographed"), ("evaluate_mesh:tsdf", "photographed")}
    views = {("render", "photographed"), ("evaluate_views", "photographed")}
    assert found == scenes | both | measured | views


def test_one_result_alone_can_be_asked_for(fresh: Checkout) -> None:
    """There is no report to speak of then."""
    fresh.snakemake("results/main/posed/scene/scene.json")
    assert (fresh.root / "results/main/posed/scene/scene.json").is_file()
    assert not (fresh.root / "report").exists()


def test_points_are_triangulated_for_methods_that_train_with_them(fresh: Checkout) -> None:
    """A method without the term neither asks for the stage nor waits for it, and shares the scene's points with no one."""
    (fresh.root / "config/methods/pointed.yaml").write_text("train:\n  loss:\n    points: [[0, 1.0], [500, 0.0]]\n")
    text = fresh.snakemake("-n", "--printshellcmds", "--config", "methods=[instant-nsr-pl,pointed]")
    jobs = re.findall(r"^rule triangulate:\n    input: results/main/(\w+)/scene/scene.json$", text, re.MULTILINE)
    assert sorted(jobs) == ["photographed", "posed"]
    inputs = dict(
        re.findall(r"^rule train:\n    input: (.*)\n    output: results/main/(\w+/[\w-]+)/model.pt", text, re.MULTILINE)
    )
    assert {run: "points.npz" in names for names, run in inputs.items()} == {
        "photographed/instant-nsr-pl": False,
        "posed/instant-nsr-pl": False,
        "photographed/pointed": True,
        "posed/pointed": True,
    }
    options = re.findall(r"scripts/train.py .*?--points (\S+) ", text)
    assert sorted(options) == [f"results/main/{scene}/points/points.npz" for scene in ("photographed", "posed")]


def test_preflight_trains_nothing(fresh: Checkout) -> None:
    text = fresh.snakemake("-n", "--printshellcmds", "preflight")
    found = sorted(re.findall(r"^rule (\w+):", text, re.MULTILINE))
    assert found == ["preflight", "preflight_scene", "preflight_scene", "prepare", "prepare", "sfm"]
    commands = {
        name: line for line in text.splitlines() if (name := next(iter(re.findall(r"--scene results/main/(\w+)", line)), ""))
    }
    assert "--sfm results/main/photographed/sfm/sfm.json" in commands["photographed"] and "--sfm" not in commands["posed"]
    assert '{"nsr": {"steps": ' in commands["posed"]
    assert "rule preflight" not in fresh.snakemake("-n")


def test_commands_of_a_whole_run(finished: Checkout) -> None:
    """What the stages were called with, as the stand-ins wrote it down."""
    import json

    def call(name: str) -> list[str]:
        return json.loads((finished.root / "results/main" / name).read_text())["arguments"]

    def value(arguments: list[str], option: str) -> str:
        return arguments[arguments.index(option) + 1]

    prepare = call("photographed/scene/scene.json")
    assert value(prepare, "--model") == "results/main/photographed/sfm"
    assert value(prepare, "--masks") == "data/p/mask"
    assert value(prepare, "--name") == "main/photographed"
    assert set(json.loads(value(prepare, "--settings"))) == {"prepare"}
    posed = call("posed/scene/scene.json")
    assert "--model" not in posed
    assert "--masks" not in posed
    train = call("posed/nsr/train.json")
    assert value(train, "--device") == "auto"
    assert set(json.loads(value(train, "--settings"))) == {"model", "train"}
    tsdf = json.loads(value(call("posed/nsr/tsdf.json"), "--settings"))
    assert "resolution" not in tsdf["mesh"]
    evaluate = call("photographed/nsr/evaluate/tsdf.json")
    assert value(evaluate, "--mesh") == "results/main/photographed/nsr/tsdf.ply"
    assert value(evaluate, "--ground-truth") == "data/p/truth.ply"
    assert value(evaluate, "--gt-cameras") == "data/p/cameras.npz"
    runs = list_runs(json.loads((finished.root / "results/runs.json").read_text()))
    assert [run["folder"] for run in runs] == ["results/main/photographed/nsr", "results/main/posed/nsr"]


def test_golden_ranges_are_checked_after_the_report_where_they_are_given(fresh: Checkout) -> None:
    assert "rule check:" not in fresh.snakemake("-n")
    text = fresh.snakemake("-n", "--config", "golden=config/golden.tsv")
    assert re.search(r"^rule check:\n    input: report/summary.tsv, .*config/golden.tsv", text, re.MULTILINE), text
    assert "golden 'nowhere.tsv' does not exist" in fresh.snakemake("-n", "--config", "golden=nowhere.tsv", check=False)


def test_all_settings_reach_some_stage() -> None:
    """No section of the settings is forgotten by the rules."""
    from nsr.config import Config

    named = set(re.findall(r'"(\w+)[".]', " ".join(re.findall(r"settings_of\((.*?)\)", " ".join(RULES.values())))))
    assert named == set(vars(Config()))


@pytest.mark.parametrize(
    ("name", "old", "new", "words"),
    [
        ("config/config.yaml", "device:", "devise:", ("unknown key 'devise'", "'device'")),
        ("config/config.yaml", "settings: {}", "settings: {mesh: {resolutoin: 9}}", ("resolutoin", "'resolution'")),
        ("config/scenes.tsv", "\tneus", "\tnues", ("line 3", "'nues'", "'neus'")),
    ],
)
def test_mistakes_are_said_before_anything_runs(fresh: Checkout, name: str, old: str, new: str, words: tuple[str, ...]) -> None:
    path = fresh.root / name
    path.write_text(path.read_text().replace(old, new))
    output = fresh.snakemake("-n", check=False)
    assert any(all(word in line for word in words) for line in output.splitlines()), output
    assert "Traceback" not in output
    assert not (fresh.root / "results").exists()


def test_demo_and_short_demo_select_the_examples(tmp_path: Path) -> None:
    """Both demos plan the whole workflow over the two shipped scenes, and write nowhere else than under build/."""
    for files, place in ((["demo"], "build/demo"), (["demo", "demo-short"], "build/demo-short")):
        configs = [f"config/{name}.yaml" for name in files]
        done = subprocess.run(
            [sys.executable, "-m", "snakemake", "-n", "--nolock", "--cores", "2", "--forceall", "--configfile", *configs],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=120,
        )
        text = done.stdout + done.stderr
        assert done.returncode == 0, text
        assert len(re.findall(r"^rule sfm:", text, re.MULTILINE)) == 1
        assert len(re.findall(r"^rule evaluate_mesh:", text, re.MULTILINE)) == 4
        outputs = re.findall(r"^    (?:output|log|benchmark): (.*)", text, re.MULTILINE)
        assert len(outputs) > 30
        assert all(part.startswith(f"{place}/") for line in outputs for part in line.split(", "))


def test_an_ablation_runs_every_variant_with_every_seed_and_nothing_else(fresh: Checkout) -> None:
    (fresh.root / "config/ablation.yaml").write_text(
        "base: nsr\nseeds: [4, 5]\nvariants:\n  one: {}\n  two: {train: {loss: {points: 1.0}}}\n"
    )
    text = fresh.snakemake("-n", "--printshellcmds", "ablation")
    trained = re.findall(r"scripts/train.py --scene results/main/(\w+)/scene .*?--out (\S+) ", text)
    names = [f"ablation.{variant}.seed{seed}" for variant in ("one", "two") for seed in (4, 5)]
    assert sorted(trained) == sorted((s, f"results/main/{s}/{name}") for s in ("photographed", "posed") for name in names)
    assert re.findall(r'scripts/train.py .*?ablation.two.seed4 .*?"seed": (\d+)', text) == ["4", "4"]
    assert len(re.findall(r"^rule evaluate_mesh:", text, re.MULTILINE)) == 4
    assert "rule report:" not in text and "rule texture:" not in text and "/nsr/model.pt" not in text
    wrong = fresh.snakemake("-n", "ablation", "--config", "ablation=none.yaml", check=False)
    assert "none.yaml: cannot be read" in wrong


def test_cores_are_divided_among_gpus(fresh: Checkout) -> None:
    """So that four jobs on four GPUs run at the same time, and one job alone has its eight threads."""

    def threads(*arguments: str) -> set[str]:
        text = fresh.snakemake("-n", "--printshellcmds", "--config", "device=cuda", *arguments)
        return set(re.findall(r"scripts/(?:train|mesh|tsdf|render)\.py .*--threads (\d+)", text))

    assert threads("--cores", "16", "--resources", "gpu=4") == {"4"}
    assert threads("--cores", "16") == {"8"}


def test_a_training_on_several_gpus_asks_for_them(fresh: Checkout) -> None:
    text = fresh.snakemake("-n", "--config", "device=cuda", "settings={train: {gpus: 2}}")
    asked = dict(re.findall(r"^rule (\w+):(?:\n    .*)*?\n    resources: .*\bgpu=(\d)", text, re.MULTILINE))
    assert asked["train"] == "2"
    assert asked["mesh"] == "1"
