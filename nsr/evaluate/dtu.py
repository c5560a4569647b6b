"""The protocol "dtu", version 1: a mesh in the DTU world frame (mm) against a structured-light scan of the DTU MVS data set.

The protocol of Jensen et al. 2014 as the python program DTUeval-python by jzhangbs fixed it for meshes; all published
per-scan tables use it. Nothing of it can be set but the mask culls and the seed.

files         the official layout: Points/stl/stlNNN_total.ply, ObsMask/ObsMaskN_10.mat (ObsMask, BB, Res), ObsMask/PlaneN.mat
sampling      all vertices and a lattice of 0.2 mm on the faces (`lattice_points`), shuffled by the seed, thinned so that no
              two points are within 0.2 mm (`thin`)
accuracy      points with BB[0] - 60 <= x < BB[1] + 120 (the upper side has twice the margin, as in the original) in a cell of
              ObsMask; distance to the nearest scan point; mean of the distances under 20 mm
completeness  scan points above the plane; distance to the nearest point in the box, whether in ObsMask or not; the same mean
chamfer       the mean of both, in mm

Papers differ in what they cut off the mesh first: faces with a vertex outside the object mask of a view that shows it, the
masks grown by a number of pixels. One evaluation gives every variant of `evaluate.dtu_culls` by its name, and the first one
as the score. Lattice points beyond the box are dropped before the thinning instead of after it, with a margin.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nsr.config import EvaluateConfig
from nsr.conventions import Array
from nsr.errors import EvaluationError
from nsr.evaluate.chamfer import Distances, mean_distance, nearest, share_within
from nsr.evaluate.lattice import lattice_points, thin
from nsr.evaluate.matlab import read_matlab
from nsr.evaluate.points import read_points
from nsr.evaluate.result import KEPT_POINTS, SurfaceResult
from nsr.evaluate.visibility import mask_margins
from nsr.mesh.surface import Mesh
from nsr.mesh.visibility import Camera

PROTOCOL, VERSION = "dtu", 1
SPACING, MAX_DISTANCE = 0.2, 20.0  # mm
PATCH = 60.0  # mm, margin of the box; twice as much on its upper side
_MARGIN = 5.0  # mm, of the points kept for thinning around the box
_STL = re.compile(r"stl(\d+)_total\.ply")


@dataclass(frozen=True)
class DtuTruth:
    """The reference of one scan, DTU world frame, mm.

    Attributes:
        points: (Q, 3) scan. observed: (X, Y, Z) cells that count for the accuracy. box: (2, 3) float32, its first row
            is the centre of cell 0. cell: edge of a cell. plane: (4,), [x, y, z, 1] . plane > 0 counts for completeness.
    """

    points: Array
    observed: NDArray[np.bool_]
    box: NDArray[np.float32]
    cell: float
    plane: Array

    def in_box(self, points: Array) -> NDArray[np.bool_]:
        """Which points (P, 3) lie in the box with its margins."""
        return np.asarray(((points >= self.box[0] - PATCH) & (points < self.box[1] + 2 * PATCH)).all(axis=1))

    def in_observed(self, points: Array) -> NDArray[np.bool_]:
        """Which points (P, 3) lie in an observed cell."""
        cell = np.around((points - self.box[0]) / self.cell).astype(np.int32)
        inside = ((cell >= 0) & (cell < self.observed.shape)).all(axis=1)
        inside[inside] = self.observed[tuple(cell[inside].T)]
        return np.asarray(inside)

    def above_plane(self) -> NDArray[np.bool_]:
        """Which scan points lie above the table's plane."""
        return np.asarray(self.points @ self.plane[:3] + self.plane[3] > 0)


@dataclass(frozen=True)
class _Scored:
    """A variant's thinned points, their distances to the scan, NaN outside ObsMask, and the scan's to them."""

    points: Array
    to_truth: Distances
    to_prediction: Distances

    def metrics(self) -> dict[str, float]:
        accuracy, completeness = mean_distance(self.to_truth, MAX_DISTANCE), mean_distance(self.to_prediction, MAX_DISTANCE)
        return {
            "chamfer": 0.5 * (accuracy + completeness),
            "accuracy": accuracy,
            "completeness": completeness,
            "missed": 1.0 - share_within(self.to_prediction, MAX_DISTANCE),
            "surplus": 1.0 - share_within(self.to_truth, MAX_DISTANCE),
        }


def dtu_files(stl: Path) -> tuple[Path, Path]:
    """ObsMask and plane files that belong to a scan's `Points/stl/stlNNN_total.ply`.

    Raises:
        EvaluationError: another file name.
    """
    match = _STL.fullmatch(stl.name)
    if not match:
        raise EvaluationError(f"{stl}: protocol dtu needs the scan's stlNNN_total.ply in the official layout")
    folder, number = stl.parent.parent.parent / "ObsMask", int(match.group(1))
    return folder / f"ObsMask{number}_10.mat", folder / f"Plane{number}.mat"


def read_dtu(stl: Path) -> DtuTruth:
    """The reference of a scan from the official files.

    Raises:
        EvaluationError: a file is missing or not what the data set holds. DataError: the scan cannot be read.
    """
    mask_file, plane_file = dtu_files(stl)
    mask, plane = read_matlab(mask_file, ("ObsMask", "BB", "Res")), read_matlab(plane_file, ("P",))
    box = mask["BB"].astype(np.float32)
    observed, cell, coefficients = mask["ObsMask"].astype(bool), float(mask["Res"].reshape(-1)[0]), plane["P"].reshape(-1)
    if observed.ndim != 3 or box.shape != (2, 3) or not cell > 0:
        raise EvaluationError(f"{mask_file}: not a DTU observation mask (ObsMask 3-D, BB 2x3, Res); download it again")
    if coefficients.shape != (4,):
        raise EvaluationError(f"{plane_file}: not a DTU plane (P with 4 numbers); download it again")
    return DtuTruth(read_points(stl), observed, box, cell, coefficients.astype(np.float64))


def evaluate_dtu(
    prediction: Mesh, truth: DtuTruth, cameras: Sequence[Camera], config: EvaluateConfig, threads: int = 1
) -> SurfaceResult:
    """Score a mesh under every mask cull of `config.dtu_culls`; the first that can be done is the result's `metrics`.

    Args:
        prediction: DTU world frame, mm. cameras: of the same frame, with masks or without.

    Raises:
        EvaluationError: nothing of the mesh is in the scan's box, or a cull leaves nothing.
    """
    chosen, notes = _possible_culls(config.dtu_culls, cameras)
    margins = mask_margins(prediction.vertices, cameras) if max(chosen) >= 0 else np.zeros(len(prediction.vertices))
    lower, upper = truth.box[0] - PATCH - _MARGIN, truth.box[1] + 2 * PATCH + _MARGIN
    lattice, owner = lattice_points(prediction, SPACING, (lower.astype(np.float64), upper.astype(np.float64)))
    points = np.concatenate([prediction.vertices, lattice])
    order = np.random.default_rng(config.seed).permutation(len(points))
    points, tree_of_truth = points[order], _Cached(truth, order, threads)
    scored: dict[str, _Scored] = {}
    masks_done: dict[bytes, str] = {}
    for pixels in chosen:
        used = _used_points(prediction, margins, pixels, owner)[order]
        key, name = np.packbits(used).tobytes(), cull_name(pixels)
        if key in masks_done:
            scored[name] = scored[masks_done[key]]
            continue
        masks_done[key] = name
        scored[name] = _score(points, np.flatnonzero(used), truth, tree_of_truth, name, threads)
    first = scored[cull_name(chosen[0])]
    variants = {name: found.metrics() for name, found in scored.items()}
    return SurfaceResult(
        metrics=variants[cull_name(chosen[0])],
        unit={"name": "mm", "cull": cull_name(chosen[0])},
        counts=_counts(first, truth, lattice),
        arrays=_picture_arrays(prediction, truth, first, config.seed, threads),
        notes=tuple(notes),
        variants=variants,
    )


def cull_name(pixels: int) -> str:
    """Name of a variant: `mask-24px`, or `no-cull` for -1."""
    return f"mask-{pixels}px" if pixels >= 0 else "no-cull"


class _Cached:
    """Distances of the shuffled points to the scan, each asked for once over all variants."""

    def __init__(self, truth: DtuTruth, order: NDArray[np.int64], threads: int) -> None:
        from scipy.spatial import cKDTree

        self.tree, self.threads = cKDTree(truth.points, balanced_tree=False), threads
        self.known = np.full(len(order), np.nan)

    def distances(self, points: Array, index: NDArray[np.int64]) -> Distances:
        asked = index[np.isnan(self.known[index])]
        self.known[asked] = self.tree.query(points[asked], workers=self.threads)[0]
        return self.known[index]


def _score(points: Array, used: NDArray[np.int64], truth: DtuTruth, to_scan: _Cached, name: str, threads: int) -> _Scored:
    """Thin the used points, keep those in the box, and measure both ways."""
    kept = used[thin(points[used], SPACING, threads)]
    kept = kept[truth.in_box(points[kept])]
    judged = truth.in_observed(points[kept])
    if not judged.any():
        raise EvaluationError(
            f"variant {name}: nothing of the mesh lies in the scan's observed volume; is it in the DTU world frame (mm)? "
            "with a mask cull, look at the scene's masks"
        )
    to_truth = np.full(len(kept), np.nan)
    to_truth[judged] = to_scan.distances(points, kept[judged])
    above = truth.points[truth.above_plane()]
    to_prediction = nearest(above, points[kept], limit=MAX_DISTANCE, threads=threads)
    return _Scored(points[kept], to_truth, to_prediction)


def _used_points(mesh: Mesh, margins: Distances, pixels: int, owner: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which of the vertices and lattice points belong to the mesh that a cull leaves."""
    if pixels < 0:
        return np.ones(len(mesh.vertices) + len(owner), dtype=bool)
    face = np.asarray((margins <= pixels)[mesh.faces].all(axis=1))
    vertex = np.zeros(len(mesh.vertices), dtype=bool)
    vertex[mesh.faces[face]] = True
    return np.concatenate([vertex, face[owner]])


def _possible_culls(culls: Sequence[int], cameras: Sequence[Camera]) -> tuple[list[int], list[str]]:
    chosen = list(dict.fromkeys(max(-1, pixels) for pixels in culls))
    if cameras and all(camera.mask is not None for camera in cameras):
        return chosen, []
    return [-1], ["the scene has no masks: not culled, whatever evaluate.dtu_culls asks for"] if max(chosen) >= 0 else []


def _counts(found: _Scored, truth: DtuTruth, lattice: Array) -> dict[str, int]:
    return {
        "lattice": len(lattice),
        "prediction_thinned": len(found.points),
        "prediction": int((~np.isnan(found.to_truth)).sum()),
        "ground_truth": len(found.to_prediction),
        "ground_truth_all": len(truth.points),
    }


def _picture_arrays(prediction: Mesh, truth: DtuTruth, found: _Scored, seed: int, threads: int) -> dict[str, NDArray[Any]]:
    """Random parts of both sides with their errors in mm, and the distance of every vertex from the scan."""
    judged = np.flatnonzero(~np.isnan(found.to_truth))[:KEPT_POINTS]  # the points are shuffled
    above = np.flatnonzero(truth.above_plane())
    some = np.random.default_rng(seed + 1).permutation(len(above))[:KEPT_POINTS]
    return {
        "points": found.points[judged],
        "errors": found.to_truth[judged].astype(np.float32),
        "truth_points": truth.points[above[some]],
        "truth_errors": found.to_prediction[some].astype(np.float32),
        "vertex_error": nearest(prediction.vertices, truth.points, threads=threads).astype(np.float32),
    }
