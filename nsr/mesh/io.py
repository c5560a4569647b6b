"""Reading and writing of meshes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from nsr.errors import DataError
from nsr.mesh.surface import Mesh
from nsr.provenance import whole_file


def write_ply(path: Path, mesh: Mesh) -> None:
    """Write a binary PLY atomically: positions as float64 (world coordinates may be large), normals, colours, faces."""
    columns: list[tuple[str, str]] = [(axis, "<f8") for axis in "xyz"]
    names = {"<f8": "double", "<f4": "float", "u1": "uchar"}
    if mesh.normals is not None:
        columns += [(f"n{axis}", "<f4") for axis in "xyz"]
    if mesh.colours is not None:
        columns += [(name, "u1") for name in ("red", "green", "blue")]
    vertices = np.empty(len(mesh.vertices), dtype=columns)
    parts = [part for part in (mesh.vertices, mesh.normals, mesh.colours) if part is not None]
    for (name, _), values in zip(columns, (part[:, k] for part in parts for k in range(3)), strict=True):
        vertices[name] = values
    faces = np.empty(len(mesh.faces), dtype=[("count", "u1"), ("index", "<i4", (3,))])
    faces["count"], faces["index"] = 3, mesh.faces
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(vertices)}"]
    header += [f"property {names[kind]} {name}" for name, kind in columns]
    header += [f"element face {len(faces)}", "property list uchar int vertex_indices", "end_header", ""]
    with whole_file(path) as partial, partial.open("wb") as handle:
        handle.write("\n".join(header).encode("ascii"))
        handle.write(vertices.tobytes())
        handle.write(faces.tobytes())


def read_mesh(path: Path) -> Mesh:
    """Read triangles and vertex colours in any format that trimesh knows by the file's suffix (PLY, OBJ, STL, OFF, GLB).

    Normals are not read; `nsr.mesh.surface.vertex_normals` makes them from the faces.

    Raises:
        DataError: no such file, not readable, no triangles, vertices not finite, or indices out of range.
    """
    import trimesh

    if not path.is_file():
        raise DataError(f"{path}: no such mesh file; check the path")
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
    return mesh
