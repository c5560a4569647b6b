"""Reading and writing of meshes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nsr.errors import DataError
from nsr.mesh.metric import Metric
from nsr.mesh.ply import check_ply
from nsr.mesh.surface import Mesh, pieces
from nsr.provenance import whole_file

_METRIC = "nsr metric frame "  # begins the comment of a PLY in a metric frame; world -> metric follows as JSON


def write_ply(path: Path, mesh: Mesh, metric: Metric | None = None) -> None:
    """Write a binary PLY atomically: positions as float64 (world coordinates may be large), normals, colours, faces.

    Written part by part, so that tens of millions of triangles need no second copy in memory.

    Args:
        metric: the frame that the mesh is in, noted in a comment by which `read_mesh` undoes it; None: the world frame.
    """
    columns = _columns(mesh)
    names = {"<f8": "double", "<f4": "float", "u1": "uchar"}
    header = ["ply", "format binary_little_endian 1.0"]
    if metric is not None:
        header.append(f"comment {_METRIC}{json.dumps(metric.to_dict())}")
    header += [f"element vertex {len(mesh.vertices)}"]
    header += [f"property {names[kind]} {name}" for name, kind in columns]
    header += [f"element face {len(mesh.faces)}", "property list uchar int vertex_indices", "end_header", ""]
    with whole_file(path) as partial, partial.open("wb") as handle:
        handle.write("\n".join(header).encode("ascii"))
        for part in pieces(len(mesh.vertices)):
            handle.write(_vertex_rows(mesh, part).tobytes())
        for part in pieces(len(mesh.faces)):
            rows = np.empty(len(mesh.faces[part]), dtype=[("count", "u1"), ("index", "<i4", (3,))])
            rows["count"], rows["index"] = 3, mesh.faces[part]
            handle.write(rows.tobytes())


def _columns(mesh: Mesh) -> list[tuple[str, str]]:
    """Names and types of what is written for a vertex."""
    columns = [(axis, "<f8") for axis in "xyz"]
    if mesh.normals is not None:
        columns += [(f"n{axis}", "<f4") for axis in "xyz"]
    if mesh.colours is not None:
        columns += [(name, "u1") for name in ("red", "green", "blue")]
    return columns


def _vertex_rows(mesh: Mesh, part: slice) -> NDArray[np.void]:
    """What is written for the vertices of `part`."""
    fields = [field[part] for field in (mesh.vertices, mesh.normals, mesh.colours) if field is not None]
    columns = _columns(mesh)
    rows = np.empty(len(fields[0]), dtype=columns)
    for (name, _), values in zip(columns, (field[:, k] for field in fields for k in range(3)), strict=True):
        rows[name] = values
    return rows


def read_metric(path: Path) -> Metric | None:
    """The metric frame that a PLY of this package is written in; None for every other file.

    Raises:
        DataError: the comment that names it is damaged.
    """
    with path.open("rb") as handle:
        if handle.readline().strip() != b"ply":
            return None
        for line in handle:
            if line.startswith(b"end_header"):
                return None
            if line.startswith(f"comment {_METRIC}".encode()):
                return _parse_metric(path, line.split(_METRIC.encode(), 1)[1])
    return None


def _parse_metric(path: Path, text: bytes) -> Metric:
    try:
        return Metric.from_dict(json.loads(text))
    except (ValueError, KeyError, TypeError, DataError) as error:
        raise DataError(f"{path}: its comment on the metric frame is damaged ({error}); export it again") from error


def read_mesh(path: Path) -> Mesh:
    """Read triangles and vertex colours in any format that trimesh knows by the file's suffix (PLY, OBJ, STL, OFF, GLB).

    The world frame of its scene is what comes back: a metric frame that the file names is undone, see `write_ply`.
    Normals are not read; `nsr.mesh.surface.vertex_normals` makes them from the faces.

    Raises:
        DataError: no such file, not readable, no triangles, vertices not finite, or indices out of range.
    """
    import trimesh

    if not path.is_file():
        raise DataError(f"{path}: no such mesh file; check the path")
    if path.suffix.lower() == ".ply":
        check_ply(path)
    try:
        loaded: Any = trimesh.load(path, process=False, force="mesh")
        vertices = np.array(loaded.vertices, dtype=np.float64).reshape(-1, 3)
        faces = np.array(loaded.faces, dtype=np.int64).reshape(-1, 3)
    except Exception as error:  # trimesh's parsers fail in many ways on a damaged file
        reason = f"{type(error).__name__}: {error}"[:200]
        raise DataError(f"{path}: not a readable mesh ({reason}); export it again as PLY or OBJ") from error
    if not len(faces):
        raise DataError(f"{path}: holds no triangles; a point cloud cannot be used, export a mesh with faces")
    if not np.isfinite(vertices).all() or faces.min() < 0 or faces.max() >= len(vertices):
        raise DataError(f"{path}: damaged mesh (vertices not finite or face indices out of range); export it again")
    colours = None
    if loaded.visual.kind == "vertex" and len(loaded.visual.vertex_colors) == len(vertices):
        colours = np.array(loaded.visual.vertex_colors, dtype=np.uint8)[:, :3]
    mesh = Mesh(vertices, faces, colours=colours)
    if not mesh.face_areas().sum() > 0:
        raise DataError(f"{path}: its triangles have no area; export it again")
    metric = read_metric(path)
    return mesh if metric is None else mesh.moved(metric.similarity.inverse())
