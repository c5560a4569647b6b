"""Meshes on a GPU: those of the CPU, in bounded memory. Marked `gpu`; skipped where there is none."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nsr.mesh import clean
from nsr.mesh.marching_cubes import extract
from nsr.mesh.surface import Mesh
from nsr.mesh.topology import is_watertight

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")]


def torus(points):
    """Radii 0.55 and 0.25, in double precision, so that both devices round the same number."""
    x, y, z = points.double().unbind(1)
    return (torch.hypot(torch.hypot(x, y) - 0.55, z) - 0.25).float()


def test_mesh_is_that_of_the_cpu():
    here, there = (extract(torus, 128, device=device) for device in ("cpu", "cuda"))
    assert here.faces.shape == there.faces.shape
    np.testing.assert_allclose(there.vertices, here.vertices, atol=1e-6)
    np.testing.assert_allclose(there.normals, here.normals, atol=1e-3)
    assert np.array_equal(np.sort(there.faces.reshape(-1)), np.sort(here.faces.reshape(-1)))
    assert is_watertight(there)


def test_components_are_those_of_the_cpu():
    rng = np.random.default_rng(0)
    mesh = Mesh(np.zeros((20_000, 3)), rng.integers(0, 20_000, (9_000, 3)))
    here, there = (clean.parts_of(mesh, device) for device in ("cpu", "cuda"))
    assert here.count == there.count > 10
    pairs = np.unique(np.stack([here.label, there.label]), axis=1)
    assert pairs.shape[1] == here.count


def test_memory_of_a_fine_mesh_is_bounded():
    torch.cuda.reset_peak_memory_stats()
    mesh = extract(torus, 2048, device="cuda")
    assert len(mesh.faces) > 10_000_000
    assert torch.cuda.max_memory_allocated() < 4e9
