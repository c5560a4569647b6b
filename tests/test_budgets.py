"""Sizes, documentation and forbidden constructs, over every source file."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.source_tree import (
    PACKAGE,
    ROOT,
    SCRIPTS,
    STAGES,
    Function,
    functions,
    public_definitions,
    tracked_files,
    tree_of,
    where,
)

FILE_LINES, KERNEL_LINES, SCRIPT_LINES = 350, 450, 40
FUNCTION_LINES, LONG_FUNCTION_LINES, LONG_FUNCTION_SHARE = 80, 50, 0.03
PARAMETERS, POSITIONAL = 10, 6
EXAMPLES_BYTES = 6_000_000
BINARY = {".jpg", ".png", ".ply", ".npz"}
SOURCES = [*PACKAGE, *SCRIPTS]


def code_lines(path: Path, function: Function) -> int:
    """Lines of a function that hold code: no docstring, no blank line, no comment."""
    lines = path.read_text(encoding="utf-8").splitlines()
    numbers = set(range(function.lineno, (function.end_lineno or function.lineno) + 1))
    first = function.body[0]
    if ast.get_docstring(function, clean=False) is not None:
        numbers -= set(range(first.lineno, (first.end_lineno or first.lineno) + 1))
    return sum(1 for number in numbers if lines[number - 1].strip() and not lines[number - 1].lstrip().startswith("#"))


def is_gpu_code(function: Function) -> bool:
    """Whether a function is compiled by Triton: one parameter per array and per compile-time constant is its calling convention."""
    return any(ast.unparse(decorator).startswith("triton.") for decorator in function.decorator_list)


def parameters(function: Function) -> list[ast.arg]:
    """Parameters without `self` and `cls`."""
    arguments = function.args
    every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    every += [extra for extra in (arguments.vararg, arguments.kwarg) if extra]
    return [argument for argument in every if argument.arg not in ("self", "cls")]


def test_sources_are_found() -> None:
    assert len(PACKAGE) > 20
    assert {path.stem for path in SCRIPTS} == set(STAGES)


def test_file_lengths() -> None:
    tests = sorted((ROOT / "tests").rglob("*.py"))
    for path in [*SOURCES, *tests]:
        limit = SCRIPT_LINES if path in SCRIPTS else KERNEL_LINES if "kernels" in path.parts else FILE_LINES
        # A program that has many options may be longer by them, its body may not (next test).
        options = 20 if path in SCRIPTS else 0
        length = len(path.read_text(encoding="utf-8").splitlines())
        assert length <= limit + options, f"{where(path)}: {length} lines"


def test_scripts_are_thin() -> None:
    for path in SCRIPTS:
        total = sum(code_lines(path, function) for function in functions(path) if function.name != "build_parser")
        assert total <= 15, f"{where(path)}: {total} lines of code beside its options"
        names = {function.name for function in functions(path)}
        assert {"build_parser", "main"} <= names
        assert ast.get_docstring(tree_of(path))


def test_function_lengths() -> None:
    lengths = {where(path, node): code_lines(path, node) for path in SOURCES for node in functions(path)}
    assert not {name: length for name, length in lengths.items() if length > FUNCTION_LINES}
    long = [name for name, length in lengths.items() if length > LONG_FUNCTION_LINES]
    assert len(long) <= LONG_FUNCTION_SHARE * len(lengths), long


def test_parameter_counts() -> None:
    for path in SOURCES:
        for node in functions(path):
            if is_gpu_code(node):
                continue
            assert len(parameters(node)) <= PARAMETERS, f"{where(path, node)}: {node.name} has too many parameters"
            positional = [argument for argument in node.args.args if argument.arg not in ("self", "cls")]
            assert len(positional) <= POSITIONAL, f"{where(path, node)}: {node.name}: make some parameters keyword-only"


def test_public_documented_and_annotated() -> None:
    missing = [f"{where(path)}: module" for path in SOURCES if not ast.get_docstring(tree_of(path))]
    for path in SOURCES:
        for node in public_definitions(path):
            if not ast.get_docstring(node):
                missing.append(f"{where(path, node)}: {node.name} has no docstring")
            if isinstance(node, Function) and not is_gpu_code(node):
                bare = [argument.arg for argument in parameters(node) if argument.annotation is None]
                missing += [f"{where(path, node)}: {node.name} does not annotate {name}" for name in bare]
                if node.returns is None:
                    missing.append(f"{where(path, node)}: {node.name} does not annotate what it returns")
    assert not missing, "\n".join(missing)


def test_forbidden_constructs() -> None:
    found = []
    for path in SOURCES:
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("print", "exit", "quit"):
                found.append(f"{where(path, node)}: {node.func.id}()")
            if isinstance(node, ast.ExceptHandler) and node.type is None:
                found.append(f"{where(path, node)}: bare except")
            if isinstance(node, ast.ImportFrom) and (node.level > 0 or any(alias.name == "*" for alias in node.names)):
                found.append(f"{where(path, node)}: star or relative import")
    assert not found, "\n".join(found)
    assert not [path for path in SOURCES if path.stem in ("utils", "misc", "helpers", "common")]


@pytest.mark.parametrize("pattern", [r"\b(TODO|FIXME|XXX)\b", r"(?<![\w.$}])/(home|opt|tmp|mnt|srv|wor[k]|roo[t])/\w"])
def test_no_leftovers_and_machine_paths(pattern: str) -> None:
    found = []
    for path in tracked_files():
        if path.suffix in BINARY or path.name == "LICENSE" or path == Path(__file__):
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if re.search(pattern, line):
                found.append(f"{where(path)}:{number}: {line.strip()[:100]}")
    assert not found, "\n".join(found)


def test_no_hosts_of_an_installation() -> None:
    allowed = re.compile(
        r"https?://((www\.)?(github\.com|keepachangelog\.com|semver\.org|arxiv\.org|doi\.org|apache\.org|cs\.cmu\.edu|w3\.org"
        r"|json-schema\.org))\b|https?://[\w.-]*example\b"
    )
    pattern = re.compile(r"https?://[\w.-]+|\b(?:\d{1,3}\.){3}\d{1,3}:\d+")
    found = []
    for path in tracked_files():
        if path.suffix in {*BINARY, ".svg"} or path == Path(__file__):
            continue
        text = path.read_text(encoding="utf-8")
        found += [f"{where(path)}: {hit[0]}" for hit in pattern.finditer(text) if not allowed.match(text, hit.start())]
    assert not found, "\n".join(found)


def test_no_lock_file_and_small_examples() -> None:
    names = {path.name for path in tracked_files()}
    assert not names & {"uv.lock", "poetry.lock", "conda-lock.yml"}
    size = sum(path.stat().st_size for path in (ROOT / "examples").rglob("*") if path.is_file())
    assert 0 < size < EXAMPLES_BYTES
