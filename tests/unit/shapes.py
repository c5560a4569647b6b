"""Shapes with known surfaces, as signed distances and as meshes."""

from __future__ import annotations

import numpy as np
import torch
import trimesh

from nsr.mesh.surface import Mesh

CENTRE = np.array([0.1, -0.05, 0.07])


def sphere(points, radius=0.5):
    return np.linalg.norm(points - CENTRE, axis=1) - radius


def torus(points):
    ring = np.hypot(points[:, 0], points[:, 1]) - 0.55
    return np.hypot(ring, points[:, 2]) - 0.2


def torched(sdf):
    """A numpy distance as the mesh stages take it."""
    return lambda points: torch.from_numpy(sdf(points.double().numpy())).float()


def ball(radius, centre=(0.0, 0.0, 0.0), subdivisions=3):
    made = trimesh.creation.icosphere(subdivisions=subdivisions, radius=radius)
    return Mesh(np.asarray(made.vertices) + centre, np.asarray(made.faces, dtype=np.int64))


def joined(*meshes):
    offsets = np.cumsum([0, *(len(m.vertices) for m in meshes)])
    return Mesh(
        np.concatenate([m.vertices for m in meshes]),
        np.concatenate([m.faces + o for m, o in zip(meshes, offsets, strict=False)]),
    )
