"""Preflight: a good scene raises no alarm, each fault that was put in is named, geometry agrees with direct computation."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from nsr.config import PrepareConfig
from nsr.conventions import Similarity, camera_centres, pixel_rays
from nsr.data.raw import Points
from nsr.errors import DataError
from nsr.preflight.cost import GPU_START, costs, photographs_gb
from nsr.preflight.finding import worst
from nsr.preflight.geometry import ball_outline, in_ball, roll_angles, sphere_directions, times_seen
from nsr.preflight.page import scene_page
from nsr.preflight.photos import measure_photos
from nsr.preflight.stage import FACTS, PAGE, judge_scene, preflight_index, preflight_stage
from nsr.scene.prepare import prepare, read_source
from nsr.scene.scene import Scene, View, save_scene
from tests.source_tree import ROOT
from tests.unit.look_at import look_at
from tests.unit.training_scene import FREQUENCY, RADIUS, sphere_scene

METHODS = {"nsr": {"steps": 20000, "samples": 1 << 18}}


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """The example spot at a third of its size."""
    root = tmp_path_factory.mktemp("preflight") / "scene"
    return prepare(read_source("neus", ROOT / "examples/spot"), root, name="examples/spot", settings=PrepareConfig(max_size=200))


def bad(scene: Scene, check: str) -> list[str]:
    """Levels and texts of the findings of a check that are not "ok"."""
    found = judge_scene(scene, methods=METHODS).findings
    return [f"{finding.level}: {finding.text}" for finding in found if finding.check == check and finding.level != "ok"]


def with_image(scene: Scene, folder: Path, index: int, change: Callable[[Image.Image], Image.Image]) -> Scene:
    """The scene with one photograph changed."""
    view = scene.views[index]
    with Image.open(view.image) as image:
        change(image.convert("RGB")).save(folder / "changed.png")
    return with_views(scene, {index: replace(view, image=folder / "changed.png")})


def with_views(scene: Scene, changed: dict[int, View]) -> Scene:
    return replace(scene, views=tuple(changed.get(index, view) for index, view in enumerate(scene.views)))


def inverted(view: View, folder: Path) -> View:
    """The view with its mask inverted."""
    assert view.mask is not None
    pixels = np.asarray(Image.open(view.mask))
    Image.fromarray(np.where(pixels == 255, 0, 255).astype(np.uint8)).save(folder / f"{view.name}.png")
    return replace(view, mask=folder / f"{view.name}.png")


def test_a_good_scene_raises_no_alarm(good: Scene) -> None:
    found = judge_scene(good, methods=METHODS)
    # At a third of the size the region may be called small, which it is.
    assert {finding.check for finding in found.findings if finding.level != "ok"} <= {"size"}
    assert worst([]) == "ok"


def test_inverted_masks(good: Scene, tmp_path: Path) -> None:
    every = with_views(good, {index: inverted(view, tmp_path) for index, view in enumerate(good.views)})
    (text,) = bad(every, "masks")
    assert text.startswith("stop: inverted") and "30 of 30" in text
    one = with_views(good, {4: every.views[4]})
    (text,) = bad(one, "masks")
    assert text == f"warning: inverted, background is object: {good.views[4].name} (1 of 30 masks)"
    assert good.views[4].name in bad(one, "silhouettes")[0]


def test_a_pose_that_is_flipped_or_wrong(good: Scene) -> None:
    view = good.views[3]
    back = np.diag([-1.0, 1, -1, 1]) @ view.w2c  # looks the other way
    (text,) = bad(with_views(good, {3: replace(view, w2c=back)}), "poses")
    assert text.startswith("stop") and view.name in text
    down = np.diag([-1.0, -1, 1, 1]) @ view.w2c  # upside down
    (text,) = bad(with_views(good, {3: replace(view, w2c=down)}), "poses")
    assert text == f"warning: {view.name}: upside down against the other cameras"
    aside = view.w2c.copy()
    aside[0, 3] += 1.0  # the object is a ball's radius away from where its mask shows it
    (text,) = bad(with_views(good, {3: replace(view, w2c=aside)}), "silhouettes")
    assert text.startswith(f"warning: {view.name}: the mask does not show")


def test_a_region_far_off_the_object(good: Scene) -> None:
    ball = good.similarity
    for shift, level in ((2.0, "warning"), (6.0, "stop")):
        moved = replace(good, similarity=Similarity(ball.scale, ball.R, ball.t + [shift, 0, 0]))
        assert any(text.startswith(level) for text in bad(moved, "region")), bad(moved, "region")
    small = replace(good, similarity=Similarity(ball.scale / 4, ball.R, ball.t))
    assert "of the object lies within the region" in bad(small, "region")[0]


def test_cameras_on_one_side_and_too_few(good: Scene) -> None:
    narrow = [replace(view, name=f"{index}", w2c=turned(good, 2.0 * index)) for index, view in enumerate(good.views[:20])]
    one = replace(good, views=tuple(replace(view, mask=None) for view in narrow))
    assert "it is seen from one side" in bad(one, "spread")[0]
    assert bad(one, "coverage")[0].startswith("warning")
    assert bad(replace(good, views=good.views[:5]), "number of views")[0].startswith("stop: 5 photographs")


def turned(scene: Scene, degrees: float) -> np.ndarray:
    """The first camera turned around the region's vertical axis."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    turn = np.eye(4)
    turn[:3, :3] = [[c, -s, 0], [s, c, 0], [0, 0, 1]]
    turn[:3, 3] = scene.similarity.t - turn[:3, :3] @ scene.similarity.t
    return np.asarray(scene.views[0].w2c @ turn)


def test_photographs_that_are_doubled_blurred_or_dark(good: Scene, tmp_path: Path) -> None:
    twice = with_views(good, {7: replace(good.views[7], image=good.views[20].image)})
    (text,) = bad(twice, "doubles")
    assert f"{good.views[7].name} and {good.views[20].name}, but their poses differ" in text
    same = replace(good, views=(*good.views, replace(good.views[2], name="copy")))
    texts = bad(same, "doubles")
    assert texts == [f"warning: the same photograph twice: {good.views[2].name} and copy"]
    blurred = with_image(good, tmp_path, 5, lambda image: image.filter(ImageFilter.GaussianBlur(4)))
    assert bad(blurred, "blur") == [f"warning: blurred against their neighbours: {good.views[5].name}"]
    dark = with_image(good, tmp_path, 9, lambda image: image.point(lambda value: value // 3))
    assert bad(dark, "exposure")[0].startswith(f"warning: {good.views[9].name}:")


def test_two_photographs_under_one_pose(good: Scene) -> None:
    views = good.views
    wrong = with_views(good, {3: replace(views[3], w2c=views[13].w2c)})
    text = f"warning: same camera pose, but the photographs differ: {views[3].name} and {views[13].name}"
    assert text in bad(wrong, "poses")
    assert bad(wrong, "doubles") == []
    # Where the photographs were taken does not depend on the region.
    small = replace(wrong, similarity=Similarity(good.similarity.scale / 20, good.similarity.R, good.similarity.t))
    assert text in bad(small, "poses")


def test_photographs_that_structure_from_motion_left_out(good: Scene) -> None:
    health = {"health": {"photos": 40, "registered": 30}, "unregistered": ["a.jpg", "b.jpg"]}
    found = judge_scene(good, methods=METHODS, health=health).findings[0]
    assert found.level == "warning" and found.text == "30 of 40 photographs registered; without a pose: a.jpg, b.jpg"


@pytest.fixture()
def pointed(tmp_path: Path) -> Scene:
    """Painted spheres without masks, with sparse points on them in their colours and tracks of the cameras that face them."""
    scene = sphere_scene(tmp_path / "pointed", masks=False)
    unit = sphere_directions(400) * RADIUS
    centres = camera_centres(scene.unit_w2c(scene.views))
    faces = ((centres[None] - unit[:, None]) * unit[:, None]).sum(axis=2) > 0.5 * RADIUS
    offsets = np.cumsum([0, *faces.sum(axis=1)])
    colours = np.rint(255 * (0.5 + 0.4 * np.sin(FREQUENCY * unit))).astype(np.uint8)
    xyz = scene.similarity.apply(unit)
    points = Points(xyz, colours, np.full(400, 0.3), offsets, np.nonzero(faces)[1].astype(np.int32))
    return replace(scene, points=points, region_source="points")


def test_sparse_points_against_photographs(pointed: Scene) -> None:
    assert bad(pointed, "poses") == []
    agree = [item.points_agree for item in measure_photos(pointed)[0]]
    assert min(agree) > 0.8
    for degrees in (6.0, 25.0):
        off = with_views(pointed, {5: replace(pointed.views[5], w2c=turned_camera(degrees) @ pointed.views[5].w2c)})
        (text,) = bad(off, "poses")
        assert text.startswith(f"warning: {pointed.views[5].name}: the sparse points do not match") and text.endswith("(1 of 12)")
    swapped = with_views(pointed, {2: replace(pointed.views[2], image=pointed.views[7].image)})
    assert any(pointed.views[2].name in text and "sparse points" in text for text in bad(swapped, "poses"))
    every = tuple(replace(view, image=pointed.views[index - 4].image) for index, view in enumerate(pointed.views))
    assert bad(replace(pointed, views=every), "poses")[-1].startswith("stop: ")
    grey = replace(pointed, points=replace(pointed.points, rgb=np.full((400, 3), 90, np.uint8)))
    assert bad(with_views(grey, {5: off.views[5]}), "poses") == [], "a model without colours says nothing"


def turned_camera(degrees: float) -> np.ndarray:
    """A turn about the camera's y axis."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[c, 0, s, 0], [0, 1, 0, 0], [-s, 0, c, 0], [0, 0, 0, 1]])


def test_a_region_far_too_large_or_small(good: Scene, pointed: Scene) -> None:
    def sized(scene: Scene, factor: float) -> Scene:
        ball = scene.similarity
        return replace(scene, similarity=Similarity(ball.scale * factor, ball.R, ball.t), region_source="manifest")

    found = judge_scene(sized(good, 5), methods=METHODS).findings
    (text,) = [finding.text for finding in found if finding.level == "stop"]
    assert text == "30 of 30 cameras stand within the region"
    assert not {"coverage", "silhouettes", "blur", "exposure"} & {finding.check for finding in found}, (
        "nothing was measured in it"
    )
    assert "of the region across" in bad(sized(good, 2.5), "region")[0]
    assert bad(pointed, "region") == []
    # The ball of the points has radius 0.6; 3.5 times is 2.1, within the cameras' 2.4.
    (text,) = bad(sized(pointed, 2.1), "region")
    assert "3.5 times that of the sparse points" in text
    small = sized(pointed, 0.19)
    on_surface = pointed.similarity.apply(np.array([[0.0, 0.0, RADIUS]]))[0]
    moved = replace(small, similarity=Similarity(small.similarity.scale, small.similarity.R, on_surface))
    assert any("0.31 times that of the sparse points" in text for text in bad(moved, "region")), bad(moved, "region")


def test_a_black_backdrop_is_no_exposure_fault(good: Scene, tmp_path: Path) -> None:
    def backdrop(view: View, dim: int) -> View:
        image = np.asarray(Image.open(view.image).convert("RGB")) // dim
        pixels = np.where(np.asarray(Image.open(view.mask))[..., None] == 255, image, 2)
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / f"{view.name}-{dim}.png")
        return replace(view, image=tmp_path / f"{view.name}-{dim}.png", mask=None)

    lit = replace(good, views=tuple(backdrop(view, 1) for view in good.views))
    assert bad(lit, "exposure") == []
    dark = replace(good, views=tuple(backdrop(view, 80) for view in good.views))
    assert any("black or white" in text for text in bad(dark, "exposure"))


def test_outline_and_pixels_of_the_ball_agree_with_rays() -> None:
    K = np.array([[90.0, 0, 31], [0, 95.0, 26], [0, 0, 1]])
    w2c = look_at(np.array([2.0, -1.5, 1.0]), np.array([0.1, 0.2, 0.0]))
    outline = ball_outline(K, w2c)
    assert outline is not None
    origin, direction = pixel_rays(K, w2c, outline)
    nearest = origin - (origin * direction).sum(axis=1, keepdims=True) * direction
    np.testing.assert_allclose(np.linalg.norm(nearest, axis=1), 1.0, atol=1e-9)
    view = View("a", Path("a"), None, 64, 48, K, w2c)
    y, x = np.mgrid[0:48, 0:64] + 0.5
    origin, direction = pixel_rays(K, w2c, np.stack([x, y], axis=-1).reshape(-1, 2))
    along = -(origin * direction).sum(axis=1, keepdims=True)
    expected = (np.linalg.norm(origin + along * direction, axis=1) <= 1).reshape(48, 64)
    assert np.array_equal(in_ball(view, w2c, (48, 64)), expected)
    assert ball_outline(K, look_at(np.array([0.5, 0.0, 0.0]), np.zeros(3))) is None


def test_one_camera_covers_the_side_it_looks_at() -> None:
    directions = sphere_directions(4000)
    np.testing.assert_allclose(np.linalg.norm(directions, axis=1), 1.0)
    np.testing.assert_allclose(directions.mean(axis=0), 0, atol=1e-3)
    view = View("a", Path("a"), None, 200, 200, np.array([[100.0, 0, 100], [0, 100, 100], [0, 0, 1]]), np.eye(4))
    w2c = look_at(np.array([1e4, 0.0, 0.0]), np.zeros(3))
    seen = times_seen(directions, [view], w2c[None])
    assert seen.mean() == pytest.approx((1 - np.cos(np.radians(75))) / 2, abs=2e-3)
    assert seen[directions[:, 0] > 0.3].all() and not seen[directions[:, 0] < 0.2].any()


def test_roll_has_no_meaning_where_the_cameras_share_no_up() -> None:
    ring = np.stack([look_at(4 * np.array([np.cos(a), np.sin(a), 0.4]), np.zeros(3)) for a in np.linspace(0, 6, 12)])
    np.testing.assert_allclose(roll_angles(ring), 0.0, atol=1.0)
    quarter = np.array([[0.0, 1, 0, 0], [-1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    assert roll_angles(quarter @ ring[:9]) is None, "ups all around, with a mean where the ring has a gap"
    ring[::2] = np.diag([-1.0, -1, 1, 1]) @ ring[::2]
    assert roll_angles(ring) is None


def test_costs_follow_steps_samples_and_pixels(good: Scene) -> None:
    (base,) = costs(good.views, METHODS)
    (twice,) = costs(good.views, {"nsr": {"steps": 40000, "samples": 1 << 18}})
    assert twice.gpu_s - base.gpu_s == pytest.approx(20000 * 1.81e-3) and twice.cpu_s == pytest.approx(2 * base.cpu_s)
    (grey,) = costs(good.views, {"nsr": {**METHODS["nsr"], "patches": True}})
    assert grey.gpu_gb is not None and base.gpu_gb is not None
    assert grey.gpu_gb - base.gpu_gb == pytest.approx(30 * 200 * 150 * 2 / 1e9)
    slow, demo = costs(
        good.views, {"neuralangelo": {"steps": 1000, "samples": 1 << 17}, "nsr-demo": {"steps": 100, "samples": 8192}}
    )
    assert slow.gpu_s - GPU_START == pytest.approx(33.9) and slow.cpu_s is None and slow.gpu_gb is None
    assert demo.cpu_s == pytest.approx(4.1)
    assert photographs_gb(good.views) == pytest.approx(30 * 200 * 150 * 4 / 1e9)


def test_stage_and_index(good: Scene, tmp_path: Path) -> None:
    save_scene(good)
    out = tmp_path / "examples/spot/preflight"
    facts = preflight_stage(good.root, out, methods=METHODS)
    assert json.loads((out / FACTS).read_text()) == facts
    page = (out / PAGE).read_text()
    assert page.count("<img ") == 6 and "<script" not in page and "<svg" in page
    assert "Blue: edge" in page
    plain = replace(good, views=tuple(replace(view, mask=None) for view in good.views), region_source="cameras")
    wide = replace(plain, similarity=Similarity(1.9 * good.similarity.scale, good.similarity.R, good.similarity.t))
    text = scene_page(judge_scene(wide, methods={"neuralangelo": {"steps": 20000, "samples": 1 << 17}}))
    assert "Blue: edge" not in text and ": the outline lies outside" in text and "a guess: compare the outline" in text
    assert "12 min" in text
    evil = replace(good, name="<b>x</b>", notes=("<script>alert(1)</script>",))
    save_scene(evil)
    preflight_stage(good.root, tmp_path / "evil", methods=METHODS)
    text = (tmp_path / "evil" / PAGE).read_text()
    assert "<b>x" not in text and "<script" not in text
    save_scene(good)
    runs = tmp_path / "runs.json"
    runs.write_text(json.dumps({"results": tmp_path.as_posix(), "methods": ["nsr", "other"], "scenes": ["examples/spot"]}))
    counts = preflight_index(runs, tmp_path / "report/preflight.html")
    assert sum(counts.values()) == 1
    assert 'href="../examples/spot/preflight/index.html"' in (tmp_path / "report/preflight.html").read_text()
    for content in ("[", '{"scenes": 3}', "[3]"):
        runs.write_text(content)
        with pytest.raises(DataError, match="runs.json"):
            preflight_index(runs, tmp_path / "report/preflight.html")
