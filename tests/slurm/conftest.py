"""Fixtures of the tests on SLURM."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster, why_not
from tests.slurm.project import Project


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Faults take minutes and run where they are asked for."""
    for item in items:
        if item.get_closest_marker("slow") and not os.environ.get("NSR_SLOW"):
            item.add_marker(pytest.mark.skip(reason="takes minutes; NSR_SLOW=1 runs it"))


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One node with three GPUs, started once."""
    reason = why_not()
    if importlib.util.find_spec("snakemake_executor_plugin_slurm") is None:
        reason = "snakemake-executor-plugin-slurm is not installed (extra slurm)"
    if reason:
        pytest.skip(f"no SLURM: {reason}")
    with Cluster(tmp_path_factory.mktemp("slurm"), gpus=3) as cluster:
        yield cluster


@pytest.fixture()
def make_project(tmp_path: Path) -> Iterator[Callable[..., Project]]:
    """A function of the scenes' names that makes a project."""
    made: list[Project] = []

    def make(*scenes: str, steps: int = 60) -> Project:
        made.append(Project(tmp_path / f"project{len(made)}", scenes, steps))
        return made[-1]

    yield make
    for project in made:
        project.close()
