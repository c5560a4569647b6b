"""Preparation end to end: what it writes, and every bad input with nothing left behind."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nsr.config import PrepareConfig
from nsr.conventions import Similarity, project
from nsr.data.raw import Points, RawCamera, RawScene
from nsr.errors import ConfigError, DataError
from nsr.scene.images import load_view_images, load_view_masks
from nsr.scene.prepare import prepare, read_source
from nsr.scene.scene import load_scene
from tests.source_tree import child_environment
from tests.unit import dataset_writers as writers
from tests.unit.scene_builders import HEIGHT, WIDTH, around, edited, make_view, write_source

CENTRE, RADIUS = np.array([0.5, -1.0, 2.0]), 1.0
VIEWS = [make_view(f"v{i:02d}", pose) for i, pose in enumerate(around(CENTRE, 4.0, 10))]
STATED = Similarity(1.2, np.eye(3), CENTRE)
ROOT = Path(__file__).parents[2]


@pytest.fixture()
def raw(tmp_path) -> RawScene:
    return replace(write_source(tmp_path / "source", VIEWS, CENTRE, RADIUS), region=STATED)


def build(raw, tmp_path, region=None, **settings):
    return prepare(raw, tmp_path / "out" / "scene", name="d/s", settings=PrepareConfig(**settings), region=region, threads=2)


def refuse(raw, tmp_path, match, kind=DataError, **options):
    """Preparation fails with this message and leaves nothing behind."""
    with pytest.raises(kind, match=match) as caught:
        build(raw, tmp_path, **options)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists() or list((tmp_path / "out").iterdir()) == []


def test_unchanged_photos_are_copied_byte_for_byte(raw, tmp_path):
    scene = build(raw, tmp_path)
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["scene"]
    for before, after in zip(raw.views, scene.views, strict=True):
        assert after.image.read_bytes() == before.image.read_bytes()
        assert after.image == tmp_path / "out" / "scene" / "images" / before.image.name
        np.testing.assert_allclose(after.K, before.camera.K, rtol=1e-15)
        assert np.array_equal(after.w2c, before.w2c)
        assert np.array_equal(load_view_masks([after])[0], np.asarray(Image.open(before.mask)))
    assert scene.has_masks and scene.region_source == "format" and scene.similarity.scale == 1.2
    assert scene.name == "d/s" and scene.notes == ()


def test_split(raw, tmp_path):
    assert [v.name for v in build(raw, tmp_path).split("held_out")] == ["v00", "v08"]
    assert len(build(raw, tmp_path).split("train")) == 8
    assert [v.name for v in build(raw, tmp_path, holdout_every=3).split("held_out")] == ["v00", "v03", "v06", "v09"]
    assert build(raw, tmp_path, holdout_every=0).split("held_out") == ()
    assert len(build(raw, tmp_path).split("all")) == 10


def test_holding_out_every_view_is_refused(raw, tmp_path):
    refuse(raw, tmp_path, r"holdout_every: 1 holds out all 10 views; choose", kind=ConfigError, holdout_every=1)


def test_region_from_the_masks_agrees_with_the_one_the_source_states(raw, tmp_path):
    scene = build(raw, tmp_path, region="masks", region_margin=1.0)
    assert scene.region_source == "masks"
    assert np.linalg.norm(scene.similarity.t - CENTRE) < 0.03
    assert scene.similarity.scale == pytest.approx(RADIUS, rel=0.1)


def test_mesh_of_the_unit_frame_lands_on_the_photos_in_the_world(raw, tmp_path):
    scene = build(raw, tmp_path, region="0.4,-0.9,2.1,1.3", max_size=48)
    assert scene.region_source == "manifest"
    vertices = np.random.default_rng(0).uniform(-0.6, 0.6, (200, 3))
    unit = scene.unit_w2c(scene.views)
    for index, (view, before) in enumerate(zip(scene.views, raw.views, strict=True)):
        inside, _ = project(view.K, unit[index], vertices)
        world = load_scene(scene.root).similarity.apply(vertices)
        outside, _ = project(view.K, view.w2c, world)
        np.testing.assert_allclose(inside, outside, atol=1e-5)
        # And in the photo as it came, at its own size.
        source, _ = project(before.camera.K, before.w2c, world)
        np.testing.assert_allclose(source * view.width / before.camera.width, outside, atol=1e-5)


def test_resized_scene(raw, tmp_path):
    scene = build(raw, tmp_path, max_size=48)
    view = scene.views[0]
    assert (view.width, view.height) == (48, 36)
    assert load_view_images([view])[0].shape == (36, 48, 3)
    mask = load_view_masks([view])[0]
    assert set(np.unique(mask)) == {0, 255}
    np.testing.assert_allclose(view.K, np.diag([0.5, 0.5, 1]) @ raw.views[0].camera.K)


def test_distorted_photos_become_pinhole_photos(raw, tmp_path):
    camera = RawCamera(WIDTH, HEIGHT, model="SIMPLE_RADIAL", params=(90.0, 48.0, 36.0, -0.1))
    for index in range(len(raw.views)):
        raw = edited(raw, index, camera=camera)
    scene = build(raw, tmp_path)
    images, masks = load_view_images(scene.views), load_view_masks(scene.views)
    assert all(image.shape[:2] == mask.shape for image, mask in zip(images, masks, strict=True))
    assert scene.views[0].image.suffix == ".png"
    assert scene.views[0].K[0, 0] == pytest.approx(90.0)
    # The ball was painted in one colour: mask and photo moved together.
    red = np.abs(images[3].astype(int) - (200, 30, 40)).sum(-1) < 60
    assert (red & (masks[3] == 255)).sum() > 0.9 * (masks[3] == 255).sum()


def test_alpha_becomes_mask_over_the_chosen_grey(raw, tmp_path):
    for index, view in enumerate(raw.views):
        rgb, mask = np.asarray(Image.open(view.image)), np.asarray(Image.open(view.mask))
        rgba = np.concatenate([rgb, mask[..., None]], axis=2)
        rgba[0, 0] = (200, 100, 0, 51)
        path = view.image.with_suffix(".png")
        Image.fromarray(rgba).save(path)
        raw = edited(raw, index, image=path, mask=None, alpha_mask=True)
    view = build(raw, tmp_path, alpha_background=0.5).views[4]
    image, mask = load_view_images([view])[0], load_view_masks([view])[0]
    source = np.asarray(Image.open(raw.views[4].image))
    opaque = source[..., 3] == 255
    assert np.array_equal(image[opaque], source[..., :3][opaque])
    assert np.array_equal(mask == 255, opaque)
    assert np.abs(image[source[..., 3] == 0].astype(int) - 127.5).max() <= 0.5
    np.testing.assert_allclose(image[0, 0], np.array([200, 100, 0]) * 0.2 + 127.5 * 0.8, atol=0.5)


def test_points_units_and_notes_are_kept(raw, tmp_path):
    points = Points(
        np.arange(6.0).reshape(2, 3),
        np.full((2, 3), 9, np.uint8),
        np.array([0.5, np.nan]),
        np.array([0, 2, 3]),
        np.array([0, 9, 4], np.int32),
    )
    K = raw.views[2].camera.K + np.array([[0, 0.7, 0], [0, 0, 0], [0, 0, 0]])
    raw = edited(raw, 2, camera=RawCamera(WIDTH, HEIGHT, K))
    raw = edited(raw, 5, mask=None)
    scene = build(replace(raw, points=points, unit="mm", skipped=("x.jpg: no pose",)), tmp_path)
    assert scene.unit == "mm" and scene.points is not None
    for key, value in vars(points).items():
        np.testing.assert_array_equal(getattr(scene.points, key), value)
    assert scene.notes[0] == "x.jpg: no pose"
    assert any("v02.jpg: pixels are skewed (0.7 px)" in note for note in scene.notes)
    assert any("1 of 10 views have no mask (first: v05)" in note for note in scene.notes)
    assert not scene.has_masks


def test_an_earlier_scene_is_replaced_and_another_folder_is_not(raw, tmp_path):
    build(raw, tmp_path)
    again = build(replace(raw, views=raw.views[:4]), tmp_path)
    assert len(again.views) == 4
    assert len(list((again.root / "images").iterdir())) == 4
    # Snakemake removes the output that it knows, scene.json, before it runs the rule again.
    (again.root / "scene.json").unlink()
    assert len(build(raw, tmp_path).views) == 10
    (again.root / "thesis.txt").write_text("unsaved elsewhere")
    with pytest.raises(DataError, match=r"scene: exists and holds 'thesis.txt', .*; remove it or choose another --out"):
        build(raw, tmp_path)
    assert (again.root / "thesis.txt").exists() and len(list((again.root / "images").iterdir())) == 10


def test_failure_keeps_the_earlier_scene(raw, tmp_path):
    earlier = build(raw, tmp_path)
    with pytest.raises(DataError):
        build(edited(raw, 3, w2c=np.full((4, 4), np.nan)), tmp_path)
    assert len(load_scene(earlier.root).views) == 10


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_truncated_photo(raw, tmp_path):
    cut(raw.views[3].image)
    refuse(raw, tmp_path, r"v03\.jpg: unreadable or truncated image .*copy the file again")


def test_truncated_mask(raw, tmp_path):
    cut(raw.views[3].mask)
    refuse(raw, tmp_path, r"v03\.png: unreadable or truncated image .*copy the file again")


def test_mask_of_another_size(raw, tmp_path):
    Image.new("L", (50, 40)).save(raw.views[6].mask)
    refuse(raw, tmp_path, r"v06\.png: the mask is 50x40, its photo 96x72; make the masks again")


def test_photo_of_another_size_and_turned_photo(raw, tmp_path):
    Image.new("RGB", (50, 40)).save(raw.views[1].image)
    refuse(raw, tmp_path, r"v01\.jpg: the photo is 50x40, its camera 96x72; use the photos")
    Image.new("RGB", (HEIGHT, WIDTH)).save(raw.views[1].image)
    refuse(raw, tmp_path, r"v01\.jpg: .*it is turned: remove its EXIF rotation")


def test_inverted_masks(raw, tmp_path):
    for view in raw.views:
        Image.fromarray(255 - np.asarray(Image.open(view.mask))).save(view.mask)
    refuse(raw, tmp_path, r"v00\.png: mask looks inverted.*10 of 10; .*invert the masks")


def test_no_masks_where_the_region_needs_them(raw, tmp_path):
    bare = replace(raw, views=tuple(replace(view, mask=None) for view in raw.views))
    refuse(bare, tmp_path, r"region 'masks': the source has no masks; choose another region", region="masks")
    assert not build(bare, tmp_path).has_masks
    assert not (tmp_path / "out" / "scene" / "masks").exists()


def test_camera_that_looks_away(raw, tmp_path):
    turned = np.diag([-1.0, 1.0, -1.0, 1.0]) @ raw.views[7].w2c
    refuse(edited(raw, 7, w2c=turned), tmp_path, r"'v07': the camera looks away from the region of interest; fix its pose")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"w2c": np.full((4, 4), np.nan)}, r"v04\.jpg: pose holds NaN or infinity; leave the photo out"),
        ({"w2c": np.eye(4)[:3]}, r"v04\.jpg: pose is a matrix of shape \(3, 4\), \(4, 4\) is needed"),
        ({"w2c": np.diag([2.0, 2, 2, 1])}, r"v04\.jpg: its pose is not a rotation and a shift; check the cameras file"),
        ({"camera": RawCamera(WIDTH, HEIGHT, np.eye(4))}, r"v04\.jpg: intrinsics is a matrix of shape \(4, 4\)"),
        ({"camera": RawCamera(WIDTH, HEIGHT, np.diag([np.inf, 1, 1]))}, r"v04\.jpg: intrinsics holds NaN or infinity"),
        ({"camera": RawCamera(WIDTH, HEIGHT, np.diag([-9.0, 9, 1]))}, r"v04\.jpg: focal length must be greater than 0"),
        ({"camera": RawCamera(WIDTH, HEIGHT, model="NONE", params=(1.0,))}, r"v04\.jpg: camera model NONE: not known"),
        ({"name": "a/b"}, r"v04\.jpg: view name 'a/b' is no file name; rename"),
        ({"name": "v03"}, r"v04\.jpg: view name 'v03' is also that of .*v03\.jpg; rename"),
        ({"image": Path("gone.jpg")}, r"gone\.jpg: no such image file"),
    ],
)
def test_bad_view(raw, tmp_path, change, message):
    refuse(edited(raw, 4, **change), tmp_path, message)


def test_no_photos(raw, tmp_path):
    refuse(
        replace(raw, views=(), skipped=("a.jpg: no pose",)), tmp_path, r"no usable photo; check its folder \(a\.jpg: no pose\)"
    )


def test_photos_need_a_model(tmp_path):
    with pytest.raises(DataError, match=r"photos need the cameras.*run sfm"):
        read_source("photos", tmp_path)
    with pytest.raises(DataError, match="format 'fbx': not one of photos, colmap"):
        read_source("fbx", tmp_path)


def write_neus(raw: RawScene) -> Path:
    root = raw.views[0].image.parents[1]
    matrices = {}
    for index, view in enumerate(raw.views):
        K = np.eye(4)
        K[:3, :3] = view.camera.K
        matrices[f"world_mat_{index}"] = K @ view.w2c
        matrices[f"scale_mat_{index}"] = STATED.matrix()
    np.savez(root / "cameras_sphere.npz", **matrices)
    return root


def run_script(source: Path, out: Path, *more: str) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "scripts/prepare.py",
        "--format",
        "neus",
        "--source",
        str(source),
        "--name",
        "d/s",
        "--out",
        str(out),
        *more,
    ]
    environment = child_environment(OMP_NUM_THREADS="1")
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_program_builds_a_scene_and_fails_in_one_line(raw, tmp_path):
    source, out = write_neus(raw), tmp_path / "made"
    done = run_script(
        source, out, "--threads", "1", "--settings", json.dumps({"prepare": {"holdout_every": 5}}), "prepare.max_size=48"
    )
    assert done.returncode == 0, done.stderr
    scene = load_scene(out)
    assert len(scene.split("held_out")) == 2 and scene.views[0].width == 48
    np.testing.assert_allclose(scene.similarity.matrix(), STATED.matrix(), rtol=1e-12)
    cut(raw.views[2].image)
    failed = run_script(source, tmp_path / "never")
    assert failed.returncode == 2
    assert failed.stderr.count("\n") == 1 and "v02.jpg" in failed.stderr and "Traceback" not in failed.stderr
    assert not (tmp_path / "never").exists() and not (tmp_path / "never.partial").exists()


def test_photos_with_a_distorted_model_from_structure_from_motion(tmp_path):
    true = writers.make_views(6)
    root = writers.write_colmap_text(tmp_path / "sfm", true, model="OPENCV")
    raw = read_source("photos", root / "images", masks=root / "masks", model=root)
    scene = build(raw, tmp_path, region="cameras")
    assert scene.points is not None
    for view, expected in zip(scene.views, true, strict=True):
        np.testing.assert_allclose(view.w2c, expected.w2c, atol=1e-9)
        assert (view.K[0, 0], view.K[1, 1]) == pytest.approx((expected.K[0, 0], expected.K[1, 1]))
        assert view.image.suffix == ".png"
    assert all(
        image.shape[:2] == (v.height, v.width) for image, v in zip(load_view_images(scene.views), scene.views, strict=True)
    )
