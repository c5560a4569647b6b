"""Who made a result: content hashes, versions, device and time, written beside every result."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import time
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

from nsr import __version__

_PACKAGES = ("torch", "numpy", "pycolmap", "open3d", "open3d-cpu", "trimesh", "PyMCubes", "omegaconf")


def hash_json(data: Any) -> str:
    """Short hash of JSON-ready data, independent of key order."""
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:16]


def hash_files(paths: Iterable[Path], root: Path | None = None) -> str:
    """Short hash over names (relative to `root`, if given) and contents of files, independent of times."""
    digest = hashlib.sha256()
    for path in sorted(paths):
        name = path.relative_to(root).as_posix() if root else path.name
        digest.update(f"{name}\0{path.stat().st_size}\0".encode())
        with path.open("rb") as handle:
            while block := handle.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()[:16]


def versions() -> dict[str, str]:
    """Versions of this package, Python and the installed packages that results depend on."""
    found = {"nsr": __version__, "python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def manifest(**facts: Any) -> dict[str, Any]:
    """Facts of a result plus versions, machine and date (UTC)."""
    machine = {"system": platform.system(), "machine": platform.machine(), "cpus": os.cpu_count()}
    date = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return {"versions": versions(), "machine": machine, "date": date, **facts}


def write_json(path: Path, data: Any) -> None:
    """Write JSON atomically: readers see the old file or the whole new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(data, indent=1))
    os.replace(partial, path)
