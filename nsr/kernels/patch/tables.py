"""What patches are compared with: photographs in grey, their cameras, and which of them are compared with which."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

# Cosine of normal and line of sight under which a patch is not compared: curved surfaces end behind its plane, at a contour.
GRAZING = 0.35
# Fall of the distance along the ray per length below which a crossing is not located well enough.
LEAST_SLOPE = 0.1
# Standard deviation of a patch below which its correlation is that of noise, of 255 grey levels.
LEAST_DEVIATION = 2.0
# 1 - NCC from which on a view counts as hidden (Chen et al. 2024, PGSR, leave such patches out too).
HIDDEN = 0.9


class PatchTables(NamedTuple):
    """V photographs of any sizes, P pixels in all.

    Attributes:
        grey: (P,) in [0, 255], row by row; float16 unless memory does not matter.
        starts: (V,) int64 first pixel of a view. sizes: (V, 2) int32 width and height, both at least 2.
        towards: (V, 3, 3) pixel (x, y, 1) -> vector of depth 1 in the unit frame. projection: (V, 3, 3) unit-frame vector from
            the camera -> homogeneous pixel. centre: (V, 3) unit frame. All three float32 or wider.
        sources: (V, S) int32, the views that patches of a view are compared with; -1: fewer than S.
    """

    grey: Tensor
    starts: Tensor
    sizes: Tensor
    towards: Tensor
    projection: Tensor
    centre: Tensor
    sources: Tensor


class PatchRays(NamedTuple):
    """R rays through the centres of pixels: `direction` (R, 3) unit frame, of length 1; `view`, `column`, `row` (R,) integers."""

    direction: Tensor
    view: Tensor
    column: Tensor
    row: Tensor


class PatchShape(NamedTuple):
    """`size`: pixels of a side, odd. `spacing`: pixels between neighbours of a patch. `best`: sources that count, the best ones."""

    size: int
    spacing: int
    best: int


class PatchLoss(NamedTuple):
    """Of R rays: `loss` (R,) in [0, 0.9), 0 where nothing could be compared; `used` (R,) bool, where something could."""

    loss: Tensor
    used: Tensor
