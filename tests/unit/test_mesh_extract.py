"""Grid, marching cubes and world export against analytic distances and PyMCubes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from nsr.conventions import Similarity
from nsr.errors import ConfigError, EmptyMesh
from nsr.mesh import grid
from nsr.mesh.cells import CORNERS, cell_table
from nsr.mesh.grid import sample_field
from nsr.mesh.io import read_mesh, write_ply
from nsr.mesh.marching_cubes import extract
from nsr.mesh.surface import vertex_normals
from nsr.mesh.topology import is_watertight
from tests.unit.shapes import CENTRE, sphere, torched, torus


def gyroid(points):
    """Thin curved walls with handles and tunnels: every kind of cell."""
    x, y, z = 7.0 * points.T
    wall = np.abs(np.sin(x) * np.cos(y) + np.sin(y) * np.cos(z) + np.sin(z) * np.cos(x)) / 8.4 - 0.05
    return np.maximum(wall, np.linalg.norm(points, axis=1) - 0.8)


def uneven(points):
    """A distance whose gradient is 3 in one half and 0.4 in the other: neither an exact distance nor steepness <= 2."""
    return sphere(points) * np.where(points[:, 0] > 0, 3.0, 0.4) + 0.02 * np.sin(9 * points[:, 1])


def dense(sdf, resolution):
    """`max(sdf, |x| - 1)` on the whole grid, as PyMCubes takes it."""
    ticks = np.arange(resolution + 1) * (2.0 / resolution) - 1.0
    points = np.stack(np.meshgrid(ticks, ticks, ticks, indexing="ij"), axis=-1).reshape(-1, 3)
    distance = sdf(points.astype(np.float32).astype(np.float64)).astype(np.float32)
    values = np.maximum(distance, (np.linalg.norm(points, axis=1) - 1).astype(np.float32))
    values[values == 0] = 1e-6 * 2 / resolution
    return values.reshape((resolution + 1,) * 3)


def canonical(vertices, faces):
    """Vertices in lexical order; faces of them, each from its lowest index on, in lexical order."""
    order = np.lexsort(np.round(vertices, 9).T[::-1])
    number = np.empty_like(order)
    number[order] = np.arange(len(order))
    faces = number[faces]
    faces = np.take_along_axis(faces, (faces.argmin(axis=1)[:, None] + np.arange(3)) % 3, axis=1)
    return vertices[order], faces[np.lexsort(faces.T[::-1])]


@pytest.mark.parametrize("sdf", [sphere, torus])
def test_vertices_lie_on_the_analytic_surface_and_face_outward(sdf):
    mesh = extract(torched(sdf), 96)
    assert np.abs(sdf(mesh.vertices)).max() < 1e-3
    assert is_watertight(mesh)
    centres = mesh.vertices[mesh.faces].mean(axis=1)
    gradient = np.stack([sdf(centres + e) - sdf(centres - e) for e in 1e-4 * np.eye(3)], axis=1) / 2e-4
    cosine = np.einsum("tx,tx->t", mesh.face_vectors(), gradient)
    assert (cosine > 0).all()
    at_vertices = np.stack([sdf(mesh.vertices + e) - sdf(mesh.vertices - e) for e in 1e-4 * np.eye(3)], axis=1) / 2e-4
    assert np.einsum("mx,mx->m", mesh.normals, at_vertices).min() > 0.999
    assert np.einsum("mx,mx->m", vertex_normals(mesh), at_vertices).min() > 0.9


def test_area_and_enclosed_volume_of_a_sphere():
    mesh = extract(torched(sphere), 96)
    assert mesh.face_areas().sum() == pytest.approx(4 * np.pi * 0.25, rel=2e-3)
    assert mesh.volume() == pytest.approx(4 / 3 * np.pi * 0.125, rel=2e-3)


@pytest.mark.parametrize(("sdf", "resolution"), [(sphere, 33), (gyroid, 64), (uneven, 45), (lambda p: p[:, 2] - 0.013, 40)])
def test_mesh_is_that_of_pymcubes_on_the_dense_grid(sdf, resolution):
    import mcubes

    vertices, faces = mcubes.marching_cubes(dense(sdf, resolution), 0.0)
    expected = canonical(vertices * (2.0 / resolution) - 1.0, faces.astype(np.int64)[:, ::-1])
    mesh = extract(torched(sdf), resolution)
    found = canonical(mesh.vertices, mesh.faces)
    np.testing.assert_allclose(found[0], expected[0], atol=1e-12)
    assert np.array_equal(found[1], expected[1])


@pytest.mark.parametrize("sdf", [gyroid, uneven])
def test_block_size_changes_nothing(sdf, monkeypatch):
    expected = extract(torched(sdf), 50)
    for block in (3, 5, 16, 64):
        mesh = extract(torched(sdf), 50, block=block)
        assert np.array_equal(mesh.vertices, expected.vertices)
        assert np.array_equal(canonical(mesh.vertices, mesh.faces)[1], canonical(expected.vertices, expected.faces)[1])
    monkeypatch.setattr(grid, "POINTS_AT_ONCE", 2000)  # a few blocks at once instead of all
    mesh = extract(torched(sdf), 50)
    assert np.array_equal(mesh.vertices, expected.vertices)
    assert np.array_equal(mesh.faces, expected.faces)


def test_surface_of_a_value_that_flickers_has_no_seam():
    """Values that differ from call to call, as a GPU's may in the last bit: each grid point has one, or blocks would not meet."""
    calls = np.random.default_rng(0)

    def flickering(points):
        return torched(sphere)(points) + 1e-3 * torch.from_numpy(calls.normal(size=len(points))).float()

    mesh = extract(flickering, 60)
    assert is_watertight(mesh)
    assert len(mesh.faces) > 5000


def test_cases_fit_together_in_every_way():
    """Over all 256 cells: what a cell leaves open on a face depends on that face's four corners only, and no edge lies in it."""
    table = cell_table()
    rules = {}
    for case in range(256):
        number = table.number[case]
        middles = 2 * table.corner[case, :number] + np.eye(3, dtype=int)[table.axis[case, :number]]
        lines = {(tuple(t[k]), tuple(t[(k + 1) % 3])) for t in middles for k in range(3)}
        assert len(lines) == 3 * number, "an edge is run along twice in the same direction"
        for axis, side in itertools.product(range(3), (0, 1)):
            lies = {line for line in lines if all(end[axis] == 2 * side for end in line)}
            assert not {(b, a) for a, b in lies} & lines, "an inner edge lies in a face"
            flat = frozenset(tuple(tuple(np.delete(end, axis)) for end in (line if side else line[::-1])) for line in lies)
            corners = tuple(case >> k & 1 for k in range(8) if CORNERS[k][axis] == side)
            assert rules.setdefault((axis, corners), flat) == flat
            lines -= lies
        assert all((b, a) in lines for a, b in lines), "open inside the cell"


def test_few_points_are_asked_for_inside_the_ball_only():
    asked = []

    def counting(points):
        asked.append(len(points))
        assert points.norm(dim=1).max() < 1.0, "outside the region of interest"
        return torched(sphere)(points)

    field = sample_field(counting, 128)
    assert sum(asked) < 0.3 * 129**3
    assert max(asked) <= grid.POINTS_AT_ONCE
    assert field.values.numel() < 0.08 * 129**3


def test_surfaces_that_were_never_rendered_are_not_looked_for():
    """Two balls, of which the occupancy grid knows one, cut through: that one is followed to its end, the other stays out."""
    other = np.array([-0.6, 0.0, 0.0])

    def two(points):
        here = points.numpy().astype(np.float64)
        return torch.from_numpy(np.minimum(sphere(here, 0.3), np.linalg.norm(here - other, axis=1) - 0.15)).float()

    occupied = torch.zeros(16, 16, 16, dtype=torch.bool)
    occupied[10, 8, 8] = True  # at the right pole of the first, on x = 0.25 to 0.375
    mesh = extract(two, 160, occupied=occupied)
    alone = extract(torched(lambda points: sphere(points, 0.3)), 160)
    assert np.array_equal(mesh.vertices, alone.vertices)
    occupied[:] = False
    occupied[8, 12, 15] = True  # somewhere else
    with pytest.raises(EmptyMesh, match="only where nothing was ever rendered"):
        extract(two, 160, occupied=occupied)
    with pytest.raises(EmptyMesh, match="no cell .* is occupied"):
        extract(two, 160, occupied=torch.zeros(16, 16, 16, dtype=torch.bool))


@pytest.mark.parametrize(("cells", "count", "size"), [(16, 9, 0.23), (5, 33, 0.0625), (8, 8, 0.25)])
def test_blocks_that_touch_occupied_cells(cells, count, size):
    occupied = torch.rand(cells, cells, cells, generator=torch.Generator().manual_seed(1)) < 0.03
    touching = grid.blocks_touching(occupied, count, size)
    lowest = occupied.nonzero().numpy() * (2 / cells)
    start = np.indices((count,) * 3).reshape(3, 1, -1) * size
    low, high = lowest.T[:, :, None], lowest.T[:, :, None] + 2 / cells
    meets = ((start <= high + 1e-9) & (start + size >= low - 1e-9)).all(axis=0).any(axis=0)
    assert np.array_equal(touching.numpy().reshape(-1)[~meets], np.zeros((~meets).sum(), dtype=bool))
    overlaps = ((start < high - 1e-9) & (start + size > low + 1e-9)).all(axis=0).any(axis=0)
    assert touching.numpy().reshape(-1)[overlaps].all()


def test_a_surface_too_large_for_memory_is_refused(monkeypatch):
    monkeypatch.setattr(grid, "MAX_POINTS", 10_000)
    with pytest.raises(ConfigError, match=r"mesh\.resolution: at 64 the surface has more"):
        extract(torched(sphere), 64)


def test_region_of_interest_ends_at_the_unit_ball():
    mesh = extract(lambda points: points[:, 2], 64)
    assert np.linalg.norm(mesh.vertices, axis=1).max() < 1.0 + 1e-3
    assert is_watertight(mesh)
    flat = np.abs(mesh.vertices[:, 2]) < 1e-6
    assert 0.2 < flat.mean() < 0.8


def test_zero_values_on_grid_points_do_not_open_the_mesh():
    mesh = extract(lambda points: points.abs().amax(dim=1) - 0.5, 16)
    assert is_watertight(mesh)
    assert np.abs(mesh.vertices).max() == pytest.approx(0.5, abs=1e-4)


def test_world_export_applies_the_similarity(tmp_path):
    rng = np.random.default_rng(3)
    rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    rotation *= np.sign(np.linalg.det(rotation))
    similarity = Similarity(105.0, rotation, np.array([35.0, -12.0, 620.0]))
    mesh = extract(torched(sphere), 32)
    world = mesh.moved(similarity)
    write_ply(tmp_path / "mesh.ply", world)
    back = read_mesh(tmp_path / "mesh.ply")
    centre = 105.0 * rotation @ CENTRE + [35.0, -12.0, 620.0]
    np.testing.assert_allclose(back.vertices, 105.0 * mesh.vertices @ rotation.T + [35.0, -12.0, 620.0], atol=1e-5)
    np.testing.assert_allclose(similarity.inverse().apply(back.vertices), mesh.vertices, atol=1e-5)
    np.testing.assert_allclose(world.normals, mesh.normals @ rotation.T, atol=1e-6)
    outward = np.einsum("tx,tx->t", back.face_vectors(), back.vertices[back.faces[:, 0]] - centre)
    assert (outward > 0).all()


def test_empty_and_broken_fields_are_named_errors():
    with pytest.raises(EmptyMesh, match="outside"):
        extract(lambda points: torch.ones(len(points)), 16)
    with pytest.raises(EmptyMesh, match="not finite"):
        extract(lambda points: torch.full((len(points),), np.nan), 16)
    with pytest.raises(ConfigError, match=r"mesh\.resolution"):
        extract(torched(sphere), 5000)


def test_a_field_that_is_negative_everywhere_gives_the_region_itself():
    mesh = extract(lambda points: -torch.ones(len(points)), 32)
    np.testing.assert_allclose(np.linalg.norm(mesh.vertices, axis=1), 1.0, atol=4e-3)
