"""A look at the header of a PLY file before a library makes room for what it announces."""

from __future__ import annotations

import re
from pathlib import Path

from nsr.errors import DataError

_HEADER_BYTES = 1 << 16
_CHUNK = 1 << 24
# RPly, which open3d reads with, has room for 255 bytes of a word and dies of longer ones in some messages.
_LONG_WORD = re.compile(rb"[^\s]{250}")
_SIZES = {
    **dict.fromkeys(("char", "uchar", "int8", "uint8"), 1),
    **dict.fromkeys(("short", "ushort", "int16", "uint16"), 2),
    **dict.fromkeys(("int", "uint", "int32", "uint32", "float", "float32"), 4),
    **dict.fromkeys(("double", "float64"), 8),
}


def check_ply(path: Path) -> None:
    """Make sure that a PLY file is long enough for the elements that its header counts.

    A binary property takes its type's size (a list at least that of its count), one of a text file two characters.

    Raises:
        DataError: no PLY header, a word of it (of the whole file, if that is text) that no reader expects, or the counts do not
            fit into the file.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as handle:
            head, end, _ = handle.read(_HEADER_BYTES).partition(b"end_header")
        if not head.startswith(b"ply") or not end:
            raise ValueError("no header")
        if _LONG_WORD.search(head) or (b"format ascii" in head and _has_long_word(path)):
            raise ValueError("a word of over 250 characters")
        needed = _needed([line.split() for line in head.decode("ascii", "replace").splitlines()])
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise DataError(f"{path}: not a readable mesh (PLY: {error}); export it again") from error
    if needed > size:
        raise DataError(f"{path}: announces at least {needed} bytes and has {size}; copy or export it again")


def _has_long_word(path: Path) -> bool:
    tail = b""
    with path.open("rb") as handle:
        while chunk := handle.read(_CHUNK):
            if _LONG_WORD.search(tail + chunk):
                return True
            tail = chunk[-250:]
    return False


def _needed(lines: list[list[str]]) -> int:
    """Bytes at least that the elements of a header need."""
    text = ["format", "ascii"] in [line[:2] for line in lines]
    needed = count = 0
    for line in lines:
        if line[:1] == ["element"]:
            count = int(line[2])
            if count < 0:
                raise ValueError(f"{count} elements")
        elif line[:1] == ["property"]:
            kind = line[2] if line[1] == "list" else line[1]
            needed += count * (2 if text else _SIZES[kind])
    return needed
