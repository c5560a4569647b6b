"""Arrays of bytes that stay in memory up to a limit and lie in a mapped file beyond it.

Thousands of photographs need more memory than a machine may have. The system keeps as many pages of a mapped file in memory as
there is room for, so that nothing is lost in speed where there is enough, and takes them back where there is not.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nsr.errors import DataError

MEMORY_LIMIT = 4_000_000_000  # bytes


class Spill:
    """A supply of arrays.

    Args:
        folder: where files may be made, as large as all arrays together; they have no name and go with the process, also a
            killed one. limit: bytes in memory; None: `MEMORY_LIMIT`.

    Attributes:
        in_memory, in_files: bytes so far.
    """

    def __init__(self, folder: Path, limit: int | None = None) -> None:
        self.folder, self.limit = folder, MEMORY_LIMIT if limit is None else limit
        self.in_memory = self.in_files = 0

    def empty(self, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """An array of uint8 to be filled.

        Raises:
            DataError: the disk has no room for it.
        """
        size = int(np.prod(shape, dtype=np.int64))
        if self.in_memory + size <= self.limit:
            self.in_memory += size
            return np.empty(shape, dtype=np.uint8)
        self.in_files += size
        return np.frombuffer(self._mapped(size), dtype=np.uint8).reshape(shape)

    def keep(self, array: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The array itself while there is room in memory, else an equal one in a file.

        Raises:
            DataError: as `empty`.
        """
        if self.in_memory + array.nbytes <= self.limit:
            self.in_memory += array.nbytes
            return array
        kept = self.empty(array.shape)
        kept[...] = array
        return kept

    def _mapped(self, size: int) -> mmap.mmap:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.folder) as handle:
                # Blocks are taken now: a disk that turns out full at a later write would kill the process.
                os.posix_fallocate(handle.fileno(), 0, size)
                return mmap.mmap(handle.fileno(), size)
        except OSError as error:
            raise DataError(
                f"{self.folder}: no room for {size / 1e9:.1f} GB of pixels ({error.strerror or error}); free disk space or lower "
                "prepare.max_size"
            ) from error
