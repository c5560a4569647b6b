"""The project's files and their syntax trees, for the tests that read the sources."""

from __future__ import annotations

import ast
import os
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = sorted((ROOT / "nsr").rglob("*.py"))
SCRIPTS = sorted((ROOT / "scripts").glob("*.py"))
STAGES = (
    "sfm",
    "prepare",
    "preflight",
    "triangulate",
    "train",
    "mesh",
    "tsdf",
    "texture",
    "render",
    "evaluate_mesh",
    "evaluate_views",
    "report",
    "check",
    "ablation",
)
_OURS = ("Snakefile", "Makefile", "LICENSE", "README.md", "CHANGELOG.md", "pyproject.toml", "environment.yml")
_OUR_FOLDERS = ("nsr", "scripts", "rules", "config", "tests", "docs", "examples", "benchmarks", ".ci")
Function = ast.FunctionDef | ast.AsyncFunctionDef


def child_environment(*first: Path, **more: str) -> dict[str, str]:
    """What a process that a test starts finds around it: this one's environment and `more`.

    Args:
        first: folders of modules that come before others, by default the project. Those in PYTHONPATH follow: on some machines
            all packages come from there.
    """
    search = [*map(str, first or (ROOT,)), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(search), **more}


@cache
def tree_of(path: Path) -> ast.Module:
    """Syntax tree of a file."""
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def where(path: Path, node: ast.AST | None = None) -> str:
    """`file:line`, for messages."""
    line = f":{node.lineno}" if node is not None and hasattr(node, "lineno") else ""
    return f"{path.relative_to(ROOT)}{line}"


def functions(path: Path) -> Iterator[Function]:
    """All functions and methods of a file, inner ones too."""
    return (node for node in ast.walk(tree_of(path)) if isinstance(node, Function))


def public_definitions(path: Path) -> Iterator[Function | ast.ClassDef]:
    """Public functions and classes of a module, and public methods of its public classes."""
    for node in tree_of(path).body:
        if isinstance(node, (*Function.__args__, ast.ClassDef)) and not node.name.startswith("_"):
            yield node
            if isinstance(node, ast.ClassDef):
                yield from (item for item in node.body if isinstance(item, Function) and not item.name.startswith("_"))


def module_name(path: Path) -> str:
    """`nsr.mesh.clean` of its file."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path, only_top: bool = False) -> Iterator[tuple[ast.stmt, str]]:
    """Imported modules of a file with their statements; of `from nsr.a import b`, `nsr.a.b` where that is a module."""
    nodes = tree_of(path).body if only_top else ast.walk(tree_of(path))
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                member = f"{node.module}.{alias.name}"
                yield node, member if member in MODULES else node.module


def tracked_files() -> list[Path]:
    """Files under version control, or, in an unpacked archive, the files in the project's own folders."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode == 0 and listed.stdout:
        return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]
    folders = (path for name in _OUR_FOLDERS for path in (ROOT / name).rglob("*") if "__pycache__" not in path.parts)
    return [path for path in (*(ROOT / name for name in _OURS), *folders) if path.is_file()]


MODULES = {module_name(path): path for path in PACKAGE}
