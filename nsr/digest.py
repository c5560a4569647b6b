"""Content hashes by which the workflow decides what to rerun: of the code a stage uses and of the files a scene reads.

Contents and names count, times do not: a fresh clone over existing results changes no hash. The code of a stage is its
script, every module of this package that the script imports, directly or through others, at the top or inside a function,
and what lies beside those modules that is not Python (a page template, a kernel's source). A package whose submodule is
imported does not count by that alone: editing one reader does not retrain scenes that only share its folder.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

from nsr.errors import ConfigError

PACKAGE = "nsr"
# They change no result: settings reach a stage as values, and the rest is messages, the command line and version numbers.
_NOT_HASHED = {
    "nsr",
    "nsr.cli",
    "nsr.config",
    "nsr.config_checks",
    "nsr.config_data",
    "nsr.config_overrides",
    "nsr.config_results",
    "nsr.config_schema",
    "nsr.digest",
    "nsr.errors",
    "nsr.gpus",
    "nsr.job",
    "nsr.log",
    "nsr.manifest",
    "nsr.provenance",
}


def code_digest(stage: str, root: Path) -> str:
    """Hash over `scripts/<stage>.py` and all modules it uses, of the checkout at `root`.

    Raises:
        ConfigError: there is no such script, or it cannot be parsed.
    """
    return _hash_parts((path.relative_to(root).as_posix(), path.read_bytes()) for path in stage_files(stage, root))


def stage_files(stage: str, root: Path) -> list[Path]:
    """The files that `code_digest` hashes, the script first, then the rest in name order.

    Raises:
        ConfigError: as `code_digest`.
    """
    script = root / "scripts" / f"{stage}.py"
    if not script.is_file():
        raise ConfigError(f"{script}: no such stage program")
    found: set[str] = set()
    waiting = list(_imports(script, root))
    while waiting:
        module = waiting.pop()
        if module in found or module in _NOT_HASHED:
            continue
        found.add(module)
        path = _module_file(module, root)
        if path is not None:
            waiting.extend(_imports(path, root))
    modules = {path for name in found if (path := _module_file(name, root)) is not None}
    beside = {path for module in modules for path in module.parent.iterdir() if _is_data(path)}
    return [script, *sorted(modules | beside)]


def source_digest(paths: Iterable[Path], cache: Path) -> str:
    """Hash over the contents and names of a scene's files.

    Args:
        paths: files.
        cache: JSON file that remembers the hashes of these paths by size and modification time, so that unchanged
            photographs are not read again; made if missing, and not needed for a right answer.

    Raises:
        ConfigError: a file cannot be read.
    """
    known = _read_cache(cache)
    fresh: dict[str, str] = {}
    digest = hashlib.sha256()
    for path in sorted(paths):
        try:
            status = path.stat()
            key = f"{path}|{status.st_size}|{status.st_mtime_ns}"
            fresh[key] = known.get(key) or _file_hash(path)
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
        digest.update(f"{path.as_posix()}\0{fresh[key]}\0".encode())
    if not fresh.keys() <= known.keys():
        _write_cache(cache, fresh)
    return digest.hexdigest()[:16]


def _file_hash(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


@cache
def _imports(path: Path, root: Path) -> tuple[str, ...]:
    """Names of the package's modules that a file imports. Of `from nsr.a import b`, `b` if it is a module, else `nsr.a`."""
    try:
        tree = ast.parse(path.read_bytes(), filename=str(path))
    except SyntaxError as error:
        raise ConfigError(f"{path}:{error.lineno}: not valid Python ({error.msg})") from error
    names: set[str] = set()
    for node in _statements(tree.body):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names if _ours(alias.name))
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module and _ours(node.module):
            members = {f"{node.module}.{alias.name}" for alias in node.names}
            names.update(members)
            if any(_module_file(member, root) is None for member in members):
                names.add(node.module)
    return tuple(sorted(name for name in names if _module_file(name, root) is not None))


def _ours(module: str) -> bool:
    return module.split(".", 1)[0] == PACKAGE


def _statements(body: Iterable[ast.AST]) -> Iterator[ast.AST]:
    """Statements with those within them; not the expressions, which are most of a tree and import nothing."""
    for node in body:
        yield node
        for part in ("body", "orelse", "finalbody", "handlers", "cases"):
            yield from _statements(getattr(node, part, ()))


@cache
def _module_file(name: str, root: Path) -> Path | None:
    base = root.joinpath(*name.split("."))
    for path in (base / "__init__.py", base.with_suffix(".py")):
        if path.is_file():
            return path
    return None


def _is_data(path: Path) -> bool:
    return path.is_file() and not path.name.startswith(".") and path.suffix not in (".py", ".pyc", ".pyi", ".md", ".partial")


def _hash_parts(parts: Iterable[tuple[str, bytes]]) -> str:
    digest = hashlib.sha256()
    for name, content in parts:
        digest.update(f"{name}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()[:16]


def _read_cache(path: Path) -> dict[str, str]:
    try:
        known = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _write_cache(path: Path, known: dict[str, str]) -> None:
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(known))
        os.replace(partial, path)
    except OSError:  # a read-only working directory only costs the time to hash again
        with suppress(OSError):
            partial.unlink()
