"""Damaged input for every reader: whatever a file holds, a reader ends with a result or with an error of `nsr.errors`.

A valid file of each kind is changed in a few places (bytes and numbers overwritten, parts cut, doubled or exchanged for words that
parsers stumble over) and read. The test suite reads some dozens of each; the program reads thousands, each kind in a process of
its own, under a limit of memory, and names the file that brought a process down:

python -m tests.fuzz --inputs 10000
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import sys
import tempfile
import time
import traceback
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from nsr.errors import NsrError
from tests.fuzz_readers import READERS

MEMORY = 3 << 30  # bytes that a process may take on top of what it has with all libraries loaded
_WORDS = (
    *(b"0", b"-1", b"1e308", b"nan", b"-inf", b"1000000000000", b"99999999999999999999", b"null", b"true", b"[]", b"{}", b'""'),
    *(
        b"../../../x",
        b"/etc/passwd",
        b"\0",
        b"\xff\xfe",
        b"\n",
        b"\t",
        b" ",
        b'"',
        b"[" * 3000,
        b"a" * 300,
        "\u202e\u00fc".encode(),
    ),
)

Mutation = tuple[str, float, float, bytes]


def mutations() -> st.SearchStrategy[list[Mutation]]:
    """Up to four changes: kind, place and length as shares of the file, and bytes."""
    content = st.one_of(
        st.binary(min_size=1, max_size=8),
        st.sampled_from(_WORDS),
        st.sampled_from([(10**12).to_bytes(8, "little"), b"\xff" * 4, b"\xff" * 8, b"\0" * 8, b"\x7f\xff\xff\xff"]),
    )
    kind = st.sampled_from(["set", "set", "insert", "delete", "cut", "double", "number"])
    # Headers are short and say the most: half of the places are near the start.
    place = st.one_of(st.floats(0, 1), st.floats(0, 1).map(lambda x: x**4))
    return st.lists(st.tuples(kind, place, st.floats(0, 0.2), content), min_size=1, max_size=4)


def damaged(data: bytes, changes: list[Mutation]) -> bytes:
    """The data with the changes applied."""
    for kind, place, length, content in changes:
        at = int(place * len(data))
        end = min(len(data), at + 1 + int(length * len(data)))
        if kind == "set":
            data = data[:at] + content + data[at + len(content) :]
        elif kind == "insert":
            data = data[:at] + content + data[at:]
        elif kind == "delete":
            data = data[:at] + data[end:]
        elif kind == "cut":
            data = data[:at]
        elif kind == "double":
            data = data[:end] + data[at:end] + data[end:]
        elif kind == "number":
            data = _number_replaced(data, at, content if content in _WORDS else b"1000000000000")
    return data


def fuzz(name: str, folder: Path, inputs: int, number: int = 0) -> int:
    """Read `inputs` damaged files of a kind.

    Returns:
        How many of them were refused; the others were read.

    Raises:
        Exception: whatever else than an error of `nsr.errors` a reader raised, with the shortest input that hypothesis found.
    """
    reader, refused = READERS[name], 0
    folder.mkdir(parents=True, exist_ok=True)
    files = reader.make(folder)
    whole = {path: path.read_bytes() for path in files}
    reader.read(folder)  # undamaged, it is read

    @seed(number)
    @settings(
        max_examples=inputs,
        deadline=None,
        database=None,
        derandomize=False,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.sampled_from(files), mutations())
    def check(path: Path, changes: list[Mutation]) -> None:
        nonlocal refused
        path.write_bytes(damaged(whole[path], changes))
        try:
            reader.read(folder)
        except NsrError:
            refused += 1
        finally:
            path.write_bytes(whole[path])

    check()
    return refused


def _number_replaced(data: bytes, at: int, content: bytes) -> bytes:
    """The first run of digits from a place on exchanged for something else."""
    start = next((k for k in range(at, len(data)) if 48 <= data[k] < 58), None)
    if start is None:
        return data
    end = next((k for k in range(start, len(data)) if not 48 <= data[k] < 58), len(data))
    return data[:start] + content + data[end:]


def main(argv: list[str] | None = None) -> int:
    """Run the program; 1 if a reader failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=10000, help="damaged files of each kind (10000)")
    parser.add_argument(
        "--seed", type=int, default=random.SystemRandom().randrange(1 << 31), help="of the damage; default random"
    )
    parser.add_argument("kinds", nargs="*", default=list(READERS), help=f"of {', '.join(READERS)}; default all")
    args = parser.parse_args(argv)
    sys.stdout.write(f"seed {args.seed}\n{'reader':<16} {'inputs':>7} {'refused':>8} {'seconds':>8} {'peak MB':>8}\n")
    failed = 0
    for name in args.kinds:
        sys.stdout.flush()
        folder = Path(tempfile.mkdtemp(prefix=f"nsr-fuzz-{name}-"))
        child = os.fork()
        if not child:
            os._exit(_child(name, folder, args.inputs, args.seed))
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if status:
            failed += 1
            sys.stdout.write(f"{name:<16} FAILED (exit {status}); its files are in {folder}\n")
        else:
            import shutil

            shutil.rmtree(folder)
    return 1 if failed else 0


def _child(name: str, folder: Path, inputs: int, number: int) -> int:
    start = time.perf_counter()
    try:
        READERS[name].make(_made(folder / "warm"))
        READERS[name].read(folder / "warm")  # libraries are loaded before memory is limited
        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        resource.setrlimit(resource.RLIMIT_DATA, (used + MEMORY, used + MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        refused = fuzz(name, folder / "files", inputs, number)
    except BaseException:
        traceback.print_exc()
        return 1
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    sys.stdout.write(f"{name:<16} {inputs:7d} {refused:8d} {time.perf_counter() - start:8.1f} {peak:8.0f}\n")
    sys.stdout.flush()
    return 0


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


if __name__ == "__main__":
    sys.exit(main())
