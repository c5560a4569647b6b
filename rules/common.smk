"""The config and the list of scenes, checked, and the functions that the rules use; no rules here."""

import csv
import json
import os
import re
import shlex
import sys
from functools import lru_cache
from pathlib import Path

import yaml
from jsonschema import Draft202012Validator
from snakemake.exceptions import WorkflowError
from snakemake.utils import validate

ROOT = Path(workflow.basedir)
sys.path.insert(0, str(ROOT))

from nsr import digest, manifest
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
RESULTS, REPORT, LOGS = SETUP.results, SETUP.report, SETUP.logs
DATA = RESULTS + "/{dataset}/{scene}"
RUN = DATA + "/{method}"
DATA_LOG = "{dataset}/{scene}"
RUN_LOG = DATA_LOG + "/{method}"


wildcard_constraints:
    dataset="|".join(sorted({re.escape(row.dataset) for row in SCENES.values()})),
    scene="|".join(sorted({re.escape(row.scene) for row in SCENES.values()})),
    method="|".join(re.escape(method) for method in SETUP.methods),
    kind="mesh|tsdf",


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

    def of(wildcards):
        settings = resolved(row_of(wildcards).name, wildcards.get("method"))
        chosen = {}
        for name in names:
            top, _, key = name.partition(".")
            whole = plain_section(settings, top)
            chosen[top] = {**chosen.get(top, {}), key: whole[key]} if key else whole
        return json.dumps(chosen, sort_keys=True)

    return of


def code_digest(stage):
    """Hash of the stage's program and of the modules it imports, because snakemake does not see edits of modules."""
    try:
        return digest.code_digest(stage, ROOT)
    except ConfigError as error:
        raise WorkflowError(str(error)) from None


def column(name):
    """A function of the wildcards: a cell of the manifest."""

    def of(wildcards):
        return getattr(row_of(wildcards), name)

    return of


def option(flag, name):
    """A function of the wildcards: `flag value` quoted for the shell where the manifest's column has a value, else nothing."""

    def of(wildcards):
        value = getattr(row_of(wildcards), name)
        return f"{flag} {shlex.quote(value)}" if value else ""

    return of


def photos(wildcards):
    """Photographs of a scene. Times do not count (`ancient`), contents do (`photos_digest`)."""
    return ancient(manifest.source_files(row_of(wildcards), masks=False))


def source_files(wildcards):
    """Photographs, masks and cameras of a scene. Times do not count (`ancient`), contents do (`source_digest`)."""
    return ancient(manifest.source_files(row_of(wildcards)))


@lru_cache(maxsize=None)
def digest_of(*files):
    """Hash of the contents of files; those of unchanged size and time are remembered from earlier calls."""
    # A file for each set, so that a thousand scenes do not rewrite what is remembered of all the others.
    memory = Path(".snakemake/nsr-digests") / f"{hash_json(files)}.json"
    try:
        return digest.source_digest(map(Path, files), memory)
    except ConfigError as error:
        raise WorkflowError(str(error)) from None


def photos_digest(wildcards):
    """Hash of a scene's photographs."""
    return digest_of(*manifest.source_files(row_of(wildcards), masks=False))


def source_digest(wildcards):
    """Hash of the files a scene is made from; in every rule that reads the scene, whose folder is no declared output."""
    return digest_of(*manifest.source_files(row_of(wildcards)))


def metric_digest(wildcards):
    """Hash of the similarity file that a scene's settings name; its name is among the settings, its contents are not."""
    file = resolved(row_of(wildcards).name, wildcards.method).mesh.metric.file
    return digest_of(file) if file else ""


def model_of_scene(wildcards):
    """What structure from motion leaves, for scenes that are photographs."""
    if row_of(wildcards).format != "photos":
        return []
    return [f"{RESULTS}/{row_of(wildcards).name}/sfm/{name}" for name in SFM_FILES]


def model_option(wildcards):
    """`--model DIR` for scenes that are photographs."""
    if row_of(wildcards).format != "photos":
        return ""
    return f"--model {shlex.quote(f'{RESULTS}/{row_of(wildcards).name}/sfm')}"


def sparse_points_of_scene(wildcards):
    """The scene's sparse points, for methods whose training uses them."""
    wanted = ever_positive(resolved(row_of(wildcards).name, wildcards.method).train.loss.points)
    return f"{RESULTS}/{row_of(wildcards).name}/points/points.npz" if wanted else []


def points_option(wildcards, input):
    """`--points FILE` where training uses sparse points."""
    return f"--points {shlex.quote(str(input.points))}" if input.points else ""


def truth_files(wildcards):
    """Ground truth of a scene, the cameras in its frame, and what its protocol reads beside them."""
    return ancient(manifest.truth_files(row_of(wildcards)))


def truth_digest(wildcards):
    """Hash of the ground truth's files."""
    return digest_of(*manifest.truth_files(row_of(wildcards)))


def gpus(wildcards):
    """GPUs that a job asks for: one where `device` says or finds that there are any."""
    return 1 if SETUP.device == "cuda" or (SETUP.device == "auto" and Path("/proc/driver/nvidia/gpus").is_dir()) else 0


@lru_cache(maxsize=None)
def demand_of(stage, name, method):
    """Memory and time that a stage asks for, from the scene's photographs and settings."""
    return demand(stage, scene_size(SCENES[name]), resolved(name, method))


def memory(stage):
    """A function of the wildcards: MB that a job asks for, more at each attempt."""

    def of(wildcards, attempt):
        return demand_of(stage, row_of(wildcards).name, wildcards.get("method")).at(attempt).memory

    return of


def minutes(stage):
    """A function of the wildcards: minutes after which a scheduler may end a job, more at each attempt."""

    def of(wildcards, attempt):
        return demand_of(stage, row_of(wildcards).name, wildcards.get("method")).at(attempt).minutes

    return of


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


def list_of_runs():
    """Scenes and methods in the short form of `nsr.runs`, because a command line has an end."""
    return {"results": RESULTS, "methods": SETUP.methods, "scenes": list(SCENES)}


def runs():
    """Scene and method of every run, with its folder."""
    return list_runs(list_of_runs())


def run_results(wildcards):
    """Every file the report is made from."""
    files = []
    for run in runs():
        row, folder = SCENES[f"{run['dataset']}/{run['scene']}"], run["folder"]
        files += [
            f"{folder}/{name}" for name in ("train.json", "metrics.jsonl", "mesh.ply", "mesh.json", "tsdf.ply", "tsdf.json")
        ]
        files += [f"{folder}/texture/{name}" for name in ("texture.json", "textured.glb")]
        if row.ground_truth:
            files += [f"{folder}/evaluate/{kind}.json" for kind in ("mesh", "tsdf")]
        if holds_out(row.name, run["method"]):
            files += [f"{folder}/render/render.json", f"{folder}/evaluate/views.json"]
    return files


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
    """Say where the report lies and what it measured, where one was made: single results can be asked for, too."""
    from nsr.report.tables import to_text

    summary = Path(REPORT) / "summary.tsv"
    if not summary.is_file():
        return
    with summary.open(newline="") as file:
        rows = [{key: number_or_text(text) for key, text in row.items() if text} for row in csv.DictReader(file, delimiter="\t")]
    print(to_text(rows))
    print(f"report: {REPORT}/index.html")


def number_or_text(text):
    """A cell of the summary as it was before it was written."""
    try:
        return float(text)
    except ValueError:
        return text
