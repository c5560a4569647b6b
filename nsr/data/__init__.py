"""Readers: one for each source format, all returning a `RawScene`. Importing this package loads no heavy library."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from nsr.data.blender import read_blender
from nsr.data.colmap import read_colmap
from nsr.data.nerfstudio import read_nerfstudio
from nsr.data.neus import read_neus
from nsr.data.raw import RawScene

# format -> reader(source, masks). Photos have no reader of their own: structure from motion writes a COLMAP model,
# which `read_colmap(model, masks, images=photos)` reads.
READERS: dict[str, Callable[[Path, Path | None], RawScene]] = {
    "colmap": read_colmap,
    "neus": read_neus,
    "blender": read_blender,
    "nerfstudio": read_nerfstudio,
}
