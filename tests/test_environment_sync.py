"""environment.yml and pyproject.toml ask for the same packages in the same ranges."""

from __future__ import annotations

import sys
import tomllib
from typing import Any

import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from tests.source_tree import PACKAGE, ROOT, SCRIPTS, imports


def project() -> dict[str, Any]:
    """The [project] table."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def environment() -> tuple[list[str], list[str]]:
    """Conda and pip requirements of environment.yml."""
    data = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    conda = [item for item in data["dependencies"] if isinstance(item, str)]
    (pip,) = (item["pip"] for item in data["dependencies"] if isinstance(item, dict))
    return conda, [item for item in pip if not item.startswith("-")]


def by_name(lines: list[str]) -> dict[str, tuple[SpecifierSet, str]]:
    """Range and marker of each requirement, by normalised name."""
    parsed = [Requirement(line) for line in lines]
    return {canonicalize_name(item.name): (item.specifier, str(item.marker or "")) for item in parsed}


def test_every_dependency_has_the_same_range() -> None:
    extras = project()["optional-dependencies"]
    wanted = by_name(project()["dependencies"] + extras["gpu"] + extras["slurm"])
    found = by_name(environment()[1])
    assert len(wanted) >= 15
    assert {name: found.get(name) for name in wanted} == wanted


def test_the_tests_install_what_the_extra_for_clusters_does() -> None:
    extras = project()["optional-dependencies"]
    assert set(extras["slurm"]) <= set(extras["dev"])


def test_python_ranges_overlap() -> None:
    (python,) = (Requirement(item) for item in environment()[0] if item.startswith("python>"))
    assert project()["requires-python"] == ">=3.11"
    assert "3.11" in python.specifier
    assert "3.10" not in python.specifier


def test_open3d_is_one_wheel_on_every_platform() -> None:
    cpu, full = (Requirement(line) for line in project()["dependencies"] if line.startswith("open3d"))
    for version in ("3.11", "3.12", "3.13", "3.14"):
        for system, machine in (("linux", "x86_64"), ("linux", "aarch64"), ("darwin", "arm64")):
            place = {"python_version": version, "sys_platform": system, "platform_machine": machine}
            assert cpu.marker is not None
            assert full.marker is not None
            assert cpu.marker.evaluate(place) != full.marker.evaluate(place)


def test_torch_range_admits_a_local_build_and_not_the_next_version() -> None:
    (torch,) = (Requirement(line) for line in project()["dependencies"] if line.startswith("torch"))
    assert "2.13.0+cpu" in torch.specifier
    assert "2.14.0" not in torch.specifier
    assert "2.3.1" not in torch.specifier


def test_every_imported_package_is_declared() -> None:
    """What nsr/ and scripts/ import from outside is a dependency, an extra, or part of Python."""
    modules = {
        "yaml": "pyyaml",
        "mcubes": "pymcubes",
        "PIL": "pillow",
        "skimage": "scikit-image",
        "open3d": "open3d-cpu",
        "pynvml": "nvidia-ml-py",
    }
    declared = set(by_name(project()["dependencies"] + project()["optional-dependencies"]["gpu"]))
    used = {target.split(".")[0] for path in (*PACKAGE, *SCRIPTS) for _, target in imports(path)}
    outside = used - set(sys.stdlib_module_names) - {"nsr", "__future__"}
    assert {canonicalize_name(modules.get(name, name)) for name in outside} <= declared | {"triton", "tinycudann"}
