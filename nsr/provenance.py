"""Who made a result: content hashes, versions, device and time, written beside every result."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from importlib import metadata
from pathlib import Path
from typing import Any

from nsr import __version__
from nsr.errors import DataError
from nsr.job import Job, current

_PACKAGES = (
    "torch", "triton", "numpy", "scipy", "pillow", "pycolmap", "open3d", "open3d-cpu", "trimesh", "PyMCubes", "xatlas", "omegaconf",
)  # fmt: skip
_PROCESSOR, _DRIVER = Path("/proc/cpuinfo"), Path("/proc/driver/nvidia/version")
_ALLOCATION = {"gpus": "CUDA_VISIBLE_DEVICES", "slurm_job": "SLURM_JOB_ID"}


def parse_json(text: str) -> Any:
    """The content of JSON text.

    Raises:
        ValueError: it is none, or lists or objects lie in each other by the thousand, which only damage and malice write.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


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
    """Facts of a result plus versions, machine, the GPUs and the job that a scheduler gave, date (UTC), and of the running job: stage, code,
    settings, inputs and cost.

    `seed` is null where the stage draws nothing at random.
    """
    machine = {"system": platform.system(), "machine": platform.machine(), "cpus": os.cpu_count()}
    machine |= {
        "processor": _line(_PROCESSOR, r"model name\s*: (.*)"),
        "gpu_driver": _line(_DRIVER, r"NVRM version: .*?  ([\d.]+)  "),
    }
    machine |= {key: os.environ[name] for key, name in _ALLOCATION.items() if name in os.environ}
    date = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    job = current()
    made = {"stage": job.stage, "code": job.code, "commit": job.commit, "config": dict(job.settings), "inputs": hash_inputs(job)}
    return {"versions": versions(), "machine": machine, "date": date, **made, "seed": None, "cost": job.cost(), **facts}


def _line(path: Path, pattern: str) -> str | None:
    """The first match in a file of the system, None where it has none or is not there."""
    try:
        found = re.search(pattern, path.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return None
    return found[1] if found else None


def hash_inputs(job: Job) -> dict[str, str]:
    """Hash of each input of a job: of a file, of the JSON that a stage left in its folder, else of all files of the folder.

    A prepared scene stands for itself by its `scene.json`; its `prepare.json` says what it was made from.
    """
    found = {}
    for name, path in job.inputs.items():
        own = [path / file for file in ("scene.json", "render.json") if (path / file).is_file()]
        files = [path] if path.is_file() else own or _files(path)
        found[name] = hash_files(files, path if path.is_dir() else None)
    return found


def _files(folder: Path) -> list[Path]:
    """Files under a folder; hidden ones do not count."""
    return [path for path in folder.rglob("*") if path.is_file() and not path.relative_to(folder).as_posix().startswith(".")]


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` (its folder is made) to write to; it becomes `path` only if the block ends well.

    Raises:
        DataError: the file cannot be written; an older one is untouched and nothing partial is left.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield partial
            os.replace(partial, path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror or error}); check the folder and the disk space") from error


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically.

    Raises:
        DataError: as `whole_file`.
    """
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, data: Any) -> None:
    """Write JSON atomically: readers see the old file or the whole new one.

    Raises:
        DataError: as `whole_file`.
    """
    write_text(path, json.dumps(data, indent=1))


def check_replaceable(folder: Path, own: Iterable[str], inputs: Iterable[Path] = ()) -> None:
    """Refuse to replace a folder that holds something else than an earlier result.

    Args:
        folder: output folder, which need not exist. own: name patterns of what a result holds. inputs: files or
            folders that the result is made from, which must not lie in it.

    Raises:
        DataError: it is a file, holds other names (hidden ones do not count), or holds an input.
    """
    remedy = "remove it or choose another --out"
    if folder.is_file():
        raise DataError(f"{folder}: is a file where a folder is to be made; {remedy}")
    if not folder.is_dir():
        return
    patterns = tuple(own)
    for name in sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith(".")):
        if not any(fnmatch(name, pattern) for pattern in patterns):
            raise DataError(f"{folder}: exists and holds '{name}', which is not of this stage; {remedy}")
    place = folder.resolve()
    for path in inputs:
        if path.resolve().is_relative_to(place):
            raise DataError(f"{folder}: holds the input {path} and would be replaced; choose another --out")
