"""The zero level of a signed distance as triangles (Lorensen and Cline 1987), block by block, without seams.

Every vertex lies on a grid edge, and the edge's number in the whole grid is its key. Triangles name their vertices by key,
so that blocks are joined exactly, whatever their size and order: nothing is welded by distance. Vertices are numbered in
the order of their keys.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nsr.conventions import Array
from nsr.errors import EmptyMesh
from nsr.mesh.cells import CORNERS, cell_table
from nsr.mesh.grid import BLOCK, POINTS_AT_ONCE, SdfFunction, SparseField, sample_field
from nsr.mesh.surface import Mesh


def extract(
    sdf: SdfFunction,
    resolution: int,
    *,
    occupied: Tensor | None = None,
    device: torch.device | str = "cpu",
    block: int = BLOCK,
) -> Mesh:
    """Surface of a signed distance inside the unit ball, with normals from its gradient.

    Vertices are linear interpolations along grid edges: for a distance with curvature radius r their error is about
    h^2 / (8 r), h = 2 / resolution.

    Args:
        sdf: unit-frame points (P, 3) float32 on `device` -> signed distances (P,), positive outside.
        resolution: cells per side of the cube [-1, 1]^3.
        occupied, block: see `sample_field`.

    Returns:
        Mesh in the unit frame, closed unless it is empty space; triangles counter-clockwise seen from outside. The same
        for every `block`, up to the order of the triangles.

    Raises:
        EmptyMesh: the distance has one sign everywhere, or is not finite. ConfigError: resolution out of range.
    """
    field = sample_field(sdf, resolution, occupied=occupied, device=device, block=block)
    if not len(field.blocks):
        raise EmptyMesh(_why_empty(field, occupied))
    vertices, faces = surface_of(field)
    del field
    return Mesh(vertices, faces, normals=sdf_normals(sdf, vertices, 1.0 / resolution, device))


def _why_empty(field: SparseField, occupied: Tensor | None) -> str:
    if not bool(field.inside.any()):
        where = "the signed distance is 'outside' in the whole region of interest"
    elif occupied is not None and not bool(occupied.any()):
        where = "no cell of the model's occupancy grid is occupied, so nothing was ever rendered"
    else:
        where = "the signed distance changes sign only where nothing was ever rendered (outside the model's occupied cells)"
    return f"no surface: {where}; look at the training curve, at the region (prepare.region) and at the loss weights"


class _Crossings(NamedTuple):
    """Vertices of some blocks: keys (H,) int64 and positions (H, 3) float64 in the unit frame."""

    key: Tensor
    position: Tensor


@torch.no_grad()
def surface_of(field: SparseField) -> tuple[Array, NDArray[np.int64]]:
    """Zero level of a field: vertices (M, 3) in the unit frame and faces (T, 3), counter-clockwise from the positive side."""
    parts = [_crossings(field, blocks) for blocks in field.batches(field.blocks)]
    key, order = torch.cat([part.key for part in parts]).sort()
    vertices = torch.cat([part.position for part in parts])[order].cpu().numpy()
    del parts, order
    faces = [_triangles(field, blocks, key) for blocks in field.batches(field.cell_blocks())]
    return vertices, torch.cat(faces).numpy().astype(np.int64)


def _edge_key(point: Tensor, axis: Tensor | int, resolution: int) -> Tensor:
    """Number of the grid edge from `point` (..., 3) along `axis` (...), among those of the whole grid."""
    # Cells reach one block beyond the grid, where nothing crosses; keys of real edges are unique.
    side = resolution + 1
    return ((point[..., 0] * side + point[..., 1]) * side + point[..., 2]) * 3 + axis


def _crossings(field: SparseField, blocks: Tensor) -> _Crossings:
    """Where the sign changes on the edges that start at points of the given kept blocks (K, 3)."""
    side, value = field.block, field.corners(blocks)
    here = value[:, :side, :side, :side]
    keys, positions = [], []
    for axis in range(3):
        there = value.narrow(axis + 1, 1, side)[:, :side, :side, :side]
        hit = ((here < 0) != (there < 0)).nonzero(as_tuple=True)
        before, after = here[hit].double(), there[hit].double()
        point = blocks[hit[0]] * side + torch.stack(hit[1:], dim=1)
        keys.append(_edge_key(point, axis, field.resolution))
        position = point.double()
        position[:, axis] += before / (before - after)
        positions.append(position * (2.0 / field.resolution) - 1.0)
    return _Crossings(torch.cat(keys), torch.cat(positions))


def _triangles(field: SparseField, blocks: Tensor, key: Tensor) -> Tensor:
    """Triangles (T, 3) int32, on the CPU, of the cells of blocks (K, 3); indices into the sorted keys `key` (M,)."""
    side, device = field.block, blocks.device
    triangles, corner, axis = (torch.from_numpy(part).to(device) for part in cell_table())
    negative = field.corners(blocks) < 0
    case = torch.zeros(len(blocks), side, side, side, dtype=torch.uint8, device=device)
    for bit, (i, j, k) in enumerate(CORNERS.tolist()):
        case |= negative[:, i : i + side, j : j + side, k : k + side].to(torch.uint8) << bit
    cut = ((case > 0) & (case < 255)).nonzero(as_tuple=True)
    which = case[cut].long()
    cell = blocks[cut[0]] * side + torch.stack(cut[1:], dim=1)
    number = triangles[which]
    owner = torch.repeat_interleave(number)
    nth = torch.arange(len(owner), device=device) - (number.cumsum(0) - number)[owner]
    which, cell = which[owner], cell[owner]
    wanted = _edge_key(cell[:, None] + corner[which, nth], axis[which, nth], field.resolution)
    return torch.searchsorted(key, wanted, out_int32=True).cpu()


@torch.no_grad()
def sdf_normals(sdf: SdfFunction, points: Array, step: float, device: torch.device | str = "cpu") -> NDArray[np.float32]:
    """Outward unit normals (P, 3) by central differences over +-`step` (unit frame) in the signed distance."""
    normals = np.empty((len(points), 3), dtype=np.float32)
    shift = torch.eye(3, dtype=torch.float64, device=device) * step
    for start in range(0, len(points), POINTS_AT_ONCE // 6):
        part = torch.from_numpy(points[start : start + POINTS_AT_ONCE // 6]).to(device)
        taps = torch.cat([part + shift[:, None], part - shift[:, None]]).reshape(-1, 3).float()
        values = sdf(taps).reshape(2, 3, -1).float()
        slope = torch.nn.functional.normalize(values[0] - values[1], dim=0, eps=1e-20)
        normals[start : start + len(part)] = slope.T.cpu().numpy()
    return normals
