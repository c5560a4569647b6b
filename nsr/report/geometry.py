"""Surfaces, ground truth and evaluated points of a run, brought into the unit frame for the report's pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np

from nsr.conventions import Array, Similarity
from nsr.data.arrays import read_npz
from nsr.errors import DataError
from nsr.mesh.io import read_mesh
from nsr.mesh.surface import Mesh

_EVALUATED_BYTES = 2_000_000_000  # a vertex of the largest meshes has 4 bytes, an evaluated point 28


def unit_mesh(path: Path, to_world: Similarity) -> Mesh:
    """Read a mesh and map it to the unit frame.

    Args:
        path: mesh file. to_world: unit frame -> the file's frame.

    Raises:
        DataError: unreadable file, or no triangle in it.
    """
    return read_mesh(path).moved(to_world.inverse())


def evaluated_samples(path: Path, side: Literal["prediction", "truth"], to_world: Similarity) -> tuple[Array, Array]:
    """Points of one side that an evaluation compared, and their distances from the other side.

    Args:
        path: `evaluate/<kind>.npz`, whose points are in the scene's world frame. side: whose points.
        to_world: unit frame -> the scene's world frame.

    Returns:
        points (P, 3) in the unit frame; distances (P,) in percent of the object radius, NaN where not judged.

    Raises:
        DataError: not the evaluation's file.
    """
    prefix = "truth_" if side == "truth" else ""
    try:
        arrays = read_npz(path, _EVALUATED_BYTES)
        points = np.asarray(arrays[f"{prefix}points"], np.float64)
        distances = np.asarray(arrays[f"{prefix}errors"], np.float64)
    except (DataError, ValueError, KeyError) as error:
        raise DataError(f"{path.name}: holds no evaluated points ({error})") from error
    if points.shape != (len(distances), 3):
        raise DataError(f"{path.name}: {points.shape} points do not go with {distances.shape} distances")
    return to_world.inverse().apply(points), distances


def truth_frame(evaluation: dict[str, Any], to_world: Similarity) -> Similarity:
    """Unit frame -> frame of the ground truth, through the evaluation's alignment (scene world -> ground-truth world).

    Raises:
        DataError: an alignment without its similarity.
    """
    alignment = evaluation.get("alignment") or {}
    if alignment.get("kind", "none") == "none":
        return to_world
    try:
        return Similarity.from_dict(alignment).compose(to_world)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"alignment '{alignment['kind']}' does not state scale, R and t ({error})") from error


def ground_truth_path(named: Path | None, evaluation: dict[str, Any]) -> Path | None:
    """The exact mesh: of the runs file, else the one the evaluation names; None if there is none here."""
    stated = named or (Path(evaluation["ground_truth"]) if isinstance(evaluation.get("ground_truth"), str) else None)
    return stated if stated is not None and stated.is_file() else None
