"""Fusion of depth images into a truncated signed distance (Curless and Levoy 1996) and its surface."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nsr.conventions import Array
from nsr.errors import ConfigError, EmptyMesh
from nsr.mesh.surface import Mesh, vertex_normals

_BLOCK = 8  # voxels per side of open3d's blocks
_MIN_WEIGHT = 0.5  # one observation is enough; unseen voxels have weight 0


@dataclass(frozen=True)
class DepthFrame:
    """One depth image.

    Attributes:
        depth: (H, W) float32 along the camera's z axis, frame of `w2c`'s world; 0 where there is none.
        colour: (H, W, 3) float32 sRGB in [0, 1].
        K: (3, 3) pixels, pixel centres at +0.5. w2c: (4, 4).
    """

    depth: NDArray[np.float32]
    colour: NDArray[np.float32]
    K: Array
    w2c: Array


def fuse(frames: Iterable[DepthFrame], voxel: float, truncation: float) -> Mesh:
    """Fuse frames, one at a time, and extract the zero level.

    Memory grows with the surface: about 20 bytes for each voxel of the blocks of 8^3 within the truncation distance.

    Args:
        voxel: edge length, frame of the cameras' world. truncation: in voxels, >= 1.

    Returns:
        Mesh in the frame of the cameras' world, with colours; triangles counter-clockwise seen from the cameras' side.

    Raises:
        EmptyMesh: no frame, no depth in any of them, or nothing extracted. ConfigError: voxel or truncation out of range.
    """
    import open3d as o3d

    if not (math.isfinite(voxel) and voxel > 0 and math.isfinite(truncation) and truncation >= 1):
        raise ConfigError(f"tsdf.voxel {voxel} must be > 0 and tsdf.truncation {truncation} at least 1 voxel")
    kind = o3d.core.float32
    grid = o3d.t.geometry.VoxelBlockGrid(
        attr_names=("tsdf", "weight", "color"),
        attr_dtypes=(kind, kind, kind),
        attr_channels=((1), (1), (3)),
        voxel_size=voxel,
        block_resolution=_BLOCK,
        block_count=4096,
    )
    count = sum(_integrate(grid, frame, truncation) for frame in frames)
    if not count:
        raise EmptyMesh("fusion got no depth: every rendered view is empty; lower tsdf.min_opacity or look at the training curve")
    extracted = grid.extract_triangle_mesh(weight_threshold=_MIN_WEIGHT)
    if not extracted.triangle.indices.shape[0]:
        raise EmptyMesh(
            f"fusion of {count} depth images gave no surface; try a larger tsdf.voxel (now {voxel:g}) or tsdf.truncation"
        )
    vertices = extracted.vertex.positions.numpy().astype(np.float64)
    faces = extracted.triangle.indices.numpy().astype(np.int64)
    colours = np.clip(np.rint(extracted.vertex.colors.numpy() * 255.0), 0, 255).astype(np.uint8)
    mesh = Mesh(vertices, faces, colours=colours)
    return Mesh(vertices, faces, vertex_normals(mesh), colours)


def _integrate(grid: Any, frame: DepthFrame, truncation: float) -> int:
    """Add one frame; 1 if it had any depth, else 0."""
    import open3d as o3d

    farthest = float(frame.depth.max(initial=0.0))
    if farthest <= 0:
        return 0
    depth = o3d.t.geometry.Image(np.ascontiguousarray(frame.depth, dtype=np.float32))
    colour = o3d.t.geometry.Image(np.ascontiguousarray(frame.colour, dtype=np.float32))
    intrinsic, extrinsic = (o3d.core.Tensor(np.ascontiguousarray(m, dtype=np.float64)) for m in (frame.K, frame.w2c))
    limit = 1.01 * farthest
    try:
        blocks = grid.compute_unique_block_coordinates(depth, intrinsic, extrinsic, 1.0, limit, float(truncation))
    except RuntimeError as error:
        if "No block is touched" in str(error):  # too few pixels with depth, open3d looks at every fourth
            return 0
        raise
    grid.integrate(blocks, depth, colour, intrinsic, extrinsic, 1.0, limit, float(truncation))
    return 1
