"""Which GPU a job takes: slots of a host's GPUs, held by file locks, which the kernel frees when their process ends.

Every GPU has a file named by its UUID in one folder of the host. A job that wants a GPU alone locks that file; jobs that share lock
it together (flock, shared) and one file each of `<uuid>.0`, `<uuid>.1`, ... So no two jobs are on one GPU unless both said that
they share, whoever started them, and a job that is killed leaves nothing behind. A cluster's scheduler that shows a job its own GPUs
only (CUDA_VISIBLE_DEVICES) is respected by asking for these alone.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from nsr.errors import DeviceUnavailable
from nsr.log import get_logger

FOLDER = "NSR_GPU_LOCKS"  # environment: the folder of the locks
SHARE = "NSR_GPU_SHARE"  # environment: of how many jobs at a time a GPU may be
PAUSE = 0.25  # seconds between two looks at the locks
SECONDS_BETWEEN_LINES = 60.0


@dataclass(frozen=True)
class Slot:
    """A place on a GPU. Attributes: uuid, the GPU's; share, of how many jobs it may be; handles, its locked files."""

    uuid: str
    share: int
    handles: tuple[int, ...]

    def release(self) -> None:
        """Give the place back; the end of the process does so, too."""
        for handle in self.handles:
            with suppress(OSError):
                os.close(handle)


def claim(uuids: Sequence[str], count: int = 1, share: int | None = None, folder: Path | None = None) -> tuple[Slot, ...]:
    """Wait for places on `count` different GPUs, the first free ones in the given order, all at once or none.

    Args:
        uuids: names of the GPUs that may be taken. share: of how many jobs at a time a GPU may be, None: `default_share()`.
        folder: of the locks, made if missing; None: `lock_folder()`.

    Raises:
        DeviceUnavailable: there are not so many GPUs, or the locks cannot be made.
    """
    share = default_share() if share is None else share
    folder = folder or lock_folder()
    if count > len(uuids):
        raise DeviceUnavailable(f"{count} GPUs were asked for and {len(uuids)} are visible; lower train.gpus")
    began = said = None
    while True:
        slots = _take(uuids, count, share, folder)
        if slots:
            if began is not None:
                get_logger().info("a GPU is free after %.0f s", time.monotonic() - began)
            return slots
        now = time.monotonic()
        began = now if began is None else began
        if said is None or now - said >= SECONDS_BETWEEN_LINES:
            said = now
            get_logger().info("waiting for %d of %d GPUs, which other jobs hold (locks in %s)", count, len(uuids), folder)
        time.sleep(PAUSE)


def lock_folder() -> Path:
    """The folder of this host's locks: NSR_GPU_LOCKS, else `nsr-gpus` among the temporary files."""
    return Path(os.environ.get(FOLDER) or Path(tempfile.gettempdir()) / "nsr-gpus")


def default_share() -> int:
    """Of how many jobs at a time a GPU may be: NSR_GPU_SHARE, else 1.

    Raises:
        DeviceUnavailable: it is no whole number from 1 up.
    """
    text = os.environ.get(SHARE) or "1"
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise DeviceUnavailable(f"{SHARE}: '{text}' is no number of jobs; give a whole number from 1 up")
    return int(text)


def _take(uuids: Sequence[str], count: int, share: int, folder: Path) -> tuple[Slot, ...]:
    """Places on `count` GPUs, () if there are not so many now. A GPU with fewer jobs on it comes first."""
    found: dict[str, Slot] = {}
    for place in range(share):
        for uuid in uuids:
            if uuid not in found and (handles := _lock(folder, uuid, place, share)):
                found[uuid] = Slot(uuid, share, handles)
                if len(found) == count:
                    return tuple(found.values())
    for slot in found.values():
        slot.release()
    return ()


def _lock(folder: Path, uuid: str, place: int, share: int) -> tuple[int, ...]:
    """The locked files of a place, () if it is taken."""
    whole = _open(folder, uuid)
    if not _try_lock(whole, fcntl.LOCK_SH if share > 1 else fcntl.LOCK_EX):
        return ()
    if share == 1:
        return (whole,)
    part = _open(folder, f"{uuid}.{place}")
    if not _try_lock(part, fcntl.LOCK_EX):
        os.close(whole)
        return ()
    return whole, part


def _try_lock(handle: int, kind: int) -> bool:
    """Lock an open file without waiting; closed where that fails."""
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return False
    return True


def _open(folder: Path, name: str) -> int:
    """Open a lock's file, which all users of the host may lock; made if missing, never followed if it is a link."""
    try:
        if not folder.is_dir():
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(0o1777)
        path = folder / name
        try:
            return os.open(path, os.O_RDWR | os.O_NOFOLLOW)
        except FileNotFoundError:
            return _create(path)
        except PermissionError:
            return os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError as error:
        raise DeviceUnavailable(
            f"{folder / name}: cannot be opened ({error.strerror}); name a writable folder for the GPUs' locks with {FOLDER}"
        ) from error


def _create(path: Path) -> int:
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)
    except FileExistsError:  # another job was faster
        return os.open(path, os.O_RDWR | os.O_NOFOLLOW)
    os.fchmod(handle, 0o666)
    return handle
