"""MATLAB files (version 5) read in a process of their own: scipy's reader can die of a damaged one, and the caller must not."""

from __future__ import annotations

import io
import os
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nsr.errors import EvaluationError

_SECONDS = 120.0  # the masks of DTU take under one
_MEMORY = 8 << 30  # bytes of the child; the largest mask of DTU takes 0.2 GB
_ROOT = Path(__file__).resolve().parents[2]


def read_matlab(path: Path, names: Sequence[str]) -> dict[str, NDArray[Any]]:
    """The named arrays of numbers of a MATLAB file.

    Raises:
        EvaluationError: missing or damaged file, or one without these arrays; also where reading it crashes, takes more
            than two minutes or more memory than any file of the data set.
    """
    if not path.is_file():
        raise EvaluationError(f"{path}: no such file; protocol dtu needs the official folders Points and ObsMask")
    code, out, reason = run_reader(path, names)
    if code:
        detail = reason or (f"its reader was ended by signal {-code}" if code < 0 else f"its reader ended with status {code}")
        raise EvaluationError(f"{path}: not a MATLAB file with {', '.join(names)} ({detail}); download it again")
    with np.load(io.BytesIO(out), allow_pickle=False) as arrays:
        return {name: arrays[name] for name in names}


def run_reader(path: Path, names: Sequence[str]) -> tuple[int, bytes, str]:
    """Run this module as a program on a file: its exit status (negative: a signal), what it wrote, and why it failed."""
    command = [sys.executable, "-m", "nsr.evaluate.matlab", str(path), *names]
    search = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH", "")]))
    environment = {**os.environ, "PYTHONPATH": search, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    try:
        done = subprocess.run(command, env=environment, capture_output=True, timeout=_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return 1, b"", f"reading it takes over {_SECONDS:g} s"
    lines = done.stderr.decode(errors="replace").split("\n")
    # A crash may leave anything on stderr; the program's own reason is its last line.
    return done.returncode, done.stdout, lines[-1] if done.returncode > 0 else ""


def convert(path: Path, names: Sequence[str]) -> bytes:
    """The named arrays of a MATLAB file as the bytes of a `.npz` archive.

    Raises:
        Exception: whatever scipy raises on a damaged file; KeyError, a name is missing; ValueError, not numbers.
    """
    from scipy.io import loadmat

    values = loadmat(path, variable_names=list(names))
    arrays = {name: np.asarray(values[name]) for name in names}
    wrong = [name for name, array in arrays.items() if array.dtype.kind not in "biuf"]
    if wrong:
        raise ValueError(f"{wrong[0]} does not hold real numbers")
    out = io.BytesIO()
    np.savez(out, **arrays)  # type: ignore[arg-type]
    return out.getvalue()


def main(argv: Sequence[str]) -> int:
    """The program of the child: FILE NAME..., an archive on stdout; 1 and a reason on stderr if the file cannot be read."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    most = resource.getrlimit(resource.RLIMIT_DATA)[1]
    if most == resource.RLIM_INFINITY or most > _MEMORY:
        resource.setrlimit(resource.RLIMIT_DATA, (_MEMORY, most))
    try:
        sys.stdout.buffer.write(convert(Path(argv[0]), argv[1:]))
    except Exception as error:  # scipy's reader fails in many ways on a damaged file
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        sys.stderr.write(f"missing {reason}" if isinstance(error, KeyError) else reason)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
