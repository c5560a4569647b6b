"""Reading of `.npz` archives that nobody vouches for: no objects, no more memory than the archive may need."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from nsr.errors import DataError

MAX_BYTES = 8_000_000_000  # of all arrays together
_HEADER_BYTES = 1 << 16


def read_npz(path: Path, limit: int = MAX_BYTES) -> dict[str, NDArray[Any]]:
    """All arrays of an archive, by name.

    The directory and every array's header are looked at before anything is unpacked: a few bytes can announce 10^12 numbers.

    Args:
        limit: bytes that all arrays may have together.

    Raises:
        DataError: missing, damaged, holds objects, or unpacks to more than `limit`.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            total = sum(member.file_size for member in archive.infolist())
            if total > limit:
                raise DataError(f"{path}: unpacks to {total / 1e9:.1f} GB, over {limit / 1e9:.1f} GB; make the file again")
            for member in archive.infolist():
                with archive.open(member) as handle:
                    _check_header(handle, member.file_size)
        with np.load(path, allow_pickle=False) as arrays:
            return {key: arrays[key] for key in arrays.files}
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; check the path") from error
    except DataError:
        raise
    except Exception as error:  # a damaged archive or array header surfaces as one of many types
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise DataError(f"{path}: not a readable .npz file ({reason}); make it again or copy it again") from error


def _check_header(handle: Any, size: int) -> None:
    """ValueError where an array announces more bytes than its file has."""
    version = npy.read_magic(handle)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, _, dtype = read(handle, max_header_size=_HEADER_BYTES)
    if dtype.hasobject:
        raise ValueError("holds objects, not numbers")
    if math.prod(shape) * dtype.itemsize > size:
        raise ValueError(f"an array claims {math.prod(shape)} numbers in {size} bytes")
