"""The viewer's small surfaces: shape, texture in its place, errors, sizes; and the data that goes with them."""

from __future__ import annotations

import base64
import gzip
import io
import json
import re

import numpy as np
import pytest
import trimesh

from nsr.conventions import OPENGL_TO_OPENCV, Similarity, project
from nsr.errors import DataError
from nsr.mesh.surface import Mesh
from nsr.report import figures
from nsr.report.collect import collect
from nsr.report.page import render_page
from nsr.report.preview import (
    ALL_BYTES,
    MAX_FACES,
    MIN_FACES,
    NOT_JUDGED,
    Budget,
    decimated,
    decimated_charts,
    read_textured,
    surface_preview,
    textured_preview,
)
from nsr.scene.scene import load_scene
from tests.unit.report_fixture import RADIUS, SCALE, SHIFT, make_run, make_textured, textured_sphere, write, write_runs

WORLD = Similarity(SCALE, np.eye(3), SHIFT)


def opened(preview) -> trimesh.Trimesh:
    """The surface as another program reads it."""
    data = gzip.decompress(base64.b64decode(preview.data))
    return trimesh.load(io.BytesIO(data), file_type="glb", force="mesh", process=False)


@pytest.fixture(scope="module")
def textured(tmp_path_factory):
    path = tmp_path_factory.mktemp("t") / "textured.glb"
    textured_sphere(subdivisions=5).export(path)
    return read_textured(path, WORLD)


def coloured_sphere() -> Mesh:
    sphere = trimesh.creation.icosphere(subdivisions=5, radius=RADIUS)
    colours = np.where(sphere.vertices[:, :1] > 0, [[250, 10, 10]], [[10, 10, 250]]).astype(np.uint8)
    return Mesh(np.array(sphere.vertices), np.array(sphere.faces, np.int64), colours=colours)


def test_decimated_surface_keeps_shape_orientation_and_colours():
    small = decimated(coloured_sphere(), 2000)
    assert 1800 < len(small.faces) <= 2000
    assert np.abs(np.linalg.norm(small.vertices, axis=1) - RADIUS).max() < 0.004
    volume = trimesh.Trimesh(small.vertices, small.faces, process=False).volume
    assert volume == pytest.approx(4 / 3 * np.pi * RADIUS**3, rel=0.01)
    far = np.abs(small.vertices[:, 0]) > 0.05
    red = small.colours[:, 0] > small.colours[:, 2]
    assert (red[far] == (small.vertices[far, 0] > 0)).all()
    mesh = coloured_sphere()
    assert decimated(mesh, len(mesh.faces)) is mesh


def test_preview_of_a_surface_is_a_glb_with_colours_normals_and_errors():
    mesh = coloured_sphere()
    samples = mesh.vertices[mesh.vertices[:, 2] > 0]
    preview = surface_preview(mesh, (samples, samples[:, 2]), 2000)
    found = opened(preview)
    assert preview.look == "colours" and preview.judged and preview.triangles == len(found.faces)
    normals = found.vertices / np.linalg.norm(found.vertices, axis=1, keepdims=True)
    assert np.einsum("ij,ij->i", found.vertex_normals, normals).min() > 0.99
    errors = found.vertex_attributes["_ERROR"].reshape(-1)
    above = found.vertices[:, 2] > 0.05
    assert np.abs(errors[above] - found.vertices[above, 2]).max() < 0.04
    assert (errors[found.vertices[:, 2] < -0.1] == NOT_JUDGED).all()
    assert surface_preview(Mesh(mesh.vertices, mesh.faces), None, 2000).look == "shape"


def test_texture_stays_in_its_place_when_charts_are_decimated(textured):
    small, uv, normals = decimated_charts(textured, 1500)
    assert len(textured.faces) == 20480 and 1000 < len(small.faces) <= 1600
    assert np.abs(np.linalg.norm(small.vertices, axis=1) - RADIUS).max() < 0.01
    expected = (uv - np.where(uv[:, :1] > 0.5, [[0.75, 0.5]], [[0.25, 0.5]])) / [0.22, 0.44]  # the charts' own maps
    assert np.abs(expected - small.vertices[:, :2] / RADIUS).max() < 0.02
    inner = np.abs(small.vertices[:, 2]) > 0.05
    assert ((uv[:, 0] < 0.5) == (small.vertices[:, 2] > 0))[inner].all()
    outward = small.vertices / np.linalg.norm(small.vertices, axis=1, keepdims=True)
    assert np.einsum("ij,ij->i", normals, outward).min() > 0.99  # at the seam too
    halves = (uv[small.faces, 0] < 0.5).sum(axis=1)
    assert set(halves) == {0, 3}  # no triangle across charts


def test_texture_preview_is_read_by_another_program(textured):
    preview = textured_preview(textured, None, 1500, 64)
    found = opened(preview)
    assert preview.look == "texture" and not preview.judged
    image = found.visual.material.baseColorTexture
    assert max(image.size) == 64 and b"image/jpeg" in gzip.decompress(base64.b64decode(preview.data))
    uv = found.visual.uv
    pixels = np.asarray(image.convert("RGB")).astype(int)
    colour = pixels[
        ((1 - uv[:, 1]) * image.height).astype(int).clip(0, image.height - 1), (uv[:, 0] * image.width).astype(int).clip(0, 63)
    ]
    inner = np.abs(found.vertices[:, 2]) > 0.1
    assert ((colour[:, 0] > colour[:, 2]) == (found.vertices[:, 2] > 0))[inner].all()


def test_a_file_without_texture_is_one_error(tmp_path):
    trimesh.creation.box().export(tmp_path / "box.glb")
    with pytest.raises(DataError, match=r"box\.glb"):
        read_textured(tmp_path / "box.glb", WORLD)
    (tmp_path / "cut.glb").write_bytes(b"glTF\x02")
    with pytest.raises(DataError, match=r"cut\.glb"):
        read_textured(tmp_path / "cut.glb", WORLD)


def test_budget_shrinks_with_the_number_of_surfaces():
    budgets = [Budget.for_surfaces(count) for count in (1, 10, 30, 100, 10_000)]
    faces = [budget.faces for budget in budgets]
    assert faces == sorted(faces, reverse=True) and faces[0] == MAX_FACES and faces[-1] == MIN_FACES
    assert [budget.texture for budget in budgets] == sorted((budget.texture for budget in budgets), reverse=True)


def test_thirty_noisy_surfaces_stay_within_the_pages_budget():
    rng = np.random.default_rng(0)
    sphere = trimesh.creation.icosphere(subdivisions=6, radius=RADIUS)
    vertices = sphere.vertices * (1 + 0.004 * rng.normal(size=(len(sphere.vertices), 1)))
    colours = rng.integers(0, 255, (len(vertices), 3)).astype(np.uint8)
    mesh = Mesh(vertices, np.array(sphere.faces, np.int64), colours=colours)
    preview = surface_preview(mesh, (vertices, np.abs(rng.normal(size=len(vertices)))), Budget.for_surfaces(30).faces)
    assert 30 * len(preview.data) < ALL_BYTES


@pytest.fixture
def quick(monkeypatch):
    """Empty drawings, for tests that are not about figures."""
    monkeypatch.setattr(figures, "draw", lambda paint, *, size, prefix, label: f'<svg id="{prefix}"></svg>')


def viewer_facts(page: str) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="scene-1-viewer">(.*?)</script>', page).group(1))


def test_viewer_gets_the_textured_mesh_and_the_scenes_cameras(tmp_path, quick):
    folder = make_run(tmp_path / "results")
    make_textured(folder)
    page = render_page(collect(tmp_path / "results", write_runs(tmp_path / "runs.json", ("demo", "ball", "neus"))))
    facts = viewer_facts(page)
    assert [(s["id"], s["look"], s["judged"]) for s in facts["surfaces"]] == [
        ("run-1-textured", "texture", True),
        ("run-1-tsdf", "shape", True),
    ]
    assert facts["up"] == [0, 0, 1] and "colours of eight photographs" in page
    scene = load_scene(folder.parent / "scene")
    for camera, view in zip(facts["cameras"], scene.views, strict=True):
        pose = np.array(camera["pose"]).reshape(4, 4).T @ OPENGL_TO_OPENCV  # camera -> unit, OpenCV axes
        [[x, y]], [depth] = project(view.K, np.linalg.inv(pose), np.array([[0.1, 0.2, -0.1]]))
        [[u, v]], [far] = project(view.K, view.w2c, scene.similarity.apply([[0.1, 0.2, -0.1]]))
        assert (x, y) == (pytest.approx(u, abs=0.01), pytest.approx(v, abs=0.01)) and far == pytest.approx(
            SCALE * depth, rel=1e-4
        )
        assert camera["fov"] == pytest.approx(np.degrees(2 * np.arctan(30 / 90)), abs=0.01)
        assert camera["heldOut"] == view.held_out


def test_a_textured_mesh_in_another_frame_is_a_warning_and_the_plain_one_is_shown(tmp_path, quick):
    folder = make_run(tmp_path / "results")
    make_textured(folder)
    write(folder / "texture" / "texture.json", {"frame": "gltf"})
    page = render_page(collect(tmp_path / "results", write_runs(tmp_path / "runs.json", ("demo", "ball", "neus"))))
    assert [s["id"] for s in viewer_facts(page)["surfaces"]] == ["run-1-mesh", "run-1-tsdf"]
    assert "world_to_file" in page


def test_a_textured_mesh_of_another_frame_comes_back_to_the_unit_frame(tmp_path):
    folder = make_run(tmp_path / "results")
    turn = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])  # z up to y up
    make_textured(folder, Similarity(0.001, turn, np.array([1.0, 2.0, 3.0])))
    [run] = collect(tmp_path / "results", write_runs(tmp_path / "runs.json", ("demo", "ball", "neus")))
    to_file = Similarity.from_dict(run.texture["world_to_file"]).compose(run.prepared.similarity)
    found = read_textured(run.textured, to_file)
    assert np.abs(np.linalg.norm(found.vertices, axis=1) - RADIUS).max() < 1e-3
    red = found.uv[:, 0] < 0.5
    assert (found.vertices[red, 2] > -0.1).all() and (found.vertices[~red, 2] < 0.1).all()


def test_methods_of_a_scene_share_one_section(tmp_path, quick):
    for method in ("one", "two"):
        make_run(tmp_path / "results", method=method)
    names = [("demo", "ball", method) for method in ("one", "two")]
    page = render_page(collect(tmp_path / "results", write_runs(tmp_path / "runs.json", *names)))
    assert page.count('<section class="scene"') == 1
    assert [s["label"] for s in viewer_facts(page)["surfaces"]] == ["one, mesh", "one, tsdf", "two, mesh", "two, tsdf"]
    assert "two: render" in page and page.count("one: normals") == 2
