"""Ground truth that is a point cloud, a mesh, or either."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from nsr.conventions import Array
from nsr.errors import DataError
from nsr.mesh.io import read_mesh
from nsr.mesh.ply import check_ply
from nsr.mesh.surface import Mesh


def read_points(path: Path) -> Array:
    """Points (P, 3) of a PLY, XYZ or PCD file, float64; the vertices if the file has faces.

    Raises:
        DataError: no such file, not readable, or without finite points.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such point cloud; check the path")
    if path.suffix.lower() == ".ply":
        check_ply(path)
    import open3d as o3d

    with o3d.utility.VerbosityContextManager(o3d.utility.VerbosityLevel.Error):
        points = np.asarray(o3d.io.read_point_cloud(str(path)).points, dtype=np.float64)
    points = points[np.isfinite(points).all(axis=1)]
    if not len(points):
        raise DataError(f"{path}: holds no readable points; give a PLY, XYZ or PCD file")
    return points


def read_truth(path: Path) -> Mesh | Array:
    """The mesh in a file, or its points (P, 3) if it holds no faces.

    Raises:
        DataError: as `read_points` and `read_mesh`.
    """
    if path.suffix.lower() in (".xyz", ".pcd") or (path.suffix.lower() == ".ply" and not _has_faces(path)):
        return read_points(path)
    return read_mesh(path)


def _has_faces(path: Path) -> bool:
    """Whether a PLY file's header announces faces; False if it cannot be read."""
    try:
        with path.open("rb") as handle:
            head = handle.read(1 << 14).split(b"end_header")[0]
    except OSError:
        return True  # read_mesh says what is wrong
    counts = [line.split()[2] for line in head.splitlines() if line.startswith(b"element face") and len(line.split()) == 3]
    return any(count != b"0" for count in counts)
