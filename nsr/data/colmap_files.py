"""A look through COLMAP's binary model files before pycolmap opens them.

pycolmap trusts the counts inside the files: a file cut short by a full disk or a broken copy makes it loop or crash the
whole program instead of raising an error. Walking the records takes milliseconds and finds every such file. Layout:
COLMAP's documentation, "Output format", little endian without padding; rigs and frames exist since COLMAP 3.12.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

from nsr.errors import DataError


class _Walk:
    """A position in a file's bytes that must not pass the end."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def skip(self, count: int) -> None:
        """Move on by `count` bytes; IndexError beyond the end."""
        self.at += count
        if self.at > len(self.data):
            raise IndexError

    def read(self, code: str) -> int:
        """The integer of a struct format code at this position."""
        start = self.at
        self.skip(struct.calcsize("<" + code))
        return int(struct.unpack_from("<" + code, self.data, start)[0])


def check_binary_model(folder: Path, parameter_counts: dict[int, int]) -> None:
    """Make sure that the binary files of a COLMAP model hold exactly the records they announce.

    Args:
        parameter_counts: number of parameters by COLMAP camera model id.

    Raises:
        DataError: a file is cut short, has bytes left over or names an unknown camera model.
    """

    def camera(walk: _Walk) -> None:
        walk.skip(4)
        model = walk.read("i")
        walk.skip(16 + 8 * parameter_counts[model])

    walkers: dict[str, Callable[[_Walk], None]] = {
        "cameras": camera,
        "images": _image,
        "points3D": _point,
        "rigs": _rig,
        "frames": _frame,
    }
    for name, record in walkers.items():
        path = folder / f"{name}.bin"
        if not path.is_file():
            if name in ("rigs", "frames"):
                continue
            raise DataError(f"{path}: no such file; copy the whole model again")
        walk = _Walk(path.read_bytes())
        try:
            for _ in range(walk.read("Q")):
                record(walk)
        except (IndexError, KeyError, ValueError) as error:
            raise DataError(f"{path}: COLMAP model file is cut short or damaged; copy or export it again") from error
        if walk.at != len(walk.data):
            raise DataError(f"{path}: COLMAP model file has {len(walk.data) - walk.at} bytes too many; copy or export it again")


def _image(walk: _Walk) -> None:
    walk.skip(4 + 7 * 8 + 4)
    walk.at = walk.data.index(b"\0", walk.at) + 1
    walk.skip(24 * walk.read("Q"))


def _point(walk: _Walk) -> None:
    walk.skip(8 + 3 * 8 + 3 + 8)
    walk.skip(8 * walk.read("Q"))


def _rig(walk: _Walk) -> None:
    walk.skip(4)
    sensors = walk.read("I")
    if sensors:
        walk.skip(8)
    for _ in range(sensors - 1):
        walk.skip(8)
        if walk.read("B"):
            walk.skip(7 * 8)


def _frame(walk: _Walk) -> None:
    walk.skip(8 + 7 * 8)
    walk.skip(16 * walk.read("I"))
