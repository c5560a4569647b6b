"""What stands beside a result about who made it."""

from __future__ import annotations

from pathlib import Path

import pytest

from nsr import provenance
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
    assert set(facts["machine"]) == {"system", "machine", "cpus", "processor", "gpu_driver"}
    assert facts["seed"] == 1


def test_processor_and_gpu_driver_are_those_that_the_system_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The driver's file as NVIDIA's own and its open kernel modules write it."""
    processor, driver = tmp_path / "cpuinfo", tmp_path / "version"
    monkeypatch.setattr(provenance, "_PROCESSOR", processor)
    monkeypatch.setattr(provenance, "_DRIVER", driver)
    assert {manifest()["machine"][key] for key in ("processor", "gpu_driver")} == {None}
    processor.write_text("processor\t: 0\nmodel name\t: AMD EPYC 7B13\nmodel name\t: other\n")
    for kind in (
        "UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19",
        "UNIX Open Kernel Module for x86_64  570.133.20  Release Build",
    ):
        driver.write_text(f"NVRM version: NVIDIA {kind}\nGCC version: 12\n")
        machine = manifest()["machine"]
        assert machine["processor"] == "AMD EPYC 7B13"
        assert f"  {machine['gpu_driver']}  " in kind
