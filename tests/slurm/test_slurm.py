"""The whole workflow through sbatch on a real SLURM of one node, and what happens when parts of it are killed."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from itertools import combinations
from pathlib import Path

import pytest

from nsr.config import resolve
from nsr.resources import SceneSize, demand
from tests.slurm.cluster import Cluster, wait_for
from tests.slurm.project import PROFILE, SCENES, SMALL, Project, model
from tests.source_tree import ROOT

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(1800), pytest.mark.xdist_group("slurm")]  # one cluster, one process
# They say when and how fast, not what came out.
TIMES = {"date", "train_seconds", "total_seconds", "samples_per_second"}
GPU_RULES = ("train", "mesh", "tsdf", "render")
GPUS = [f"{rule}:gpu=1" for rule in GPU_RULES]


@pytest.fixture(scope="module")
def whole(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """A list of three scenes after a whole run through sbatch."""
    project = Project(tmp_path_factory.mktemp("whole") / "project", tuple(SCENES))
    try:
        project.run(*PROFILE)
        yield project
    finally:
        project.close()


@pytest.fixture(scope="module")
def jobs(cluster: Cluster, whole: Project) -> dict[str, dict[str, str]]:
    """SLURM's record of each job of that run by its comment, rule and wildcards."""
    return records(cluster, whole)


def test_every_stage_went_through_sbatch(jobs: dict[str, dict[str, str]], whole: Project) -> None:
    after_training = 3 * ["train", "mesh", "tsdf", "texture"] + 2 * ["render", "evaluate_views", "evaluate_mesh", "evaluate_mesh"]
    expected = sorted(["sfm", "report", *3 * ["prepare"], *after_training])
    assert rules_of(jobs) == expected
    assert {record["JobState"] for record in jobs.values()} == {"COMPLETED"}
    note("\n".join(listing(jobs, whole)))


def test_jobs_ask_for_what_their_rules_say(jobs: dict[str, dict[str, str]]) -> None:
    config = resolve([ROOT / "config/methods/nsr-demo.yaml", SMALL])
    asked = demand("train", SceneSize(views=30, width=640, height=480), config)
    record = jobs["rule_train_wildcards_examples_bob_nsr-demo"]
    assert f",mem={asked.memory}M," in record["TRES"]
    assert minutes(record["TimeLimit"]) == asked.minutes
    for comment, record in jobs.items():
        needs_gpu = any(comment.startswith(f"rule_{rule}_") for rule in GPU_RULES)
        assert record["JOB_GRES"] == ("gpu:1" if needs_gpu else "(null)"), (comment, record)
        assert record["Requeue"] == "0"


def test_jobs_side_by_side_have_gpus_of_their_own(whole: Project, jobs: dict[str, dict[str, str]]) -> None:
    """By what each job's result says of `CUDA_VISIBLE_DEVICES`, and by SLURM's clock."""
    named, seen = gpus_of(whole), {}
    for comment, record in jobs.items():
        if any(comment.startswith(f"rule_{rule}_") for rule in GPU_RULES):
            assert named[record["JobId"]] in {"0", "1", "2"}, comment
            seen[comment] = (named[record["JobId"]], moment(record["StartTime"]), moment(record["EndTime"]))
    assert len(seen) == 11  # trainings, both meshes, and views of the two scenes that hold some out
    beside = [(one, two) for one, two in combinations(seen.values(), 2) if one[1] < two[2] and two[1] < one[2]]
    assert beside, seen
    assert all(one[0] != two[0] for one, two in beside), seen


@pytest.mark.slow()
def test_table_is_that_of_a_local_run(whole: Project, make_project: Callable[..., Project]) -> None:
    """One scene again on this machine: its numbers are the same, and the other scenes have rows of their own."""
    local = make_project("bob")
    local.run("--cores", "2")
    found = [row for row in whole.summary() if row["scene"] == "bob"]
    assert [same_numbers(one, two) for one, two in zip(found, local.summary(), strict=True)] == [[], []]
    assert {row["status"] for row in whole.summary()} == {"ok"}
    assert {row["scene"] for row in whole.summary()} == set(SCENES)


def test_node_that_dies_in_training(cluster: Cluster, make_project: Callable[..., Project]) -> None:
    """Slurmd and all of the job are killed; the next attempt goes on at the checkpoint, with twice the memory and time."""
    project = make_project("bob", steps=400)
    process = project.start(model("bob"), *PROFILE)
    wait_for(lambda: checkpoint(project, "bob").exists(), 300, "training leaves a checkpoint", project.said)
    [first] = trainings_of(cluster, project)
    asked = cluster.details(first["id"])
    cluster.kill_node()
    killed = time.monotonic()
    cluster.start_node()
    wait_for(lambda: len(trainings_of(cluster, project)) == 2, 300, "training is submitted again", project.said)
    submitted = time.monotonic() - killed
    again = cluster.details(trainings_of(cluster, project)[1]["id"])
    assert process.wait(600) == 0, project.said()
    assert cluster.details(first["id"])["JobState"] == "NODE_FAIL"
    assert project.facts("bob")["resumed"]
    assert minutes(again["TimeLimit"]) == 2 * minutes(asked["TimeLimit"])
    note(f"node killed: submitted again after {submitted:.0f} s, training done after {time.monotonic() - killed:.0f} s")


@pytest.mark.slow()
def test_slurmd_that_dies_alone(cluster: Cluster, make_project: Callable[..., Project]) -> None:
    """The job's own processes live on without slurmd, and snakemake notices nothing."""
    project = make_project("bob", steps=400)
    process = project.start(model("bob"), *PROFILE)
    wait_for(lambda: checkpoint(project, "bob").exists(), 300, "training leaves a checkpoint", project.said)
    cluster.kill_slurmd()
    killed = time.monotonic()
    time.sleep(5)
    cluster.start_node()
    assert process.wait(600) == 0, project.said()
    assert not project.facts("bob")["resumed"]
    note(f"slurmd killed for 5 s: done after {time.monotonic() - killed:.0f} s")


@pytest.mark.slow()
def test_training_that_reaches_its_time_limit(cluster: Cluster, make_project: Callable[..., Project]) -> None:
    """A minute is too short; each attempt has a minute more and goes on where the last one was ended."""
    project = make_project("bob", steps=3500)
    start = time.monotonic()
    resources = ("--set-resources", "train:runtime=attempt", *GPUS)
    project.run(model("bob"), *PROFILE, "--retries", "5", *resources, seconds=1500)
    trainings = [cluster.details(job["id"]) for job in trainings_of(cluster, project)]
    states = [record["JobState"] for record in trainings]
    assert states[-1] == "COMPLETED"
    assert set(states[:-1]) == {"TIMEOUT"}
    assert [minutes(record["TimeLimit"]) for record in trainings] == list(range(1, len(trainings) + 1))
    assert project.facts("bob")["resumed"]
    note(f"time limit: {len(states)} attempts, {time.monotonic() - start:.0f} s in all")


@pytest.mark.slow()
def test_snakemake_that_dies_while_jobs_wait(cluster: Cluster, make_project: Callable[..., Project]) -> None:
    """Its jobs are cancelled by their name, the folder is unlocked, and the next command redoes nothing that was finished."""
    project = make_project("bob", "posed", steps=600)
    targets = [model("bob"), model("posed")]
    alone = ("--set-resources", "train:gpu=3")  # so that one training waits for the other
    process = project.start(*targets, *PROFILE, *alone)
    wait_for(lambda: sum(bool(list(project.root.glob(f"results/*/{s}/*/checkpoint/last.pt"))) for s in ("bob", "posed")) > 0,
             900, "a training runs", project.said)  # fmt: skip
    wait_for(
        lambda: [job["state"] for job in trainings_of(cluster, project)].count("PENDING") == 1, 60, "one waits", project.said
    )
    process.send_signal(signal.SIGKILL)
    process.wait()
    killed = time.monotonic()
    finished = {path: path.stat().st_mtime_ns for path in project.root.glob("results/*/*/scene/scene.json")}
    assert len(finished) == 2
    subprocess.run(["scancel", "--name", project.name_of_run()], check=True)
    wait_for(lambda: not [job for job in trainings_of(cluster, project) if job["state"] in ("RUNNING", "COMPLETING", "PENDING")],
             60, "the jobs end", project.said)  # fmt: skip
    project.run("--unlock")
    project.run(*targets, *PROFILE)
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    assert {job["comment"].split("_wildcards_")[0] for job in jobs_of(cluster, project)} == {"rule_train"}
    assert sorted(project.facts(scene)["resumed"] for scene in ("bob", "posed")) == [False, True]
    note(f"snakemake killed: all done {time.monotonic() - killed:.0f} s later")


def moment(text: str) -> datetime:
    """A time as scontrol writes it."""
    return datetime.fromisoformat(text)


def minutes(text: str) -> int:
    """A time limit as scontrol writes it, [days-]hours:minutes:seconds."""
    days, _, clock = text.rpartition("-")
    hours, rest, _ = clock.split(":")
    return int(days or 0) * 1440 + int(hours) * 60 + int(rest)


def checkpoint(project: Project, scene: str) -> Path:
    """Where training keeps what it goes on from."""
    return project.root / "results/examples" / scene / "nsr-demo/checkpoint/last.pt"


def records(cluster: Cluster, project: Project) -> dict[str, dict[str, str]]:
    """SLURM's record of each job of a project's last run by its comment."""
    return {job["comment"]: cluster.details(job["id"]) for job in jobs_of(cluster, project)}


def gpus_of(project: Project) -> dict[str, str | None]:
    """`CUDA_VISIBLE_DEVICES` of each SLURM job that left a result of a method, as the result says."""
    results = [json.loads(file.read_text()) for file in project.root.glob("results/examples/*/nsr-demo/**/*.json")]
    machines = [result["manifest"]["machine"] for result in results]
    return {machine["slurm_job"]: machine.get("gpus") for machine in machines}


def listing(jobs: dict[str, dict[str, str]], project: Project) -> list[str]:
    """SLURM's account of a run, a line for each job in the order of their starts, with the GPU that its result names."""
    gpus = gpus_of(project)
    lines = ["job  state      start     end       memory  limit     GPU  rule and wildcards"]
    for comment, record in sorted(jobs.items(), key=lambda item: (item[1]["StartTime"], int(item[1]["JobId"]))):
        times = "  ".join(moment(record[key]).strftime("%H:%M:%S") for key in ("StartTime", "EndTime"))
        memory = record["TRES"].split("mem=")[1].split(",")[0]
        place = gpus.get(record["JobId"]) or "-"
        what = comment.removeprefix("rule_").replace("_wildcards_", " ")
        lines.append(f"{record['JobId']:<4} {record['JobState']}  {times}  {memory:<7} {record['TimeLimit']}  {place:<3}  {what}")
    return lines


def rules_of(jobs: dict[str, dict[str, str]]) -> list[str]:
    """The rules of jobs, sorted."""
    return sorted(comment.split("_wildcards_")[0].removeprefix("rule_") for comment in jobs)


def jobs_of(cluster: Cluster, project: Project) -> list[dict[str, str]]:
    """Jobs of snakemake's last run."""
    return [job for job in cluster.jobs() if job["name"] == project.name_of_run()]


def trainings_of(cluster: Cluster, project: Project) -> list[dict[str, str]]:
    """Training jobs of snakemake's last run."""
    return [job for job in jobs_of(cluster, project) if job["comment"].startswith("rule_train")]


def same_numbers(one: dict[str, str], two: dict[str, str]) -> list[str]:
    """Columns in which two rows differ by more than rounding."""
    return [name for name in one if name not in TIMES and not alike(one[name], two.get(name, ""))]


def alike(one: str, two: str) -> bool:
    """Whether two cells say the same."""
    try:
        return math.isclose(float(one), float(two), rel_tol=1e-6)
    except ValueError:
        return one == two


def note(text: str) -> None:
    """A measured time, for docs/reliability.md; shown by `pytest -s`."""
    sys.stderr.write(f"\n{text}\n")
