"""Small GLB files for the page's viewer: a surface decimated in the unit frame, with its texture or colours and its errors.

A textured mesh has its vertices doubled along the texture's seams, so every chart is a piece of its own. Decimation by
quadrics (Garland and Heckbert 1997, open3d) knows nothing of texture coordinates; therefore the charts are moved apart
before it, and every new vertex takes coordinates and normal from the nearest point of its own chart.
"""

from __future__ import annotations

import base64
import gzip
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nsr.conventions import Array, Similarity
from nsr.errors import DataError
from nsr.mesh.surface import Mesh, vertex_normals
from nsr.report.shade import sample_errors

GRID = 8192.0  # steps per unit length: positions are rounded to them, so that they compress
NORMAL_GRID, ERROR_GRID = 64.0, 64.0
NOT_JUDGED = -1.0  # stands for "not evaluated" in the file, where NaN is not allowed
ALL_BYTES = 15_000_000  # of all surfaces on a page
BYTES_A_FACE = 22.0  # base64 of gzipped GLB, measured with normals, colours and errors
MIN_FACES, MAX_FACES = 3_000, 40_000
_PRE_CELL = 0.004  # cell of the clustering that precedes decimation of very large meshes, unit-frame lengths
_PRE_FACES = 2_000_000
_SEAM_WEIGHT = 10.0  # of the penalty that keeps the charts' borders where they are
_JPEG_QUALITY = 82


@dataclass(frozen=True)
class Preview:
    """A surface for the viewer.

    Attributes:
        data: base64 of the gzipped GLB. triangles: in it. look: "texture", "colours" or "shape", the best there is.
        judged: whether the errors are in it, as attribute `_ERROR` in percent of the object radius, `NOT_JUDGED` where unknown.
    """

    data: str
    triangles: int
    look: str
    judged: bool


@dataclass(frozen=True)
class Budget:
    """What a surface may cost. Attributes: faces, triangles; texture, longest side in pixels."""

    faces: int
    texture: int

    @classmethod
    def for_surfaces(cls, count: int) -> Budget:
        """So much that `count` surfaces stay under `ALL_BYTES` together, within limits."""
        each = ALL_BYTES / max(1, count)
        faces = int(np.clip(0.6 * each / BYTES_A_FACE, MIN_FACES, MAX_FACES))
        return cls(faces, 1024 if each > 700_000 else 768 if each > 400_000 else 512)


@dataclass(frozen=True)
class Textured:
    """A mesh with a texture, unit frame. Attributes: vertices (M, 3); faces (T, 3); uv (M, 2), origin below; image, PIL RGB."""

    vertices: Array
    faces: NDArray[np.int64]
    uv: Array
    image: Any


def read_textured(path: Path, to_file: Similarity) -> Textured:
    """The textured mesh of a GLB in the unit frame.

    Args:
        path: `textured.glb`. to_file: unit frame -> frame of the file.

    Raises:
        DataError: not readable, or without a texture.
    """
    import trimesh

    try:
        loaded: Any = trimesh.load(path, process=False, force="mesh")
        vertices = np.array(loaded.vertices, np.float64).reshape(-1, 3)
        image, uv = loaded.visual.material.baseColorTexture, np.array(loaded.visual.uv, np.float64)
        if image is None or uv.shape != (len(vertices), 2) or not len(loaded.faces):
            raise ValueError("no texture")
    except Exception as error:  # trimesh's parsers fail in many ways on a damaged file
        raise DataError(f"{path.name}: no readable textured mesh ({type(error).__name__}: {error})"[:200]) from error
    faces = np.array(loaded.faces, np.int64)
    return Textured(to_file.inverse().apply(vertices), faces, uv, image.convert("RGB"))


def surface_preview(mesh: Mesh, evaluated: tuple[Array, Array] | None, faces: int) -> Preview:
    """A mesh with vertex colours, where it has them.

    Args:
        mesh: unit frame. evaluated: points (P, 3) unit frame and errors (P,), None if not measured. faces: most triangles.
    """
    import trimesh

    small = decimated(mesh, faces)
    made = trimesh.Trimesh(_snap(small.vertices, GRID), small.faces, vertex_normals=_normals(small), process=False)
    if small.colours is not None:
        made.visual = trimesh.visual.ColorVisuals(made, vertex_colors=small.colours)
    return _pack(made, small.vertices, evaluated, "shape" if small.colours is None else "colours")


def textured_preview(mesh: Textured, evaluated: tuple[Array, Array] | None, faces: int, side: int) -> Preview:
    """A textured mesh with a smaller texture.

    Args:
        mesh, evaluated, faces: as in `surface_preview`. side: longest side of the texture in pixels.
    """
    import trimesh
    from PIL import Image

    small, uv, normals = decimated_charts(mesh, faces)
    image = mesh.image.copy()
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    jpeg = io.BytesIO()
    image.save(jpeg, "JPEG", quality=_JPEG_QUALITY)
    material = trimesh.visual.material.PBRMaterial(baseColorTexture=Image.open(jpeg), metallicFactor=0.0, roughnessFactor=1.0)
    made = trimesh.Trimesh(
        _snap(small.vertices, GRID),
        small.faces,
        vertex_normals=_snap(normals, NORMAL_GRID),
        visual=trimesh.visual.TextureVisuals(uv=_snap(uv, GRID), material=material),
        process=False,
    )
    return _pack(made, small.vertices, evaluated, "texture")


def decimated(mesh: Mesh, faces: int, seam_weight: float = 1.0) -> Mesh:
    """The mesh with at most about `faces` triangles; itself if it has no more. Vertex colours are averaged along.

    Args:
        mesh: unit frame. faces: to aim at. seam_weight: how hard open borders are held in place.
    """
    if len(mesh.faces) <= faces:
        return mesh
    import open3d as o3d

    legacy = o3d.geometry.TriangleMesh(o3d.utility.Vector3dVector(mesh.vertices), o3d.utility.Vector3iVector(mesh.faces))
    if mesh.colours is not None:
        legacy.vertex_colors = o3d.utility.Vector3dVector(mesh.colours / 255.0)
    if len(mesh.faces) > _PRE_FACES:
        legacy = legacy.simplify_vertex_clustering(_PRE_CELL)
    legacy = legacy.simplify_quadric_decimation(faces, boundary_weight=seam_weight)
    legacy.remove_degenerate_triangles()
    legacy.remove_unreferenced_vertices()
    colours = None
    if mesh.colours is not None:
        colours = (np.asarray(legacy.vertex_colors).clip(0, 1) * 255 + 0.5).astype(np.uint8)
    return Mesh(np.asarray(legacy.vertices), np.asarray(legacy.triangles).astype(np.int64), colours=colours)


def decimated_charts(mesh: Textured, faces: int) -> tuple[Mesh, Array, Array]:
    """A textured mesh with fewer triangles.

    Args:
        mesh: with vertices doubled along seams. faces: triangles to aim at; borders of charts may need more.

    Returns:
        the mesh (M, 3), its texture coordinates (M, 2) and normals (M, 3).
    """
    import open3d as o3d

    normals = _seamless_normals(mesh)
    if len(mesh.faces) <= faces:
        return Mesh(mesh.vertices, mesh.faces), mesh.uv, normals
    apart, pitch = _moved_apart(mesh)
    small = decimated(Mesh(apart, mesh.faces), faces, _SEAM_WEIGHT)
    scene = o3d.t.geometry.RaycastingScene()
    scene.add_triangles(o3d.core.Tensor(apart.astype(np.float32)), o3d.core.Tensor(mesh.faces.astype(np.uint32)))
    nearest = scene.compute_closest_points(o3d.core.Tensor(small.vertices.astype(np.float32)))
    corners = mesh.faces[nearest["primitive_ids"].numpy().astype(np.int64)]
    second, third = nearest["primitive_uvs"].numpy().astype(np.float64).T
    weights = np.stack([1.0 - second - third, second, third], axis=1)
    uv = np.einsum("nk,nkc->nc", weights, mesh.uv[corners])
    turned = np.einsum("nk,nkc->nc", weights, normals[corners])
    turned /= np.maximum(np.linalg.norm(turned, axis=1, keepdims=True), 1e-12)
    together = small.vertices - np.round(small.vertices / pitch) * pitch
    return Mesh(together + _middle(mesh), small.faces), uv, turned


def _middle(mesh: Textured) -> Array:
    return 0.5 * (mesh.vertices.min(axis=0) + mesh.vertices.max(axis=0))


def _moved_apart(mesh: Textured) -> tuple[Array, float]:
    """Vertices (M, 3) with every chart in a cell of its own of a cubic lattice, and the lattice's pitch."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    count = len(mesh.vertices)
    first = np.concatenate([mesh.faces[:, 0], mesh.faces[:, 1]])
    second = np.concatenate([mesh.faces[:, 1], mesh.faces[:, 2]])
    charts, chart = connected_components(coo_matrix((np.ones(len(first)), (first, second)), shape=(count, count)), directed=False)
    side = int(np.ceil(charts ** (1 / 3)))
    cell = np.stack(np.unravel_index(chart, (side, side, side)), axis=1)
    pitch = 3.0 * float(np.ptp(mesh.vertices, axis=0).max())
    return mesh.vertices - _middle(mesh) + cell * pitch, pitch


def _seamless_normals(mesh: Textured) -> Array:
    """Normals (M, 3) in which doubled vertices agree."""
    _, index = np.unique(mesh.vertices.astype(np.float32), axis=0, return_inverse=True)
    index = index.reshape(-1)
    merged = np.zeros((index.max() + 1, 3))
    merged[index] = mesh.vertices
    return vertex_normals(Mesh(merged, index[mesh.faces]))[index].astype(np.float64)


def _normals(mesh: Mesh) -> Array:
    return _snap(vertex_normals(mesh), NORMAL_GRID)


def _snap(values: NDArray[np.floating], steps: float) -> Array:
    """Values rounded to multiples of `1 / steps`: exact in float32, with a mantissa that compresses."""
    return np.round(np.asarray(values, np.float64) * steps) / steps


def _pack(made: Any, vertices: Array, evaluated: tuple[Array, Array] | None, look: str) -> Preview:
    if evaluated is not None:
        errors = np.nan_to_num(_snap(sample_errors(vertices, *evaluated), ERROR_GRID), nan=NOT_JUDGED)
        made.vertex_attributes["_ERROR"] = errors.astype(np.float32)
    glb = made.export(file_type="glb", include_normals=True)
    return Preview(base64.b64encode(gzip.compress(glb, 9, mtime=0)).decode(), len(made.faces), look, judged=evaluated is not None)
