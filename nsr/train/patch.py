"""Patches of photographs as training data: which views are compared with which, the photographs in grey, and the term."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nsr.config import PatchConfig
from nsr.conventions import Array, camera_centres, project
from nsr.kernels.packed import Packed
from nsr.kernels.patch import PatchRays, PatchShape, PatchTables, patch_loss
from nsr.kernels.rays import DrawnRays
from nsr.log import get_logger
from nsr.sampling.pixels import PixelStore, RayBatch
from nsr.scene.scene import Scene, View
from nsr.scene.spill import Spill

_LUMINANCE = (0.299, 0.587, 0.114)  # of red, green, blue: ITU-R BT.601
_CHUNK = 1 << 22  # pixels turned grey at once
_BEST_ANGLE, _NARROWER, _WIDER = 5.0, 1.0, 10.0  # degrees: the best angle between lines of sight, and how fast others fall off
_WIDEST = 45.0  # degrees
_PROBES, _PROBE_RADIUS = 5, 0.6  # points a side of a lattice, and its reach in the unit frame
_PROBE_WEIGHT = 1e-3  # of a lattice point beside a sparse point


class Sightings(NamedTuple):
    """P points and which of V views see them, point by point.

    Attributes:
        position: (P, 3) unit frame. weight: (P,). offsets: (P + 1,); views[offsets[p] : offsets[p + 1]] see point p.
    """

    position: Array
    weight: Array
    offsets: NDArray[np.int64]
    views: NDArray[np.int64]


def load_patches(
    scene: Scene, views: Sequence[View], store: PixelStore, config: PatchConfig, spill: Spill | None = None
) -> PatchTables | None:
    """What patches of the given views are compared with; None, with a warning, if no two views are near enough.

    Args:
        store: pixels of the views. spill: supplies memory on a CPU, see `PixelStore`.
    """
    w2c = scene.unit_w2c(views)
    sources = source_views(sightings(scene, views), camera_centres(w2c), config.sources)
    if (sources < 0).all():
        get_logger().warning("%s: no two views are within %g degrees; train.loss.patch has no effect", scene.name, _WIDEST)
        return None
    pixels = store.tables
    device = pixels.colours.device

    def put(array: Array) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32)).to(device)

    K, rotation = np.stack([view.K for view in views]), w2c[:, :3, :3]
    return PatchTables(
        grey=grey_levels(pixels.colours, spill if device.type == "cpu" else None),
        starts=pixels.starts,
        sizes=torch.tensor([[view.width, view.height] for view in views], dtype=torch.int32, device=device),
        towards=put(np.swapaxes(rotation, 1, 2) @ np.linalg.inv(K)),
        projection=put(K @ rotation),
        centre=put(camera_centres(w2c)),
        sources=torch.from_numpy(sources).to(device),
    )


def hash_sources(patches: PatchTables) -> str:
    """Hash of which views are compared with which."""
    return hashlib.sha256(patches.sources.cpu().numpy().tobytes()).hexdigest()[:16]


def grey_levels(colours: Tensor, spill: Spill | None) -> Tensor:
    """Luminance (P,) float16 in [0, 255], exact to 1/16, of colours (P, 3) uint8."""
    count = len(colours)
    room = torch.from_numpy(spill.empty((2 * count,))).view(torch.float16) if spill else None
    grey = torch.empty(count, dtype=torch.float16, device=colours.device) if room is None else room
    weights = torch.tensor(_LUMINANCE, device=colours.device)
    for start in range(0, count, _CHUNK):
        part = slice(start, start + _CHUNK)
        grey[part] = (colours[part].float() * weights).sum(1).half()
    return grey


def sightings(scene: Scene, views: Sequence[View]) -> Sightings:
    """Sparse points of the scene that lie in the unit ball, and a lattice of points in it, seen by whatever view they project into.

    The lattice counts for little: it decides where there are no sparse points.
    """
    w2c = scene.unit_w2c(views)
    axis = np.linspace(-_PROBE_RADIUS, _PROBE_RADIUS, _PROBES)
    probes = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
    probes = probes[np.linalg.norm(probes, axis=1) <= _PROBE_RADIUS + 1e-9]
    sees = np.zeros((len(probes), len(views)), dtype=bool)
    for number, view in enumerate(views):
        pixel, depth = project(view.K, w2c[number], probes)
        sees[:, number] = (depth > 0) & (pixel >= 0).all(1) & (pixel <= [view.width, view.height]).all(1)
    counts, seers, position = sees.sum(1), np.nonzero(sees)[1], probes
    weight = np.full(len(probes), _PROBE_WEIGHT)
    if scene.points is not None:
        owner, seer = scene.sightings(views)
        sparse = scene.similarity.inverse().apply(scene.points.xyz)
        keep = (np.linalg.norm(sparse, axis=1) < 1)[owner]
        counts = np.concatenate([np.bincount(owner[keep], minlength=len(sparse)), counts])
        seers = np.concatenate([seer[keep], seers])
        position, weight = np.concatenate([sparse, position]), np.concatenate([np.ones(len(sparse)), weight])
    return Sightings(position, weight, np.concatenate([[0], np.cumsum(counts)]), seers)


def source_views(seen: Sightings, centres: Array, count: int) -> NDArray[np.int32]:
    """For each of V views the best others (V, count) to compare patches with, best first; -1 where there are no more.

    The score is MVSNet's (Yao et al. 2018, section 4.1): over the points that both views see, the sum of a Gaussian of the
    angle between the lines of sight, best at 5 degrees, 1 degree wide below and 10 above. Views beyond 45 degrees in the
    mean do not count.

    Args:
        centres: (V, 3) of the cameras, unit frame.
    """
    total = len(centres)
    sources = np.full((total, count), -1, dtype=np.int32)
    owner = np.repeat(np.arange(len(seen.position)), np.diff(seen.offsets))
    for view in range(total):
        mine = owner[seen.views == view]
        lengths = seen.offsets[mine + 1] - seen.offsets[mine]
        point = np.repeat(mine, lengths)
        entry = np.arange(len(point)) + np.repeat(seen.offsets[mine] - (np.cumsum(lengths) - lengths), lengths)
        other = seen.views[entry]
        angle = _angles(centres[view] - seen.position[point], centres[other] - seen.position[point])
        width = np.where(angle < _BEST_ANGLE, _NARROWER, _WIDER)
        good = np.exp(-((angle - _BEST_ANGLE) ** 2) / (2 * width**2))
        weight, share, turned = (
            np.bincount(other, seen.weight[point] * part, total) for part in (np.ones_like(angle), good, angle)
        )
        usable = (weight > 0) & (turned <= _WIDEST * weight)
        usable[view] = False
        order = np.argsort(-share, kind="stable")
        best = order[usable[order]][:count]
        sources[view, : len(best)] = best
    return sources


def _angles(one: Array, other: Array) -> Array:
    """Degrees (E,) between vectors (E, 3)."""
    length = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    angle: Array = np.degrees(np.arccos(np.clip((one * other).sum(1) / np.maximum(length, 1e-12), -1, 1)))
    return angle


def patch_term(
    sdf: Tensor,
    gradient: Tensor,
    t: Tensor,
    packed: Packed,
    rays: RayBatch | DrawnRays,
    tables: PatchTables,
    *,
    config: PatchConfig,
    step: float,
    backend: str,
) -> Tensor:
    """Mean of `patch_loss` over those of the first `config.rays` rays that have one; 0 if none has."""
    first = slice(config.rays)
    drawn = PatchRays(rays.direction[first], rays.view[first], rays.column[first], rays.row[first])
    shape = PatchShape(config.size, config.spacing, config.best)
    loss, used = patch_loss(sdf, gradient, t, packed, drawn, tables, shape=shape, step=step, backend=backend)
    return loss.sum() / used.sum().clamp(min=1)
