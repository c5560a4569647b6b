"""Mesh pictures against exact answers, figures, and the choice of views."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import trimesh
from PIL import Image

from nsr.conventions import Similarity, project
from nsr.errors import DataError
from nsr.report import figures
from nsr.report.geometry import evaluated_samples, truth_frame, unit_mesh
from nsr.report.pictures import ALL_PICTURES, WIDTH, Sizes, depth_picture, encode, encode_file, mesh_pictures, most_bytes, spread
from nsr.report.preview import ALL_BYTES
from nsr.report.shade import BACK, FRONT, UNCOUNTED, Camera, cast, colour_stops, error_coloured, error_values, shaded
from tests.unit.look_at import look_at
from tests.unit.report_fixture import RADIUS, SCALE, SHIFT, make_scene

CAMERA = Camera(np.array([[90.0, 0, 40], [0, 90.0, 30], [0, 0, 1]]), look_at(np.array([2.5, 0.0, 0.8])), 80, 60)


@pytest.fixture(scope="module")
def sphere():
    return trimesh.creation.icosphere(subdivisions=5, radius=RADIUS)


@pytest.fixture(scope="module")
def hits(sphere):
    return cast(sphere.vertices, sphere.faces, CAMERA)


def decode(uri: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).convert("RGBA"))


def test_hits_agree_with_the_exact_sphere(hits):
    fine = CAMERA.resized(160)
    assert hits.hit.shape == (120, 160)
    radius = np.linalg.norm(hits.points[hits.hit], axis=1)
    assert np.abs(radius - RADIUS).max() < 1e-3
    pixels, depth = project(fine.K, CAMERA.w2c, hits.points[hits.hit])
    rows, columns = np.nonzero(hits.hit)
    assert np.abs(pixels - np.stack([columns, rows], axis=1) - 0.5).max() < 1e-2 and (depth > 0).all()
    centre = -CAMERA.w2c[:3, :3].T @ CAMERA.w2c[:3, 3]
    way = centre - hits.points[hits.hit]
    exact = np.einsum("ij,ij->i", hits.points[hits.hit] / RADIUS, way / np.linalg.norm(way, axis=1, keepdims=True))
    assert np.abs(hits.cosine[hits.hit] - exact).mean() < 0.01
    tangent = np.pi * (90 * 2) ** 2 * RADIUS**2 / (centre @ centre - RADIUS**2)  # disc seen by the fine camera, px
    assert hits.hit.sum() == pytest.approx(tangent, rel=0.01)


def test_shading_is_brightest_in_the_middle_and_transparent_outside(hits):
    picture = shaded(hits)
    assert picture.shape == (60, 80, 4) and picture.dtype == np.uint8
    assert (picture[0, 0, 3], picture[30, 40, 3]) == (0, 255)
    assert np.abs(picture[30, 40, :3] - 255 * np.array(FRONT)).max() < 4
    line = picture[30, :, :3].sum(axis=1).astype(int)[picture[30, :, 3] == 255]
    assert line.argmax() == pytest.approx(len(line) / 2, abs=3) and line[0] < 0.6 * line.max()
    edge = picture[..., 3][(picture[..., 3] > 0) & (picture[..., 3] < 255)]
    assert set(np.unique(edge)) <= {64, 128, 191} and len(edge)


def test_surface_turned_inside_out_has_the_other_hue(sphere):
    picture = shaded(cast(sphere.vertices, sphere.faces[:, ::-1], CAMERA))
    assert np.abs(picture[30, 40, :3] - 255 * np.array(BACK)).max() < 4


def test_errors_are_those_of_the_nearest_sample_and_uncounted_surface_is_grey(hits, sphere):
    points = trimesh.sample.sample_surface(sphere, 20000, seed=1)[0]
    counted = points[points[:, 2] > 0.0]
    values = error_values(hits, counted, counted[:, 2])
    seen = hits.points[..., 2]
    assert np.isnan(values[~hits.hit]).all()
    assert np.isnan(values[hits.hit & (seen < -0.1)]).all()
    upper = hits.hit & (seen > 0.05)
    assert np.abs(values[upper] - seen[upper]).max() < 0.03
    picture = error_coloured(hits, values, 0.5)
    lowest = np.argwhere(picture[..., 3] == 255)[-1]
    red, green, blue, _ = picture[tuple(lowest)].astype(int)
    assert max(red, green, blue) - min(red, green, blue) < 8  # grey
    assert np.ptp(np.array(UNCOUNTED)) < 0.05


def test_error_colours_run_along_the_scale(hits):
    for share, index in ((0.0, 0), (0.5, 4), (1.0, 8), (3.0, 8)):
        picture = error_coloured(hits, np.where(hits.hit, 2.0 * share, np.nan), 2.0)
        expected = [int(colour_stops()[index][i : i + 2], 16) for i in (1, 3, 5)]
        assert np.abs(picture[30, 40, :3].astype(int) - expected).max() < 5


def test_without_samples_nothing_is_counted(hits):
    assert np.isnan(error_values(hits, np.zeros((0, 3)), np.zeros(0))).all()
    assert np.isnan(error_values(hits, np.full((50, 3), 9.0) + np.arange(50)[:, None], np.zeros(50))).all()


def test_empty_view_is_fully_transparent(sphere):
    away = Camera(CAMERA.K, look_at(np.array([2.5, 0, 0.8])) @ np.diag([1.0, 1, 1, 1]), 80, 60)
    moved = cast(sphere.vertices + np.array([0, 50.0, 0]), sphere.faces, away)
    assert not moved.hit.any() and not shaded(moved).any()


def test_mesh_pictures_land_where_the_photo_has_the_object(tmp_path, sphere):
    scene = make_scene(tmp_path / "s", "demo/ball")
    world = trimesh.Trimesh(sphere.vertices * SCALE + SHIFT, sphere.faces, process=False)
    world.export(tmp_path / "m.ply")
    mesh = unit_mesh(tmp_path / "m.ply", scene.similarity)
    assert np.abs(mesh.vertices - sphere.vertices).max() < 1e-4
    [picture] = mesh_pictures(scene, scene.views[3], mesh, kind="mesh", evaluated=None, largest=2.0)
    alpha = decode(picture.uri)[..., 3]
    rows, columns = np.nonzero(alpha > 128)
    [[x, y]], _ = project(scene.views[3].K, scene.views[3].w2c, SHIFT[None])
    assert abs(columns.mean() + 0.5 - x) < 0.5 and abs(rows.mean() + 0.5 - y) < 0.5


def test_camera_resizing_keeps_rays():
    point = np.array([[0.1, -0.2, 0.3]])
    small = CAMERA.resized(40)
    assert (small.width, small.height) == (40, 30)
    assert np.allclose(project(small.K, small.w2c, point)[0] * 2, project(CAMERA.K, CAMERA.w2c, point)[0])


def test_samples_that_are_none_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", other=np.zeros(3))
    with pytest.raises(DataError, match=r"a\.npz"):
        evaluated_samples(tmp_path / "a.npz", "prediction", Similarity.identity())


def test_aligned_ground_truth_is_brought_to_the_unit_frame():
    turn = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    to_world, to_truth = Similarity(SCALE, np.eye(3), SHIFT), Similarity(0.25, turn, np.array([1.0, 2, 3]))
    evaluation = {"alignment": {"kind": "similarity-from-cameras", "rms": 0.0, **to_truth.to_dict()}}
    points = np.random.default_rng(0).normal(size=(10, 3))
    there = to_truth.apply(to_world.apply(points))
    assert np.allclose(truth_frame(evaluation, to_world).inverse().apply(there), points)
    assert truth_frame({"alignment": {"kind": "none", "scale": 1.0}}, to_world) is to_world
    with pytest.raises(DataError, match="similarity-from-cameras"):
        truth_frame({"alignment": {"kind": "similarity-from-cameras"}}, to_world)


def test_slab_keeps_only_points_near_the_cut():
    points = np.random.default_rng(0).uniform(-1, 1, (200000, 3))
    near = figures.slab(points, np.eye(3)[[2, 0, 1]], 0)
    exact = points[np.abs(points[:, 2]) <= figures.SLAB][:, :2]
    assert 0 < len(near) <= figures.MAX_SLAB_POINTS < len(exact)
    assert set(map(tuple, near)) <= set(map(tuple, exact))


def test_wide_pictures_shrink_and_depth_is_transparent_where_nothing_is():
    wide = encode(np.zeros((500, 1000, 3), np.uint8), "c", "a")
    assert (wide.width, wide.height) == (WIDTH, WIDTH // 2) and decode(wide.uri).shape == (WIDTH // 2, WIDTH, 4)
    depth = np.zeros((20, 30))
    depth[5:10, 5:10] = np.linspace(1, 2, 5)
    assert (decode(depth_picture(depth, "v", "mm").uri)[..., 3] > 0).sum() == 25
    assert depth_picture(np.zeros((4, 4)), "v", "mm").caption == "depth: nothing hit"


def test_spread_takes_views_from_all_parts(tmp_path):
    views = make_scene(tmp_path / "s", "a/b").views
    assert [view.name for view in spread(views, 2)] == ["0002", "0006"]
    assert spread(views[:2], 3) == list(views[:2])


def test_up_is_found_from_cameras_and_from_their_spread(tmp_path):
    scene = make_scene(tmp_path / "s", "a/b")
    w2c = scene.unit_w2c(scene.views)
    frame, source = figures.scene_axes(w2c)
    assert np.allclose(frame @ frame.T, np.eye(3)) and np.linalg.det(frame) == pytest.approx(1)
    assert np.allclose(frame[2], [0, 0, 1], atol=1e-6) and "mean up" in source
    turned = w2c.copy()
    turned[::2, :2] *= -1  # every second camera upside down
    frame, source = figures.scene_axes(turned)
    assert abs(frame[2, 2]) == pytest.approx(1, abs=1e-6) and "spread least" in source


def test_samples_are_brought_to_the_unit_frame(tmp_path):
    to_world = Similarity(SCALE, np.eye(3), SHIFT)
    points = np.random.default_rng(0).normal(size=(10, 3))
    arrays = {
        "points": to_world.apply(points),
        "errors": np.arange(10.0),
        "truth_points": SHIFT[None],
        "truth_errors": np.ones(1),
    }
    np.savez(tmp_path / "a.npz", **arrays)
    back, errors = evaluated_samples(tmp_path / "a.npz", "prediction", to_world)
    assert np.allclose(back, points) and errors.tolist() == list(range(10))
    assert np.allclose(evaluated_samples(tmp_path / "a.npz", "truth", to_world)[0], 0.0)


def test_section_of_an_open_surface_is_not_lost():
    sphere = trimesh.creation.icosphere(subdivisions=4, radius=RADIUS)
    bowl = sphere.faces[(sphere.triangles_center[:, 2] < 0.1)]
    lines = figures.section(sphere.vertices, bowl, np.eye(3), 1)
    length = sum(np.linalg.norm(np.diff(line, axis=0), axis=1).sum() for line in lines)
    assert length == pytest.approx(RADIUS * (np.pi + 2 * np.arcsin(0.1 / RADIUS)), rel=0.03)


def test_section_of_a_sphere_is_its_circle(sphere):
    lines = figures.section(sphere.vertices + [0, 0, 0.2], sphere.faces, np.eye(3), 2)
    radius = np.linalg.norm(np.concatenate(lines), axis=1)
    assert radius == pytest.approx(np.sqrt(RADIUS**2 - 0.2**2), abs=1e-3)
    assert figures.section(sphere.vertices + [0, 0, 2.0], sphere.faces, np.eye(3), 2) == []


def test_figures_are_xml_without_fixed_colours_or_addresses(sphere):
    rows = [{"step": s, "psnr": 10.0 + s, "loss": 1.0 / (s + 1), "eikonal": float("nan")} for s in range(0, 2000, 2)]
    made = figures.curves({"a": rows}, "run-1")
    assert len(made) == 2  # sharpness is not in the log, eikonal is never finite
    circle = figures.section(sphere.vertices, sphere.faces, np.eye(3), 2)
    made.append(figures.cross_section(circle, [], title="Cut", prefix="c"))
    made.append(figures.cross_section([], [], title="Cut", prefix="d"))
    made.append(figures.error_scale(2.0, "percent", "e"))
    for text in made:
        root = ElementTree.fromstring(text)
        assert root.tag.endswith("svg") and "width" not in root.attrib and root.attrib["role"] == "img"
        assert "currentColor" in text and figures.INK not in text
        assert not re.search(r"https?://(?!www\.w3\.org/)", text)
    assert "no ground truth" in made[2] and "misses" in made[3]
    assert "last value 2008 at step 1998" in made[0]
    assert figures.curves({"a": []}, "x") == [] and len(figures.curves({"a": rows[:1]}, "x")) == 2
    [both, _] = figures.curves({"a": rows, "b": rows[:500]}, "x")
    assert "2008 at step 1998; 1008 at step 998" in both
    assert all(figures.method_colour(index) in both for index in (0, 1))


def test_every_field_of_a_model_has_a_curve_of_its_own_steps():
    steps = [(0, 10), (0, 20), (1, 30), (1, 40)]  # as a log of two fields of 20 steps counts them
    rows = [{"step": step, "member": member, "psnr": 20.0 + member} for member, step in steps]
    [text] = figures.curves({"a": rows}, "x")
    assert "last value 20 at step 20; 21 at step 20" in text
    [alone] = figures.curves({"a": rows[:2]}, "x")
    assert 'last value 20 at step 20"' in alone


def test_the_template_travels_with_the_package():
    from importlib import resources

    import nsr.report

    assert resources.files(nsr.report).joinpath("template.html").is_file()
    assert (Path(nsr.report.__file__).parent / "template.html").is_file()


def test_pictures_of_many_scenes_and_methods_stay_within_the_pages_budget():
    assert Sizes.for_page(2, 2) == Sizes()
    for scenes, methods in ((15, 1), (15, 3), (6, 10)):
        sizes = Sizes.for_page(scenes, scenes * methods)
        assert sizes.bytes(scenes, scenes * methods) <= ALL_PICTURES
        assert sizes.compared >= 250 and sizes.thumbs >= 6
    # Scripts, and curves, cuts and facts of each run (the demo's: 130 kB) have room, too.
    assert ALL_BYTES + ALL_PICTURES + 600_000 + 15 * 3 * 140_000 < 40_000_000
    widths = [Sizes.for_page(15, 15 * methods).compared for methods in (1, 2, 3, 10)]
    assert widths == sorted(widths, reverse=True)


def test_no_picture_takes_more_than_its_share(tmp_path):
    """Noise is what compresses worst; the picture keeps its place on the page."""
    noise = np.random.default_rng(0).integers(0, 255, (480, 640, 3)).astype(np.uint8)
    for width in (640, 420, 200):
        picture = encode(noise, "c", "a", width)
        assert len(picture.uri) <= most_bytes(width) and (picture.width, picture.height) == (width, round(width * 0.75))
    Image.fromarray(noise).save(tmp_path / "noise.png")
    assert len(encode_file(tmp_path / "noise.png", "c", "a", 128, 2_000).uri) <= 2_000
