"""A synthetic scene in the layout of Tanks and Temples: scan, crop volume, trajectory and its transform."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import trimesh

from nsr.conventions import Array, Similarity
from nsr.mesh.surface import Mesh
from tests.unit.look_at import look_at

RADIUS = 0.2  # m
TO_SCAN = Similarity(0.5, np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]), np.array([1.0, 2.0, 3.0]))
CENTRE = TO_SCAN.t  # the object lies at the origin of the scene's frame


def statue(radius: float = RADIUS, subdivisions: int = 5) -> Mesh:
    """A bumpy ball around the origin."""
    base = trimesh.creation.icosphere(subdivisions=subdivisions)
    n = np.asarray(base.vertices)
    length = radius * (1 + 0.15 * np.sin(5 * n[:, :1]) * np.cos(4 * n[:, 1:2]) + 0.1 * n[:, 2:] ** 3)
    return Mesh(n * length, np.asarray(base.faces, dtype=np.int64))


def cameras(count: int = 8) -> Array:
    """World-to-camera (V, 4, 4) around the object, frame of the scene."""
    angle = 2 * np.pi * np.arange(count) / count
    heights = 0.6 * np.cos(3 * angle)
    return np.stack([look_at([2 * np.cos(a), 2 * np.sin(a), h]) for a, h in zip(angle, heights, strict=True)])


def write_tanks(folder: Path, scene: str = "Barn", points: int = 16_000) -> Path:
    """Write the files of a scene; the path of the scan. The crop volume leaves out the object's lowest part."""
    folder.mkdir(parents=True, exist_ok=True)
    truth = statue().moved(TO_SCAN)
    truth = Mesh((truth.vertices - CENTRE) * 2.0 + CENTRE, truth.faces)  # radius 0.2 m again
    cloud = np.asarray(trimesh.Trimesh(truth.vertices, truth.faces, process=False).sample(points, seed=1))
    junk = CENTRE + np.random.default_rng(0).uniform(-1, 1, size=(500, 3)) + [0, 0, 2.0]
    trimesh.PointCloud(np.concatenate([cloud, junk])).export(folder / f"{scene}.ply")
    corners = CENTRE + np.array([[-0.5, -0.5, 0], [0.5, -0.5, 0], [0.5, 0.5, 0], [-0.5, 0.5, 0]])
    volume = {
        "axis_max": CENTRE[2] + 0.5,
        "axis_min": CENTRE[2] - 0.1,
        "bounding_polygon": corners.tolist(),
        "class_name": "SelectionPolygonVolume",
        "orthogonal_axis": "Z",
        "version_major": 1,
        "version_minor": 0,
    }
    (folder / f"{scene}.json").write_text(json.dumps(volume))
    to_scan = Similarity(1.0, TO_SCAN.R, TO_SCAN.t)
    colmap = Similarity(4.0, np.eye(3), np.array([0.3, 0, 0]))  # scene -> frame of the trajectory
    lines = []
    for number, w2c in enumerate(cameras()):
        pose = np.linalg.inv(colmap.inverse().camera_to_unit(w2c))
        lines += [f"{number} {number} 0", *(" ".join(f"{value:.12g}" for value in row) for row in pose)]
    (folder / f"{scene}_COLMAP_SfM.log").write_text("\n".join(lines) + "\n")
    np.savetxt(folder / f"{scene}_trans.txt", to_scan.compose(colmap.inverse()).matrix())
    return folder / f"{scene}.ply"
