"""Imports go one way through the package, heavy packages are imported by the stage that needs them, programs start fast."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from tests.source_tree import MODULES, PACKAGE, ROOT, SCRIPTS, STAGES, child_environment, imports, module_name, where

# From the bottom up; within a line modules may import each other, without cycles.
LAYERS = (
    ("conventions", "errors", "gpus", "job", "log", "provenance", "runs"),
    (
        "config_schema",
        "config_checks",
        "config_data",
        "config_overrides",
        "config_results",
        "config",
        "cli",
        "digest",
        "ablation",
        "manifest",
        "resources",
    ),
    ("kernels",),
    ("data",),
    ("scene",),
    ("sampling",),
    ("fields",),
    ("rendering",),
    ("losses",),
    ("train",),
    ("mesh",),
    ("evaluate",),
    ("report",),
    ("preflight",),
)
HEIGHT = {name: height for height, layer in enumerate(LAYERS) for name in layer}
HEAVY = {"torch", "open3d", "pycolmap", "snakemake", "matplotlib", "mcubes", "trimesh", "skimage", "pandas"}


def layer_of(module: str) -> int:
    """Height of a module's layer; the package itself (its version) lies under all."""
    parts = module.split(".")
    return HEIGHT[parts[1]] if len(parts) > 1 else -1


def test_every_module_has_a_layer() -> None:
    tops = {name.split(".")[1] for name in MODULES if "." in name}
    assert tops <= set(HEIGHT), tops - set(HEIGHT)


def test_imports_go_up_the_layers() -> None:
    wrong = [
        f"{where(path, node)}: {module_name(path)} imports {target}"
        for path in PACKAGE
        for node, target in imports(path)
        if target.split(".")[0] == "nsr" and layer_of(target) > layer_of(module_name(path))
    ]
    assert not wrong, "\n".join(wrong)


def test_no_import_cycles() -> None:
    graph = {name: {target for _, target in imports(path, only_top=True) if target in MODULES} for name, path in MODULES.items()}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join((*trail, name))
        if name in done:
            return
        for target in graph[name] - {name}:
            visit(target, (*trail, name))
        done.add(name)

    for name in graph:
        visit(name, ())


@pytest.mark.parametrize("package", ["data", "evaluate", "report", "preflight"])
def test_torch_stays_out(package: str) -> None:
    """Only LPIPS, a network, needs it, and only where the user has its weights."""
    wrong = [
        f"{where(path, node)}: {target}"
        for path in PACKAGE
        if module_name(path).split(".")[1:2] == [package] and module_name(path) != "nsr.evaluate.lpips"
        for node, target in imports(path)
        if target.split(".")[0] == "torch"
    ]
    assert not wrong, "\n".join(wrong)


def test_importing_stages_without_torch_loads_no_torch() -> None:
    names = [
        name
        for name in MODULES
        if name.split(".")[1:2] in (["data"], ["evaluate"], ["report"], ["preflight"], ["manifest"], ["digest"])
    ]
    code = f"import importlib, sys\nfor name in {names}: importlib.import_module(name)\nassert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=120)


def test_training_needs_few_packages() -> None:
    """The modules of training import no package that only other stages need."""
    lean = ("kernels", "scene", "sampling", "fields", "rendering", "losses", "train")
    wrong = [
        f"{where(path, node)}: {target}"
        for path in PACKAGE
        if module_name(path).split(".")[1:2] and module_name(path).split(".")[1] in lean
        for node, target in imports(path, only_top=True)
        if target.split(".")[0] in HEAVY - {"torch"}
    ]
    assert not wrong, "\n".join(wrong)


def test_scripts_import_only_the_command_line() -> None:
    wrong = [
        f"{where(path, node)}: {target}"
        for path in SCRIPTS
        for node, target in imports(path, only_top=True)
        if target.split(".")[0] in HEAVY or (target.startswith("nsr") and target not in ("nsr", "nsr.cli"))
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("stage", STAGES)
def test_help_answers_at_once(stage: str) -> None:
    start = time.process_time(), time.monotonic()
    command = [sys.executable, "-X", "importtime", f"scripts/{stage}.py", "--help"]
    done = subprocess.run(command, cwd=ROOT, env=child_environment(), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "--settings" in done.stdout
    loaded = {
        line.rsplit("|", 1)[-1].strip().split(".")[0] for line in done.stderr.splitlines() if line.startswith("import time:")
    }
    assert "argparse" in loaded
    assert not loaded & HEAVY
    # Generous, because the machine that tests may be busy; what matters is that nothing heavy is loaded.
    assert time.monotonic() - start[1] < 20
