"""The container recipes, which are built only where an engine is: what they copy exists, is all that is needed, and both say the same."""

from __future__ import annotations

import re
import shlex

from packaging.specifiers import SpecifierSet

from tests.source_tree import ROOT
from tests.test_environment_sync import project

FOLDER = ROOT / "config/container"
DOCKER = re.sub(r"\\\n\s*", " ", (FOLDER / "Dockerfile").read_text(encoding="utf-8"))
APPTAINER = (FOLDER / "nsr.def").read_text(encoding="utf-8")
INSTRUCTIONS = {"FROM", "RUN", "ARG", "WORKDIR", "COPY", "ENV", "CMD"}
SECTIONS = {"files", "post", "environment", "runscript", "test", "labels", "help"}


def instructions() -> list[tuple[str, str]]:
    """Instruction and argument of every line of the Dockerfile."""
    lines = [line for line in DOCKER.splitlines() if line.strip() and not line.startswith("#")]
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in lines]


def sections() -> dict[str, str]:
    """Sections of the Apptainer definition by name."""
    parts = re.split(r"^%(\w+)\n", APPTAINER, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def copied() -> tuple[set[str], set[str]]:
    """What each recipe takes from the checkout."""
    docker = {name for word, rest in instructions() if word == "COPY" for name in shlex.split(rest)[:-1]}
    return docker, {line.split()[0] for line in sections()["files"].splitlines() if line.strip()}


def packages(text: str) -> set[str]:
    """Debian packages that a recipe installs."""
    return set(re.search(r"apt-get install -y --no-install-recommends ([^&\n]*)", text)[1].split())  # type: ignore[index]


def test_recipes_are_well_formed() -> None:
    words = [word for word, _ in instructions()]
    assert words[0] == "FROM"
    assert words[-1] == "CMD"
    assert set(words) <= INSTRUCTIONS
    assert set(sections()) == SECTIONS
    header = dict(re.findall(r"^(\w+): (\S+)$", APPTAINER.split("%files")[0], re.MULTILINE))
    assert set(header) == {"Bootstrap", "From"}


def test_both_start_from_the_same_pinned_python() -> None:
    docker = dict(instructions())["FROM"].removeprefix("docker.io/library/")
    assert docker == re.search(r"^From: (\S+)$", APPTAINER, re.MULTILINE)[1]  # type: ignore[index]
    version = re.fullmatch(r"python:(\d+\.\d+\.\d+)-slim-[a-z]+", docker)
    assert version, "the image's tag names no patch version"
    assert version[1] in SpecifierSet(project()["requires-python"])


def test_both_copy_the_same_files_which_exist() -> None:
    docker, apptainer = copied()
    assert docker == apptainer
    assert all((ROOT / name).exists() for name in docker)
    pairs = [line.split() for line in sections()["files"].splitlines() if line.strip()]
    assert all(place == f"/nsr/{name}" for name, place in pairs)


def test_what_the_package_and_the_workflow_read_is_copied() -> None:
    docker, _ = copied()
    read = {project()["readme"], *project()["license-files"], "pyproject.toml", "nsr", "scripts", "rules", "config", "Snakefile"}
    assert docker == read


def test_both_install_the_same() -> None:
    assert packages(DOCKER) == packages(APPTAINER)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    needed = re.search(r"apt install make git python3-venv ([^`]*)`", readme)[1].split()  # type: ignore[index]
    assert {*needed, "gcc"} <= packages(DOCKER)
    installed = {" ".join(re.search(r"uv pip install --system (.*)", text)[1].split()) for text in (DOCKER, sections()["post"])}  # type: ignore[index]
    (line,) = installed
    energy = next(item for item in project()["optional-dependencies"]["gpu"] if item.startswith("nvidia-ml-py"))
    assert shlex.split(line) == ["--no-cache", ".", energy]


def test_only_what_is_copied_goes_to_the_engine() -> None:
    lines = (FOLDER / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [line for line in lines if not line.startswith("#")]
    assert rules[0] == "*" and rules[-1] == "**/__pycache__", "later lines win"
    assert {rule.removeprefix("!") for rule in rules[1:-1]} == copied()[0]
    assert all(rule.startswith("!") for rule in rules[1:-1])


def test_the_surroundings_of_a_user_without_a_name() -> None:
    """What snakemake, torch and matplotlib ask for and such a user does not have: a home to write to, and a name."""
    words = dict(word.split("=", 1) for word in dict(instructions())["ENV"].split())
    assert words["USER"]
    assert f"mkdir -p -m 1777 {words['HOME']}" in DOCKER
    assert words["NVIDIA_DRIVER_CAPABILITIES"] == "compute,utility"


def test_nothing_of_the_host_is_imported_in_an_apptainer() -> None:
    lines = [line.strip() for line in sections()["environment"].splitlines()]
    assert "export PYTHONNOUSERSITE=1" in lines
    assert any(line.startswith("unset ") and "PYTHONPATH" in line.split() for line in lines)
