"""The config and the list of scenes, checked, and the functions that the rules use; no rules here."""

import atexit
import csv
import gc
import inspect
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

import yaml
from jsonschema import Draft202012Validator
from snakemake.common import overwrite_function_params
from snakemake.exceptions import WorkflowError
from snakemake.resources import Resource
from snakemake.utils import validate

# The graph of a thousand scenes is millions of objects that stay to the end: no use in looking for garbage among them again and
# again, a tenth of the time, or in taking them apart at the exit, another tenth.
gc.set_threshold(200_000, 50, 50)
atexit.register(gc.freeze)

ROOT = Path(workflow.basedir)
sys.path.insert(0, str(ROOT))

from nsr import ablation, digest, manifest
from nsr.config import ever_positive, section
from nsr.errors import ConfigError
from nsr.provenance import hash_files, hash_json
from nsr.resources import demand, report_demand, scene_size
from nsr.runs import list_runs

# Stages run with the interpreter that runs snakemake and with the very checkout whose code is hashed.
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])


def validate_rows(rows):
    """Check the rows against their schema, which is read once (snakemake's `validate` reads it for each)."""
    schema = yaml.safe_load((ROOT / "config/schemas/scenes.schema.yaml").read_text())
    checker = Draft202012Validator(schema)
    for row in rows:
        for error in checker.iter_errors(vars(row)):
            raise ConfigError(f"{row.name}: {'.'.join(map(str, error.absolute_path))}: {error.message}")


def read_everything():
    """The checked config and the rows of the manifest by "dataset/scene"; a mistake of the user ends in one line."""
    try:
        workflow_config = manifest.read_workflow_config(config)
        rows = manifest.read_manifest(Path(workflow_config.scenes))
        validate(
            {**config, "settings": workflow_config.settings}, str(ROOT / "config/schemas/config.schema.yaml"), set_default=False
        )
        validate_rows(rows)
    except ConfigError as error:
        raise WorkflowError(str(error)) from None
    return workflow_config, {row.name: row for row in rows}


SETUP, SCENES = read_everything()
os.environ["NSR_GPU_SHARE"] = str(SETUP.gpu_share)
RESULTS, REPORT, LOGS = SETUP.results, SETUP.report, SETUP.logs
UNFINISHED = "unfinished"  # folder of the report of a run that failed
DATA = RESULTS + "/{dataset}/{scene}"
RUN = DATA + "/{method}"
DATA_LOG = "{dataset}/{scene}"
RUN_LOG = DATA_LOG + "/{method}"


# Any name, not the names listed: a regular expression of a thousand alternatives takes its time for every file of every job.
wildcard_constraints:
    dataset=manifest.NAME.pattern,
    scene=manifest.NAME.pattern,
    method="|".join([*(re.escape(method) for method in SETUP.methods), ablation.PATTERN]),
    kind="mesh|tsdf",


# Resources are asked by one method of snakemake's own, whose parameters it does not note.
overwrite_function_params(Resource.evaluate, inspect.signature(Resource.evaluate).parameters)


def asked(function):
    """A function of the wildcards with its parameters noted: snakemake asks for them before each of some hundred thousand calls."""
    overwrite_function_params(function, inspect.signature(function).parameters)
    return function


def row_of(wildcards):
    """The manifest's row of a job."""
    name = f"{wildcards.dataset}/{wildcards.scene}"
    if name not in SCENES:
        raise WorkflowError(f"{SETUP.scenes}: no scene '{name}'")
    return SCENES[name]


@lru_cache(maxsize=None)
def resolved(name, method):
    """Settings of a scene under a method (None: those all methods share)."""
    try:
        return manifest.resolve_scene(SCENES[name], SETUP, method)
    except ConfigError as error:
        raise WorkflowError(f"scene {name}, method {method}: {error}") from None


PLAIN = {}


def plain_section(settings, name):
    """A section as plain data, made once for all scenes that share it."""
    part = getattr(settings, name)
    if id(part) not in PLAIN:
        PLAIN[id(part)] = part, section(settings, name)[name]  # holding the part keeps its id from being used again
    return PLAIN[id(part)][1]


def settings_of(*names):
    """A function of the wildcards: sections ("mesh") or single settings ("mesh.colours") as JSON.

    A stage gets what it uses and nothing else, so that other settings trigger nothing.
    """

    @lru_cache(maxsize=None)
    def text(name, method):
        settings = resolved(name, method)
        chosen = {}
        for wanted in names:
            top, _, key = wanted.partition(".")
            whole = plain_section(settings, top)
            chosen[top] = {**chosen.get(top, {}), key: whole[key]} if key else whole
        return json.dumps(chosen, sort_keys=True)

    @asked
    def of(wildcards):
        return text(row_of(wildcards).name, wildcards.get("method"))

    return of


def code_digest(stage):
    """Hash of the stage's program and of the modules it imports, because snakemake does not see edits of modules."""
    try:
        return digest.code_digest(stage, ROOT)
    except ConfigError as error:
        raise WorkflowError(str(error)) from None


def column(name):
    """A function of the wildcards: a cell of the manifest."""

    @asked
    def of(wildcards):
        return getattr(row_of(wildcards), name)

    return of


def options(**flags):
    """A function of the wildcards: `flag value` quoted for the shell for each of the manifest's columns that has a value."""

    @asked
    def of(wildcards):
        row = row_of(wildcards)
        given = {flag: getattr(row, name) for name, flag in flags.items()}
        return " ".join(f"{flag} {shlex.quote(value)}" for flag, value in given.items() if value)

    return of


@lru_cache(maxsize=None)
def files_of(name, what):
    """Files of a scene: "photos", "source" (with masks and cameras) or "truth"; listed once for all jobs of the scene."""
    row = SCENES[name]
    return tuple(manifest.truth_files(row) if what == "truth" else manifest.source_files(row, masks=what == "source"))


@asked
def photos(wildcards):
    """Photographs of a scene. Times do not count (`ancient`), contents do (`photos_digest`)."""
    return ancient(list(files_of(row_of(wildcards).name, "photos")))


@asked
def source_files(wildcards):
    """Photographs, masks and cameras of a scene. Times do not count (`ancient`), contents do (`source_digest`)."""
    return ancient(list(files_of(row_of(wildcards).name, "source")))


@lru_cache(maxsize=None)
def digest_of(*files):
    """Hash of the contents of files; those of unchanged size and time are remembered from earlier calls."""
    # A file for each set, so that a thousand scenes do not rewrite what is remembered of all the others.
    memory = Path(".snakemake/nsr-digests") / f"{hash_json(files)}.json"
    try:
        return digest.source_digest(map(Path, files), memory)
    except ConfigError as error:
        raise WorkflowError(str(error)) from None


@asked
def photos_digest(wildcards):
    """Hash of a scene's photographs."""
    return digest_of(*files_of(row_of(wildcards).name, "photos"))


@asked
def source_digest(wildcards):
    """Hash of the files a scene is made from; in every rule that reads the scene, whose folder is no declared output."""
    return digest_of(*files_of(row_of(wildcards).name, "source"))


@asked
def metric_digest(wildcards):
    """Hash of the similarity file that a scene's settings name; its name is among the settings, its contents are not."""
    file = resolved(row_of(wildcards).name, wildcards.method).mesh.metric.file
    return digest_of(file) if file else ""


@asked
def model_of_scene(wildcards):
    """What structure from motion leaves, for scenes that are photographs."""
    if row_of(wildcards).format != "photos":
        return []
    return [f"{RESULTS}/{row_of(wildcards).name}/sfm/{name}" for name in SFM_FILES]


@asked
def model_option(wildcards):
    """`--model DIR` for scenes that are photographs."""
    if row_of(wildcards).format != "photos":
        return ""
    return f"--model {shlex.quote(f'{RESULTS}/{row_of(wildcards).name}/sfm')}"


@asked
def health_of_scene(wildcards):
    """Health of structure from motion, for scenes that are photographs."""
    return f"{RESULTS}/{row_of(wildcards).name}/sfm/sfm.json" if row_of(wildcards).format == "photos" else []


@asked
def health_option(wildcards, input):
    """`--sfm FILE` for scenes that are photographs."""
    return f"--sfm {shlex.quote(str(input.sfm))}" if input.sfm else ""


@asked
def costs_of_methods(wildcards):
    """Steps, samples and use of patches of each method as JSON, from which costs are told."""
    settings = {method: resolved(row_of(wildcards).name, method).train for method in SETUP.methods}
    facts = {
        method: {"steps": train.steps * train.members, "samples": train.samples, "patches": ever_positive(train.loss.patch)}
        for method, train in settings.items()
    }
    return json.dumps(facts)


@asked
def sparse_points_of_scene(wildcards):
    """The scene's sparse points, for methods whose training uses them."""
    wanted = ever_positive(resolved(row_of(wildcards).name, wildcards.method).train.loss.points)
    return f"{RESULTS}/{row_of(wildcards).name}/points/points.npz" if wanted else []


@asked
def points_option(wildcards, input):
    """`--points FILE` where training uses sparse points."""
    return f"--points {shlex.quote(str(input.points))}" if input.points else ""


@asked
def truth_files(wildcards):
    """Ground truth of a scene, the cameras in its frame, and what its protocol reads beside them."""
    return ancient(list(files_of(row_of(wildcards).name, "truth")))


@asked
def truth_digest(wildcards):
    """Hash of the ground truth's files."""
    return digest_of(*files_of(row_of(wildcards).name, "truth"))


def gpus():
    """GPUs that a job asks for: one where `device` says or finds that there are any."""
    return 1 if SETUP.device == "cuda" or (SETUP.device == "auto" and Path("/proc/driver/nvidia/gpus").is_dir()) else 0


@asked
def train_gpus(wildcards):
    """GPUs that a training asks for: `train.gpus`, where there are any."""
    return resolved(row_of(wildcards).name, wildcards.method).train.gpus * gpus()


def gpu_threads():
    """Threads of a job that uses a GPU: 8, or the cores of the machine divided among its GPUs, so that none of them waits."""
    slots = workflow.global_resources.get("gpu") if gpus() else None
    if slots is None or not slots.value or not workflow.cores:
        return 8
    return max(1, min(8, workflow.cores // slots.value))


@lru_cache(maxsize=None)
def demand_of(stage, name, method):
    """Memory and time that a stage asks for, from the scene's photographs and settings."""
    return demand(stage, scene_size(SCENES[name]), resolved(name, method))


def asks_for(stage, what):
    """A function of the wildcards: "memory" or "minutes" of a stage's job, more at each attempt."""

    @asked
    def of(wildcards, attempt):
        return getattr(demand_of(stage, row_of(wildcards).name, wildcards.get("method")).at(attempt), what)

    return of


def memory(stage):
    """MB that a job asks for."""
    return asks_for(stage, "memory")


def minutes(stage):
    """Minutes after which a scheduler may end a job."""
    return asks_for(stage, "minutes")


def report_memory(wildcards, attempt):
    """MB that the report asks for."""
    return report_demand(len(runs())).at(attempt).memory


def report_minutes(wildcards, attempt):
    """Minutes that the report asks for."""
    return report_demand(len(runs())).at(attempt).minutes


def holds_out(name, method):
    """Whether some views of a scene were kept from training."""
    settings = resolved(name, method)
    return settings.train.split == "holdout" and settings.prepare.holdout_every > 0


def list_of_runs(methods=None):
    """Scenes and methods (None: those of the config) in the short form of `nsr.runs`, because a command line has an end."""
    return {"results": RESULTS, "methods": methods or SETUP.methods, "scenes": list(SCENES)}


def runs():
    """Scene and method of every run, with its folder."""
    return list_runs(list_of_runs())


@lru_cache(maxsize=None)
def facts_of_runs():
    """The file of facts of every job of every run: what the report is made from, and newer where anything beside it is."""
    files = []
    for run in runs():
        row, folder = SCENES[f"{run['dataset']}/{run['scene']}"], run["folder"]
        files += [f"{folder}/{name}" for name in ("train.json", "mesh.json", "tsdf.json", "texture/texture.json")]
        files += [f"{folder}/evaluate/{kind}.json" for kind in ("mesh", "tsdf")] if row.ground_truth else []
        if holds_out(row.name, run["method"]):
            files += [f"{folder}/render/render.json", f"{folder}/evaluate/views.json"]
    return tuple(files)


@asked
def run_results(wildcards):
    """What the report is made from: one file of each job, because a job makes its files together."""
    return list(facts_of_runs())


def ablation_runs():
    """The runs of the ablation in the short form of `nsr.runs`."""
    try:
        return list_of_runs(ablation.read_ablation(Path(SETUP.ablation)).runs())
    except ConfigError as error:
        raise WorkflowError(str(error)) from None


def ablation_list(wildcards):
    """`ablation_runs` as JSON."""
    return json.dumps(ablation_runs())


def ablation_results(wildcards):
    """What the table of the ablation is made from."""
    files = []
    for run in list_runs(ablation_runs()):
        row, folder = SCENES[f"{run['dataset']}/{run['scene']}"], run["folder"]
        files.append(f"{folder}/train.json")
        files += [f"{folder}/evaluate/mesh.json"] if row.ground_truth else []
        files += [f"{folder}/evaluate/views.json"] if holds_out(row.name, run["method"]) else []
    return files


def all_results(wildcards):
    """Every result that must exist at the end.

    The report alone does not tell: where a stage that ran again failed, its old results are gone and the old report is still there.
    """
    files = [f"{RESULTS}/{name}/scene/scene.json" for name in SCENES]
    files += [f"{RESULTS}/{row.name}/sfm/{name}" for row in SCENES.values() if row.format == "photos" for name in SFM_FILES]
    beside = ("model.pt", "metrics.jsonl", "mesh.ply", "tsdf.ply", "texture/textured.glb")
    files += [f"{run['folder']}/{name}" for run in runs() for name in beside]
    return files + run_results(wildcards)


def report_options():
    """Options of the report's program that the config sets."""
    compare = f"--compare {shlex.quote(SETUP.compare)} " if SETUP.compare else ""
    return compare + (f"--gpu-price {SETUP.gpu_price:g}" if SETUP.gpu_price else "")


def published_digest():
    """Hash of the tables of published numbers, wherever the project lies."""
    return hash_files((ROOT / "config/published").glob("*.tsv"))


def final_files():
    """What a whole run ends with: the report, and the check where there are golden ranges."""
    return [f"{REPORT}/index.html", f"{REPORT}/summary.tsv"] + ([f"{REPORT}/check.tsv"] if SETUP.golden else [])


def print_summary():
    """Say where the report lies and what it measured; nothing where something else was asked for, as preflight."""
    Path(f"{REPORT}/{UNFINISHED}/preflight.html").unlink(missing_ok=True)
    if not Path(f"{REPORT}/summary.tsv").is_file():
        return
    shutil.rmtree(f"{REPORT}/{UNFINISHED}", ignore_errors=True)  # that of an earlier failure is out of date
    from nsr.report.tables import to_text

    with open(f"{REPORT}/summary.tsv", newline="") as file:
        rows = [{key: number_or_text(text) for key, text in row.items() if text} for row in csv.DictReader(file, delimiter="\t")]
    print(to_text(rows))
    print(f"report: {REPORT}/index.html")


def report_what_there_is():
    """After a failed run: the report over what is there, beside the place of the whole one, with the reason of each failure.

    Where preflight was asked for, the page of preflight over what is there.
    """
    runs_file, out = Path(RESULTS) / "runs.json", f"{REPORT}/{UNFINISHED}"
    runs_file.parent.mkdir(parents=True, exist_ok=True)
    runs_file.write_text(json.dumps(list_of_runs()))
    if {"preflight", f"{REPORT}/preflight.html"} & set(workflow.dag_settings.targets):
        command = [sys.executable, str(ROOT / "scripts/preflight.py"), "--runs", str(runs_file), "--logs", LOGS]
        subprocess.run([*command, "--out", f"{out}/preflight.html", "--threads", "1", "--log", f"{LOGS}/unfinished.log"])
        return
    command = [sys.executable, str(ROOT / "scripts/report.py"), "--results", RESULTS, "--runs", str(runs_file), "--logs", LOGS]
    command += ["--published", str(ROOT / "config/published"), "--out", out, "--threads", "2", "--log", f"{LOGS}/unfinished.log"]
    subprocess.run([*command, *shlex.split(report_options())])


def number_or_text(text):
    """A cell of the summary as it was before it was written."""
    try:
        return float(text)
    except ValueError:
        return text
