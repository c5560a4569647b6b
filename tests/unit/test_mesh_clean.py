"""Components, region of interest, checks of edges, holes, decimation."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh

from nsr.conventions import Similarity
from nsr.errors import EmptyMesh
from nsr.mesh import clean
from nsr.mesh.decimate import decimate
from nsr.mesh.marching_cubes import extract
from nsr.mesh.surface import Mesh
from nsr.mesh.topology import hole_report, is_watertight, topology_facts
from tests.unit.shapes import ball, joined


def test_largest_components_by_area_not_by_count():
    small_fine, large_coarse, middle = ball(0.2, (2, 0, 0), 4), ball(0.5, (0, 0, 0), 1), ball(0.3, (-2, 0, 0), 2)
    parts = clean.parts_of(joined(small_fine, large_coarse, middle))
    assert parts.count == 3
    assert sorted(np.bincount(parts.label)) == sorted(len(m.faces) for m in (small_fine, large_coarse, middle))
    one = clean.largest_parts(parts, 1)
    assert (one.count, one.label.tolist()) == (1, [0] * len(large_coarse.faces))
    assert np.linalg.norm(one.mesh.vertices, axis=1) == pytest.approx(0.5)
    two = clean.largest_parts(parts, 2)
    assert len(two.mesh.faces) == len(two.label) == len(large_coarse.faces) + len(middle.faces)
    np.testing.assert_allclose(sorted(two.areas()), sorted([large_coarse.face_areas().sum(), middle.face_areas().sum()]))
    assert clean.largest_parts(parts, 0) is parts
    assert len(clean.without_fragments(parts, 0.3).mesh.faces) == len(two.mesh.faces)


def test_components_by_graph_and_by_propagation_agree():
    """The GPU's way on the CPU, on soups of faces: long chains, isolated faces, shared corners."""
    rng = np.random.default_rng(0)
    for vertices, count in ((400, 100), (300, 150), (1000, 990), (60, 1)):
        mesh = Mesh(np.zeros((vertices, 3)), rng.integers(0, vertices, (count, 3)))
        chain = np.arange(40)[:, None] * 2 + np.arange(3)
        mesh = Mesh(mesh.vertices, np.concatenate([mesh.faces, rng.permutation(chain % vertices)]))
        pairs = [clean._labels_by_graph(mesh)[mesh.faces[:, 0]], clean._labels_by_propagation(mesh, "cpu")[mesh.faces[:, 0]]]
        same = [label[:, None] == label for label in pairs]
        assert np.array_equal(*same)


def test_ghosts_are_components_in_cells_never_rendered():
    mesh = joined(ball(0.3, (0.5, 0.5, 0.5)), ball(0.2, (-0.5, -0.5, 0.5)))
    occupied = np.zeros((8, 8, 8), dtype=bool)
    occupied[6, 6, 7] = True  # around the pole at (0.5, 0.5, 0.8) of the first
    assert np.array_equal(clean.rendered_parts(clean.parts_of(mesh), occupied).mesh.vertices, ball(0.3, (0.5, 0.5, 0.5)).vertices)
    occupied[:] = True
    assert clean.rendered_parts(clean.parts_of(mesh), occupied).mesh is mesh
    assert not clean.rendered_parts(clean.parts_of(mesh), np.zeros((8, 8, 8), dtype=bool)).count


def test_region_of_interest_cuts_box_and_caps():
    world = Similarity(10.0, np.eye(3), np.array([100.0, 0.0, 0.0]))
    mesh = extract(lambda points: points[:, 2], 32)
    cap = 1e-7 + 0.25 * (2 / 32) ** 2
    open_plane = clean.inside_region(mesh, world, (), cap)
    # Beyond the last row of cells at the rim only the plane is left, of pi times the ball's squared radius.
    assert np.abs(open_plane.vertices[:, 2]).max() < 2.1 / 32
    assert open_plane.face_areas().sum() == pytest.approx(np.pi, rel=0.1)
    assert clean.inside_region(mesh, world, (), 0.0) is mesh
    boxed = clean.inside_region(mesh, world, (100.0, -20.0, -20.0, 120.0, 20.0, 20.0), cap)
    assert 0.0 <= boxed.vertices[:, 0].min() < 0.1
    assert boxed.face_areas().sum() == pytest.approx(np.pi / 2, rel=0.1)


def test_checks_of_edges_against_trimesh_and_by_hand():
    mesh = ball(0.5)
    facts = clean.mesh_facts(mesh)
    assert facts["watertight"] and facts["manifold"] and facts["oriented"] and facts["outward"]
    assert facts["components"] == 1
    assert facts["euler_characteristic"] == 2
    assert facts["area"] == pytest.approx(np.pi, rel=0.01)
    assert not topology_facts(Mesh(mesh.vertices, mesh.faces[:, ::-1]))["outward"]
    torn = mesh.select(np.arange(len(mesh.faces)) > 0)
    facts = topology_facts(torn)
    assert (facts["watertight"], facts["border_edges"], facts["outward"]) == (False, 3, None)
    flipped = mesh.faces.copy()
    flipped[0] = flipped[0, ::-1]
    facts = topology_facts(Mesh(mesh.vertices, flipped))
    assert (facts["oriented"], facts["clashing_edges"], facts["border_edges"], facts["watertight"]) == (False, 3, 0, False)
    fin = Mesh(np.vstack([mesh.vertices, [[0, 0, 2]]]), np.vstack([mesh.faces, [[*mesh.faces[0, :2], len(mesh.vertices)]]]))
    facts = topology_facts(fin)
    assert (facts["manifold"], facts["edges_of_many_faces"], facts["border_edges"]) == (False, 1, 2)
    bow_tie = topology_facts(Mesh(np.random.default_rng(0).normal(size=(5, 3)), np.array([[0, 1, 2], [0, 3, 4]])))
    assert (bow_tie["manifold"], bow_tie["pinched_vertices"]) == (False, 1)
    rng = np.random.default_rng(1)
    holed = mesh.select(rng.random(len(mesh.faces)) < 0.9)
    reference = trimesh.Trimesh(holed.vertices, holed.faces, process=False)
    once = trimesh.grouping.group_rows(reference.edges_sorted, require_count=1)
    assert topology_facts(holed)["border_edges"] == len(once)
    assert topology_facts(holed)["euler_characteristic"] == reference.euler_number


def test_holes_are_listed_by_length():
    mesh = ball(10.0, (5.0, 0.0, 0.0), 4)
    height = mesh.vertices[mesh.faces].mean(axis=1)[:, 2]
    report = hole_report(mesh.select((height < 8) & (height > -9.5)))
    assert report["count"] == 2
    top, bottom = report["largest"]
    assert 1.0 < top["length"] / (2 * np.pi * 6.0) < 1.5  # a jagged circle is longer than a round one
    assert top["centre"] == pytest.approx([5.0, 0.0, 8.0], abs=0.5)
    assert bottom["length"] < top["length"]
    assert report["length"] == pytest.approx(top["length"] + bottom["length"])
    assert hole_report(mesh) == {"count": 0, "length": 0.0, "largest": []}


def test_decimation_keeps_the_shape_within_its_bound():
    mesh = ball(1.0, (50.0, -20.0, 3.0), 5)
    colours = np.where(mesh.vertices[:, :1] > 50.0, [[255, 0, 0]], [[0, 0, 255]]).astype(np.uint8)
    mesh = Mesh(mesh.vertices, mesh.faces, colours=colours)
    small, facts = decimate(mesh, 400, 0.0)
    assert (facts["before"], facts["after"]) == (20480, len(small.faces))
    assert len(small.faces) <= 400
    off = np.linalg.norm(small.vertices - [50.0, -20.0, 3.0], axis=1) - 1.0
    assert np.abs(off).max() < 0.03
    # 400 triangles between points of a sphere sag by about h^2 / 8 with h^2 = 4 pi / 400 * 4 / sqrt(3).
    assert 0.003 < facts["max_error"] < 0.06
    assert is_watertight(small)
    assert (np.einsum("tx,tx->t", small.face_vectors(), small.vertices[small.faces[:, 0]] - [50.0, -20.0, 3.0]) > 0).all()
    far = np.abs(small.vertices[:, 0] - 50) > 0.2
    assert np.array_equal(small.colours[far, 0] > 128, small.vertices[far, 0] > 50)
    bound, found = decimate(mesh, 400, 0.25 * facts["max_error"])
    assert found["max_error"] <= 0.25 * facts["max_error"]
    assert 400 < len(bound.faces) < 20480
    assert decimate(mesh, 50_000, 0.0)[0] is mesh
    assert decimate(mesh, 400, 1e-12)[0] is mesh


def test_degenerate_faces_and_unused_vertices_go():
    mesh = Mesh(np.eye(4, 3), np.array([[0, 1, 2], [0, 1, 1]]), colours=np.arange(12, dtype=np.uint8).reshape(4, 3))
    left = clean.drop_degenerate(mesh)
    assert left.faces.tolist() == [[0, 1, 2]]
    assert left.colours.tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    with pytest.raises(EmptyMesh, match="culling left no surface; do this"):
        clean.require_faces(left.select(np.array([False])), "culling", "do this")
