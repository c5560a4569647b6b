"""Damaged input for every reader: whatever a file holds, a reader ends with a result or with an error of `nsr.errors`.

A valid file of each kind is changed in a few places (bytes and numbers overwritten, parts cut, doubled or exchanged for words that
parsers stumble over) and read. The test suite reads some dozens of each; the program reads thousands, each kind in a process of
its own, under a limit of memory, and names the file that brought a process down:

python -m tests.fuzz --inputs 10000
"""

from __future__ import annotations

import argparse
import logging
import os
import random
import resource
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

from nsr.errors import NsrError
from tests.fuzz_readers import READERS, Reader

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
_KINDS = ("set", "set", "insert", "delete", "cut", "double", "number")
_NUMBERS = ((10**12).to_bytes(8, "little"), b"\xff" * 4, b"\xff" * 8, b"\0" * 8, b"\x7f\xff\xff\xff")


def mutations(rng: random.Random) -> list[Mutation]:
    """Up to four changes: kind, place and length as shares of the file, and bytes."""
    changes = []
    for _ in range(rng.randint(1, 4)):
        source = rng.randrange(3)
        content = rng.randbytes(rng.randint(1, 8)) if source == 0 else rng.choice(_WORDS if source == 1 else _NUMBERS)
        # Headers are short and say the most: half of the places are near the start.
        place = rng.random() ** rng.choice((1, 4))
        # Short pieces are cut and doubled as often as long ones.
        changes.append((rng.choice(_KINDS), place, 0.2 * rng.random() ** rng.choice((1, 8)), content))
    return changes


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
        Exception: whatever else than an error of `nsr.errors` a reader raised, with the fewest changes that bring it about;
            the damaged file stays in the folder.
    """
    reader, refused, rng = READERS[name], 0, random.Random(f"{name} {number}")
    folder.mkdir(parents=True, exist_ok=True)
    files = reader.make(folder)
    whole = {path: path.read_bytes() for path in files}
    reader.read(folder)  # undamaged, it is read
    for _ in range(inputs):
        path, changes = rng.choice(files), mutations(rng)
        error = _outcome(reader, folder, path, damaged(whole[path], changes))
        if error is not None and not isinstance(error, NsrError):
            same = partial(_fails_alike, error, reader, folder, path, whole[path])
            changes = _fewest(changes, same)
            path.write_bytes(damaged(whole[path], changes))
            error.add_note(f"{path} with the changes {changes}")
            raise error
        refused += error is not None
        path.write_bytes(whole[path])
    return refused


def _outcome(reader: Reader, folder: Path, path: Path, data: bytes) -> Exception | None:
    """What the reader raises when a file holds other data."""
    path.write_bytes(data)
    try:
        reader.read(folder)
    except Exception as error:
        return error
    return None


def _fails_alike(error: Exception, reader: Reader, folder: Path, path: Path, data: bytes, changes: list[Mutation]) -> bool:
    """Whether the changes bring about an error of the same type."""
    return type(_outcome(reader, folder, path, damaged(data, changes))) is type(error)


def _fewest(changes: list[Mutation], fails: Callable[[list[Mutation]], bool]) -> list[Mutation]:
    """The changes without those that are not needed for the failure."""
    for change in list(changes):
        fewer = [other for other in changes if other is not change]
        if fewer and fails(fewer):
            changes = fewer
    return changes


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
    sys.stdout.write(f"seed {args.seed}\n{'reader':<16} {'inputs':>7} {'refused':>8} {'CPU s':>8} {'peak MB':>8}\n")
    failed, memory = 0, "/dev/shm" if Path("/dev/shm").is_dir() else None  # files in memory: the disk would take half of the time
    for name in args.kinds:
        sys.stdout.flush()
        folder = Path(tempfile.mkdtemp(prefix=f"nsr-fuzz-{name}-", dir=memory))
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
    start = time.process_time()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
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
    sys.stdout.write(f"{name:<16} {inputs:7d} {refused:8d} {time.process_time() - start:8.1f} {peak:8.0f}\n")
    sys.stdout.flush()
    return 0


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


if __name__ == "__main__":
    sys.exit(main())
