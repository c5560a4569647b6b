"""What stands beside a result about who made it."""

from __future__ import annotations

import pytest

from nsr.provenance import manifest


def test_the_job_and_its_gpus_are_recorded_where_a_scheduler_gave_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    machine = manifest(seed=1)["machine"]
    assert (machine["gpus"], machine["slurm_job"]) == ("2,5", "17")
    assert machine["cpus"] > 0


def test_nothing_is_said_about_a_scheduler_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    facts = manifest(seed=1)
    assert set(facts["machine"]) == {"system", "machine", "cpus"}
    assert facts["seed"] == 1
