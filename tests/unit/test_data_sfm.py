"""Structure from motion on a few of the demo photos, and its gate on photos that cannot work."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nsr.config import SfmConfig
from nsr.conventions import camera_centres
from nsr.data.colmap import read_colmap
from nsr.data.neus import read_neus
from nsr.data.sfm import failed_folder, run_sfm
from nsr.data.sfm_health import SfmHealth, camera_spread, gate_checks
from nsr.errors import DataError, SfmError

SPOT = Path(__file__).parents[2] / "examples" / "spot"
NEIGHBOURS = (2, 5, 7, 10, 15, 18, 23, 28)  # photos from one side of the object
SMALL = SfmConfig(first_octave=0)  # no upsampled octave: seconds instead of half a minute


@pytest.fixture(scope="module")
def solved(tmp_path_factory):
    """Photos of one side, reconstructed once for all tests of this module."""
    folder = tmp_path_factory.mktemp("sfm")
    photos, out = folder / "photos", folder / "out"
    photos.mkdir()
    for index in NEIGHBOURS:
        shutil.copy(SPOT / "image" / f"{index:06d}.jpg", photos)
    return photos, out, run_sfm(photos, out, SMALL, threads=1, seed=3)


def test_all_photos_are_registered_and_the_health_is_written(solved):
    _, out, summary = solved
    assert summary["passed"]
    assert summary["health"]["registered"] == len(NEIGHBOURS)
    assert summary["unregistered"] == []
    assert 0 < summary["health"]["reprojection"] < 1.0
    assert json.loads((out / "sfm.json").read_text())["health"]["points"] == summary["health"]["points"] > 100
    assert sorted(p.name for p in out.iterdir()) == ["sfm.json", "sparse"]
    assert [p.name for p in out.parent.iterdir() if "partial" in p.name or "failed" in p.name] == []


def test_camera_centres_agree_with_the_true_ones_up_to_a_similarity(solved):
    photos, out, _ = solved
    scene = read_colmap(out, None, photos)
    true = {view.name: view.w2c for view in read_neus(SPOT).views}
    found = camera_centres(np.stack([view.w2c for view in scene.views]))
    wanted = camera_centres(np.stack([true[view.name] for view in scene.views]))
    # Umeyama 1991: least-squares similarity between two point sets.
    a, b = found - found.mean(0), wanted - wanted.mean(0)
    u, s, vt = np.linalg.svd(b.T @ a)
    sign = np.diag([1, 1, np.sign(np.linalg.det(u @ vt))])
    residual = b - (s * np.diag(sign)).sum() / (a**2).sum() * a @ (u @ sign @ vt).T
    assert np.sqrt((residual**2).sum(1).mean()) < 0.005 * np.linalg.norm(b, axis=1).mean()


def test_points_project_to_where_the_views_that_see_them_saw_them(solved):
    photos, out, summary = solved
    scene = read_colmap(out, None, photos)
    points = scene.points
    owner = np.repeat(np.arange(len(points.xyz)), np.diff(points.offsets))
    assert len(owner) == len(points.views)
    assert points.offsets[-1] / len(points.xyz) == pytest.approx(summary["health"]["track_length"], rel=0.02)
    for index, view in enumerate(scene.views):
        seen = points.xyz[owner[points.views == index]] @ view.w2c[:3, :3].T + view.w2c[:3, 3]
        focal, cx, cy = view.camera.params[:3]
        x, y = seen[:, 0] / seen[:, 2] * focal + cx, seen[:, 1] / seen[:, 2] * focal + cy
        assert len(seen) > 30
        assert (seen[:, 2] > 0).all()
        assert ((x > -5) & (x < 645) & (y > -5) & (y < 485)).all()


def test_one_thread_and_one_seed_give_the_same_bytes(solved, tmp_path):
    photos, out, _ = solved
    run_sfm(photos, tmp_path / "again", SMALL, threads=1, seed=3)
    for name in ("cameras.bin", "images.bin", "points3D.bin"):
        assert (tmp_path / "again" / "sparse" / "0" / name).read_bytes() == (out / "sparse" / "0" / name).read_bytes()


def test_a_failed_gate_names_number_threshold_and_remedy_and_leaves_no_result(solved, tmp_path):
    photos, _, _ = solved
    mixed = tmp_path / "photos"
    shutil.copytree(photos, mixed)
    rng = np.random.default_rng(0)
    for index in range(4):  # a third of the photos shows something else
        small = Image.fromarray(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8))
        small.resize((640, 480)).save(mixed / f"noise{index}.jpg")
    out = tmp_path / "out"
    with pytest.raises(SfmError, match=r"8 of 12.* 0.667 is below 0.8: add photos") as caught:
        run_sfm(mixed, out, SMALL, threads=1, seed=3)
    assert "reprojection" not in str(caught.value)
    assert not out.exists()
    verdict = json.loads((failed_folder(out) / "sfm.json").read_text())
    assert not verdict["passed"]
    assert verdict["unregistered"] == [f"noise{i}.jpg" for i in range(4)]


def test_noise_gives_no_model_but_advice(tmp_path):
    rng = np.random.default_rng(0)
    photos = tmp_path / "photos"
    photos.mkdir()
    for index in range(4):
        Image.fromarray(rng.integers(0, 256, (120, 160, 3), dtype=np.uint8)).save(photos / f"{index}.png")
    with pytest.raises(SfmError, match="no pair of photos to start from; take sharp photos"):
        run_sfm(photos, tmp_path / "out", SfmConfig(first_octave=0), threads=1, seed=0)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["photos"]


def test_photos_that_cannot_share_a_camera(tmp_path):
    for index, size in enumerate([(64, 48), (64, 48), (48, 64)]):
        Image.new("RGB", size).save(tmp_path / f"{index}.jpg")
    with pytest.raises(DataError, match=r"2.jpg: 48x64 px, 0.jpg is 64x48; set sfm.single_camera=false"):
        run_sfm(tmp_path, tmp_path / "out", SfmConfig())
    for index, focal in enumerate([28, 28, 50]):
        exif = Image.Exif()
        exif.get_ifd(0x8769)[0xA405] = focal
        Image.new("RGB", (64, 48)).save(tmp_path / f"{index}.jpg", exif=exif)
    with pytest.raises(DataError, match=r"EXIF focal lengths from 52 to 92 px; zoom .*single_camera=false"):
        run_sfm(tmp_path, tmp_path / "out", SfmConfig())


def test_truncated_photo_is_named(tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    for index in range(3):
        shutil.copy(SPOT / "image" / f"{index:06d}.jpg", photos)
    path = photos / "000001.jpg"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match="000001.jpg: cannot be decoded .truncated or damaged"):
        run_sfm(photos, tmp_path / "out", SfmConfig(first_octave=0, max_features=200))


@pytest.mark.parametrize(
    ("field", "value", "part"),
    [
        ("registered", 5, "below 0.8: add photos"),
        ("reprojection", 2.0, "above 1.5: photos of several lenses"),
        ("reprojection", float("nan"), "above 1.5"),
        ("spread", 10.0, "below 20: walk around"),
    ],
)
def test_each_gate_number_alone_fails_the_gate(field, value, part):
    good = {
        "photos": 10,
        "registered": 10,
        "models": (10,),
        "points": 500,
        "track_length": 4.0,
        "reprojection": 0.5,
        "spread": 90.0,
    }
    assert all(check.passed for check in gate_checks(SfmHealth(**good), SfmConfig()))
    failed = [check for check in gate_checks(SfmHealth(**(good | {field: value})), SfmConfig()) if not check.passed]
    assert len(failed) == 1
    assert part in failed[0].failure()


def test_spread_is_the_largest_angle_at_the_object():
    angles = np.radians([0.0, 30.0, 75.0])
    centres = np.array([5.0, 1.0, 2.0]) + 3.0 * np.column_stack([np.cos(angles), np.sin(angles), 0 * angles])
    assert camera_spread(centres, np.array([5.0, 1.0, 2.0])) == pytest.approx(75.0)
    assert camera_spread(centres[:1], np.zeros(3)) == 0.0
