"""MATLAB files are read in another process: what kills scipy's reader, hangs or fills the memory is an error with the file's name."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from nsr.errors import EvaluationError
from nsr.evaluate import matlab
from nsr.evaluate.dtu import dtu_files, read_dtu
from nsr.evaluate.matlab import read_matlab
from tests.fuzz import damaged
from tests.unit.dtu_files import write_scan

# A few bytes of the plane doubled: found by fuzzing, scipy's reader ends with signal 11 on it.
DEADLY = [("double", 0.7206106286986281, 0.08813070681151841, b"")]


def test_values_types_and_shapes_survive(tmp_path: Path) -> None:
    path = tmp_path / "a.mat"
    arrays = {"u": np.arange(24, dtype=np.uint8).reshape(2, 3, 4), "f": np.array([[0.1, np.nan, -np.inf]]), "s": 2.5}
    savemat(path, arrays | {"text": "not asked for"}, do_compression=True)
    found = read_matlab(path, ("u", "f", "s"))
    assert found["u"].dtype == np.uint8 and np.array_equal(found["u"], arrays["u"])
    assert np.array_equal(found["f"], arrays["f"], equal_nan=True) and found["s"].tolist() == [[2.5]]


def test_a_file_that_kills_the_reader_is_named(tmp_path: Path) -> None:
    stl = write_scan(tmp_path, points=50)
    plane = dtu_files(stl)[1]
    plane.write_bytes(damaged(plane.read_bytes(), DEADLY))  # type: ignore[arg-type]
    code = "import resource, scipy.io, sys; resource.setrlimit(resource.RLIMIT_CORE, (0, 0)); scipy.io.loadmat(sys.argv[1])"
    died = subprocess.run([sys.executable, "-c", code, str(plane)], capture_output=True, check=False).returncode
    with pytest.raises(EvaluationError, match=r"Plane24\.mat: not a MATLAB file with P \(.*; download it again"):
        read_dtu(stl)
    if died == -signal.SIGSEGV:  # of this version of scipy
        with pytest.raises(EvaluationError, match="its reader was ended by signal 11"):
            read_matlab(plane, ("P",))


@pytest.mark.parametrize(
    ("content", "reason"),
    [({"x": 1.0}, "missing 'P'"), ({"P": "text"}, "P does not hold real numbers"), ({"P": 1j}, "P does not hold real numbers")],
)
def test_other_contents_are_named(tmp_path: Path, content: dict[str, object], reason: str) -> None:
    savemat(tmp_path / "a.mat", content)
    with pytest.raises(EvaluationError, match=reason):
        read_matlab(tmp_path / "a.mat", ("P",))


def test_a_reader_that_hangs_or_takes_too_much_memory_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe.mat")
    monkeypatch.setattr(matlab, "_SECONDS", 0.2)
    assert matlab.run_reader(tmp_path / "pipe.mat", ("P",)) == (1, b"", "reading it takes over 0.2 s")
    monkeypatch.undo()
    savemat(tmp_path / "zeros.mat", {"P": np.zeros(40_000_000)}, do_compression=True)
    assert (tmp_path / "zeros.mat").stat().st_size < 1_000_000
    code = (
        "import sys; from nsr.evaluate import matlab; matlab._MEMORY = 1 << 28\n"
        f"sys.exit(matlab.main([{str(tmp_path / 'zeros.mat')!r}, 'P']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "allocate" in done.stderr or "memory" in done.stderr.lower(), done.stderr
