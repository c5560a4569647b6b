"""Arrays beyond the limit of memory lie in files, hold the same values, and leave nothing behind."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from nsr.errors import DataError
from nsr.sampling.pixels import PixelStore
from nsr.scene.spill import Spill


def mapped(array: np.ndarray) -> bool:
    """Whether an array's memory is that of a mapped file."""
    base = array
    while isinstance(base, np.ndarray) and base.base is not None:
        base = base.base
    return isinstance(base.obj if isinstance(base, memoryview) else base, mmap.mmap)


def test_memory_up_to_the_limit_then_files(tmp_path: Path) -> None:
    spill = Spill(tmp_path / "new", limit=100)
    small, more = np.arange(60, dtype=np.uint8), np.arange(48, dtype=np.uint8).reshape(6, 8)
    assert spill.keep(small) is small
    kept = spill.keep(more)
    assert mapped(kept)
    assert np.array_equal(kept, more)
    assert not mapped(spill.empty((40,)))
    assert (spill.in_memory, spill.in_files) == (100, 48)
    assert list((tmp_path / "new").iterdir()) == []


def test_a_full_disk_is_named_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(DataError, match=r"no room for 0\.0 GB of pixels \(No space left on device\); free disk space"):
        Spill(tmp_path, limit=0).empty((8,))
    assert list(tmp_path.iterdir()) == []


def test_rays_from_files_are_those_from_memory(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    sizes = np.array([(6, 8), (5, 7), (9, 4)])
    images = [random.integers(0, 256, (h, w, 3), dtype=np.uint8) for h, w in sizes]
    masks = [random.choice(np.array([0, 255], dtype=np.uint8), (h, w)) for h, w in sizes]
    K = np.repeat(np.array([[[9.0, 0, 4], [0, 9, 3], [0, 0, 1]]]), 3, axis=0)
    w2c = np.repeat(np.eye(4)[None], 3, axis=0)
    w2c[:, 2, 3] = 3.0
    device = torch.device("cpu")
    whole = PixelStore(images, masks, K, w2c, crop_to_ball=False, device=device)
    spill = Spill(tmp_path, limit=0)
    filed = PixelStore(iter(images), iter(masks), K, w2c, crop_to_ball=False, device=device, sizes=sizes, spill=spill)
    assert spill.in_files == sum(4 * h * w for h, w in sizes)
    for one, other in zip(*(s.sample(500, torch.Generator().manual_seed(1)) for s in (whole, filed)), strict=True):
        assert torch.equal(one, other)
