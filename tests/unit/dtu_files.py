"""A synthetic scan in the official DTU layout: a bumpy ball on a table, a few millimetres large."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import trimesh
from scipy.io import savemat

from nsr.conventions import Array
from nsr.mesh.surface import Mesh

CENTRE = np.array([10.0, -20.0, 600.0])
RADIUS = 4.0


def bumpy_ball(subdivisions: int, phase: float = 0.0) -> Mesh:
    """A ball with bumps around `CENTRE`, mm."""
    base = trimesh.creation.icosphere(subdivisions=subdivisions)
    n = np.asarray(base.vertices)
    length = RADIUS * (1 + 0.1 * np.sin(6 * n[:, :1] + phase) * np.cos(6 * n[:, 1:2] + phase))
    return Mesh(n * length + CENTRE, np.asarray(base.faces, dtype=np.int64))


def joined(*meshes: Mesh) -> Mesh:
    """All triangles in one mesh."""
    starts = np.cumsum([0, *(len(mesh.vertices) for mesh in meshes)])
    faces = [mesh.faces + start for mesh, start in zip(meshes, starts, strict=False)]
    return Mesh(np.concatenate([mesh.vertices for mesh in meshes]), np.concatenate(faces))


def box(extents: tuple[float, float, float], offset: Array) -> Mesh:
    """A box at `CENTRE` + offset."""
    made = trimesh.creation.box(extents)
    return Mesh(np.asarray(made.vertices) + CENTRE + offset, np.asarray(made.faces, dtype=np.int64))


def prediction(junk: bool = True) -> Mesh:
    """Not quite the scanned ball, with a floater, a table, a triangle without area and perhaps junk outside the box."""
    ball = bumpy_ball(4, 0.15)
    floater = box((1.0, 1.0, 1.0), np.array([0.0, 4.9, 0.0]))
    table, outside = box((16.0, 16.0, 0.3), np.array([0.0, 0.0, 4.2])), box((5.0, 5.0, 5.0), np.array([0.0, 0.0, -400.0]))
    sliver = Mesh(np.zeros((3, 3)) + CENTRE, np.array([[0, 1, 2]]))
    return joined(ball, floater, table, sliver, *([outside] if junk else []))


def write_scan(root: Path, number: int = 24, points: int = 20_000) -> Path:
    """Write scan, mask and plane under `root`; the path of the scan."""
    rng = np.random.default_rng(number)
    ball, table = bumpy_ball(5), box((18.0, 18.0, 0.001), np.array([0.0, 0.0, 4.0]))
    scan = np.concatenate(
        [
            np.asarray(trimesh.Trimesh(mesh.vertices, mesh.faces, process=False).sample(count, seed=0))
            for mesh, count in ((ball, points), (table, points // 2))
        ]
    )
    for folder in ("Points/stl", "ObsMask"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    stl = root / f"Points/stl/stl{number:03d}_total.ply"
    trimesh.PointCloud(scan + 0.02 * rng.normal(size=scan.shape)).export(stl)
    lower, upper, cell = CENTRE - 6.0, CENTRE + 6.0, 0.25
    axes = [np.arange(int(np.ceil(12.0 / cell)) + 1) * cell + low for low in lower]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    observed = (np.linalg.norm(grid - CENTRE, axis=-1) < 5.0) & (grid[..., 0] > CENTRE[0] - 2.5)
    savemat(
        root / f"ObsMask/ObsMask{number}_10.mat",
        {"ObsMask": observed.astype(np.uint8), "BB": np.stack([lower, upper]), "Res": cell},
    )
    savemat(root / f"ObsMask/Plane{number}.mat", {"P": np.array([[0.02], [0.01], [-1.0], [CENTRE[2] + 3.0]])})
    return stl
