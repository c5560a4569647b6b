"""The profile for SLURM, read and planned with; tests/slurm runs it."""

from __future__ import annotations

import re

import pytest
import yaml

from tests.workflow.checkout import ROOT, Checkout
from tests.workflow.test_rules import blocks

PROFILE = yaml.safe_load((ROOT / "config/profiles/slurm/config.yaml").read_text(encoding="utf-8"))
GPU_RULES = {rule for rule, block in blocks().items() if re.search(r"\bgpu=\w*gpus\b", block)}


def planned(text: str) -> dict[str, list[dict[str, str]]]:
    """Resources of the jobs of each rule in a dry run."""
    found: dict[str, list[dict[str, str]]] = {}
    rule = ""
    for line in text.splitlines():
        if head := re.match(r"(?:local)?rule (\w+):", line):
            rule = head[1]
        elif line.startswith("    resources: "):
            found.setdefault(rule, []).append(dict(part.split("=", 1) for part in line.split(": ", 1)[1].split(", ")))
    return found


def test_profile_gives_a_gpu_to_the_rules_that_use_one() -> None:
    assert set(PROFILE["set-resources"]) == GPU_RULES
    assert all(resources == {"gpu": 1} for resources in PROFILE["set-resources"].values())


def test_profile_never_waits_for_a_database_or_runs_a_job_twice() -> None:
    assert PROFILE["slurm-status-command"] == "squeue"
    assert PROFILE["slurm-init-seconds-before-status-checks"] * 3 <= 300  # MinJobAge where slurm.conf does not say otherwise
    assert PROFILE["slurm-no-requeue"] is True
    assert PROFILE["rerun-incomplete"] is True
    assert PROFILE["retries"] > 0


def test_plan_with_and_without_the_profile(fresh: Checkout) -> None:
    """Without it nothing asks for a GPU on a machine that has none; resources follow the scenes' photographs."""
    pytest.importorskip("snakemake_executor_plugin_slurm", reason="its extra slurm is not installed")
    local = ("--config", "device=cpu")
    for options, gpus in (((), "0"), (("--workflow-profile", "config/profiles/slurm"), "1")):
        jobs = planned(fresh.snakemake("-n", *options, *local))
        assert {job["gpu"] for rule in GPU_RULES for job in jobs[rule]} == {gpus}
        assert all("gpu" not in job for rule in jobs if rule not in GPU_RULES for job in jobs[rule])
        assert all(
            int(job["mem_mb"]) >= 1000 and int(job["runtime"]) >= 10 for rule in jobs if rule != "all" for job in jobs[rule]
        )
