"""Simplification, and the unwrapping of a surface into one square texture (xatlas)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nsr.conventions import Array
from nsr.errors import DataError
from nsr.mesh.clean import drop_degenerate
from nsr.mesh.surface import Mesh, vertex_normals

# xatlas's time grows with the square of a chart's faces: 200 000 faces of one surface take minutes, in pieces of this size 20 s.
PIECE_FACES = 1000


@dataclass(frozen=True)
class Atlas:
    """A mesh whose corners have places in a square texture.

    Attributes:
        mesh: the surface; its vertices are shared across the charts' borders.
        uv: (U, 2) float64 in [0, 1]: right and down from the upper left corner of the image, as in glTF. Texel (column i,
            row j) of an image with n texels a side covers [i, i + 1) x [j, j + 1) / n.
        corners: (T, 3) int64, the index into `uv` of each corner of each face.
        charts: number of connected pieces of the texture.
    """

    mesh: Mesh
    uv: Array
    corners: NDArray[np.int64]
    charts: int


@dataclass(frozen=True)
class TexturedMesh:
    """An atlas and its texture (n, n, 3) uint8 sRGB."""

    atlas: Atlas
    image: NDArray[np.uint8]


def simplified(mesh: Mesh, faces: int) -> Mesh:
    """At most `faces` triangles (0: as they are) by quadric error decimation (Garland and Heckbert 1997); normals made anew."""
    if faces > 0 and len(mesh.faces) > faces:
        import open3d as o3d

        origin = mesh.vertices.mean(axis=0)
        dense = o3d.geometry.TriangleMesh(
            o3d.utility.Vector3dVector(mesh.vertices - origin), o3d.utility.Vector3iVector(mesh.faces.astype(np.int32))
        )
        if mesh.colours is not None:
            dense.vertex_colors = o3d.utility.Vector3dVector(mesh.colours / 255.0)
        coarse = dense.simplify_quadric_decimation(faces)
        colours = None
        if mesh.colours is not None:
            colours = np.rint(np.clip(np.asarray(coarse.vertex_colors), 0.0, 1.0) * 255.0).astype(np.uint8)
        vertices, triangles = np.asarray(coarse.vertices) + origin, np.asarray(coarse.triangles).astype(np.int64)
        mesh = Mesh(vertices, triangles, colours=colours)
    mesh = drop_degenerate(mesh)
    return Mesh(mesh.vertices, mesh.faces, vertex_normals(mesh), mesh.colours)


def unwrap(mesh: Mesh, size: int, padding: int) -> Atlas:
    """Charts of little distortion, packed once into a square with at least about `padding` texels of `size` between them.

    Raises:
        DataError: no part of the surface could be unwrapped.
    """
    import xatlas

    origin = mesh.vertices.mean(axis=0)
    scale = np.abs(mesh.vertices - origin).max() or 1.0
    vertices = ((mesh.vertices - origin) / scale).astype(np.float32)
    atlas, pieces = xatlas.Atlas(), face_pieces(mesh, PIECE_FACES)
    for piece in pieces:
        used, faces = np.unique(mesh.faces[piece], return_inverse=True)
        atlas.add_mesh(vertices[used], faces.reshape(-1, 3).astype(np.uint32))
    options = xatlas.PackOptions()
    options.resolution, options.padding = size, padding
    atlas.generate(xatlas.ChartOptions(), options)
    if not atlas.chart_count:
        raise DataError("the mesh has no face that can be unwrapped; look at it, it may have no area")
    uv, corners, count = [], np.zeros((len(mesh.faces), 3), dtype=np.int64), 0
    for number, piece in enumerate(pieces):
        _, faces, places = atlas[number]
        corners[piece] = faces.astype(np.int64) + count
        count += len(places)
        uv.append(places.astype(np.float64))
    return Atlas(mesh, np.clip(np.concatenate(uv), 0.0, 1.0), corners, int(atlas.chart_count))


def face_pieces(mesh: Mesh, most: int) -> list[NDArray[np.int64]]:
    """The faces (their indices) in compact pieces of at most `most`: halved at the median of the longest side."""
    centres = mesh.vertices[mesh.faces].mean(axis=1)
    waiting, pieces = [np.arange(len(mesh.faces))], []
    while waiting:
        piece = waiting.pop()
        if len(piece) <= most:
            pieces.append(piece)
            continue
        along = centres[piece, int(np.ptp(centres[piece], axis=0).argmax())]
        order = np.argsort(along, kind="stable")
        waiting += [np.sort(piece[order[len(order) // 2 :]]), np.sort(piece[order[: len(order) // 2]])]
    return pieces
