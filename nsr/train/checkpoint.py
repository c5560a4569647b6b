"""Checkpoints that survive a kill at any moment: a plain dictionary, written aside and renamed."""

from __future__ import annotations

import fcntl
import os
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from nsr.errors import CheckpointError
from nsr.log import get_logger

CHECKPOINT_VERSION = 1
_PAUSE = 0.5  # seconds between two looks at another run's lock


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Wait until no other process trains into a folder (made if missing), and keep others waiting for the block.

    A workflow that was killed may have left its training behind, alive; the rerun then goes on from the last checkpoint of it.
    The lock goes with its process.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("a") as handle:
        said = False
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not said:
                    get_logger().warning("another process trains into %s; waiting for its end", folder.parent)
                said = True
                time.sleep(_PAUSE)
        yield


def save_checkpoint(state: dict[str, Any], path: Path) -> None:
    """Write a checkpoint; the one before it stays as `previous.pt`, in case this one cannot be read one day.

    Raises:
        CheckpointError: as `save_atomically`.
    """
    _previous(path).unlink(missing_ok=True)  # first, so that two of them need room at most
    save_atomically(state, path, keep=_previous(path))


def drop_previous(path: Path) -> None:
    """Remove the older checkpoint of a training that has ended."""
    _previous(path).unlink(missing_ok=True)


def _previous(path: Path) -> Path:
    return path.with_name("previous.pt")


def save_atomically(data: dict[str, Any], path: Path, *, keep: Path | None = None) -> None:
    """`torch.save` such that `path` holds the old file or the whole new one, also after a power cut.

    Args:
        keep: where the old file goes once the new one is whole; None: it is overwritten.

    Raises:
        CheckpointError: the disk is full or not writable; the old file is untouched and nothing partial is left.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as handle:
            torch.save(data, handle)
            handle.flush()
            os.fsync(handle.fileno())
        if keep is not None and path.exists():
            os.replace(path, keep)
        os.replace(partial, path)
    except (OSError, RuntimeError) as error:
        partial.unlink(missing_ok=True)
        raise CheckpointError(
            f"{path}: cannot be written ({_reason(error)}); free disk space or choose another folder, then run again"
        ) from error


def _reason(error: BaseException) -> str:
    """What the system said, also where torch's archive writer hides it behind an error of its own."""
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, OSError) and found.strerror:
            return found.strerror
        found = found.__context__
    return str(error)


def load_dict(path: Path, device: torch.device) -> dict[str, Any]:
    """Read a file of `save_atomically`; only tensors and plain data are accepted, never code.

    Raises:
        CheckpointError: missing, corrupt, or of another version.
    """
    try:
        with zipfile.ZipFile(path) as archive:  # torch compares no checksums: a changed byte would be a changed weight
            if (damaged := archive.testzip()) is not None:
                raise zipfile.BadZipFile(damaged)
        data = torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such file; train the scene first") from error
    except IsADirectoryError as error:
        raise CheckpointError(f"{path}: is a folder; give the file in it, model.pt") from error
    except Exception as error:  # a broken archive surfaces as one of many types
        raise CheckpointError(f"{path}: corrupt ({type(error).__name__}); delete it and train again") from error
    if not isinstance(data, dict) or data.get("version") != CHECKPOINT_VERSION:
        raise CheckpointError(f"{path}: not a file of this version of nsr; delete it and train again")
    return data


def find_resumable(path: Path, identity: dict[str, str], device: torch.device) -> dict[str, Any] | None:
    """The checkpoint at `path` if it belongs to this run, None if there is none or it must not be continued.

    One that is corrupt is passed over, with a warning, for the one before it (see `save_checkpoint`). One whose settings or
    data differ from `identity` is refused with a warning that says why; training then starts afresh and overwrites it.
    """
    for candidate in (path, _previous(path)):
        if not candidate.exists():
            continue
        try:
            data = load_dict(candidate, device)
        except CheckpointError as error:
            get_logger().warning("not resumed: %s", error)
            continue
        if not isinstance(found := data.get("identity"), dict):
            get_logger().warning("not resumed: %s: does not say whose checkpoint it is; delete it and train again", candidate)
            continue
        different = [key for key, value in identity.items() if found.get(key) != value]
        if different:
            named = " and ".join(different)
            get_logger().warning("not resumed: %s belongs to other %s; training starts afresh", candidate, named)
            return None
        return data
    return None
