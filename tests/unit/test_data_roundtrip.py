"""One scene written in every source format gives the same rays, to 1e-4 px."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from nsr.data import READERS
from nsr.data.colmap import read_colmap
from nsr.data.neus import decompose_projection
from nsr.errors import DataError
from tests.unit import dataset_writers as writers

PIXELS = np.stack(np.meshgrid([0.5, 17.25, 40.0, 63.5], [0.5, 20.0, 47.5]), -1).reshape(-1, 2)
TOLERANCE = 1e-4  # px


def normalised(camera, pixels):
    """Positions (P, 2) on the plane z = 1 that a reader's camera gives to pixels, by pycolmap for distorted models."""
    if camera.K is not None:
        assert camera.model is None
        return (np.column_stack([pixels, np.ones(len(pixels))]) @ np.linalg.inv(camera.K).T)[:, :2]
    import pycolmap

    return pycolmap.Camera(model=camera.model, width=camera.width, height=camera.height, params=camera.params).cam_from_img(
        pixels
    )


def distort(model, extra, plane):
    """Reference lens models, written from their published formulas: plane (P, 2) at z = 1 -> distorted plane (P, 2)."""
    x, y = plane.T
    r2 = x * x + y * y
    if model == "OPENCV_FISHEYE":  # Kannala & Brandt 2006, odd polynomial of the angle
        r, theta = np.sqrt(r2), np.arctan(np.sqrt(r2))
        bent = theta * (1 + sum(k * theta ** (2 * i + 2) for i, k in enumerate(extra)))
        return plane * (bent / r)[:, None]
    k = np.zeros(8)
    if model == "SIMPLE_RADIAL":
        k[0] = extra[0]
    elif model == "RADIAL":
        k[:2] = extra
    else:  # OPENCV and FULL_OPENCV: k1 k2 p1 p2 [k3 k4 k5 k6], Brown 1966 with a rational radial part
        k[: len(extra)] = extra
        if model in ("OPENCV", "FULL_OPENCV"):
            k = np.concatenate([k[:2], k[4:8], k[2:4]])
    k1, k2, k3, k4, k5, k6, p1, p2 = k
    radial = (1 + k1 * r2 + k2 * r2**2 + k3 * r2**3) / (1 + k4 * r2 + k5 * r2**2 + k6 * r2**3)
    return np.column_stack(
        [x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x), y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y]
    )


def pixel_errors(scene, truth, model="PINHOLE", pixels=PIXELS):
    """Distance in px between pixels and where the true cameras see points on the rays the reader gives them."""
    errors = []
    for view, true in zip(scene.views, truth, strict=True):
        plane = normalised(view.camera, pixels)
        depth = np.linspace(1.0, 6.0, len(pixels))[:, None]
        camera_points = np.column_stack([plane, np.ones(len(plane))]) * depth
        world = (camera_points - view.w2c[:3, 3]) @ view.w2c[:3, :3]
        seen = world @ true.w2c[:3, :3].T + true.w2c[:3, 3]
        true_plane = seen[:, :2] / seen[:, 2:]
        if writers.DISTORTION[model]:
            true_plane = distort(model, writers.DISTORTION[model], true_plane)
        params = writers.true_params(true, model)
        focal, centre = (params[0], params[1:3]) if model in writers.ONE_FOCAL else (params[:2], params[2:4])
        errors.append(np.abs(true_plane * focal + centre - pixels).max())
    return np.array(errors)


@pytest.mark.parametrize(
    "write", [writers.write_colmap_text, writers.write_colmap_binary, writers.write_neus, writers.write_nerfstudio]
)
def test_formats_with_a_camera_per_view_give_the_true_rays(tmp_path, write):
    truth = writers.make_views()
    kind = write.__name__.split("_")[1]
    options = {"model": "PINHOLE"} if kind == "nerfstudio" else {}
    scene = READERS[kind](write(tmp_path, truth, **options), None)
    assert (pixel_errors(scene, truth) < TOLERANCE).all()
    assert all(view.mask is not None and not view.alpha_mask for view in scene.views)


@pytest.mark.parametrize("write", [writers.write_blender, writers.write_ngp])
def test_formats_with_one_camera_give_the_true_rays(tmp_path, write):
    truth = writers.make_views(several_cameras=False, square=write is writers.write_blender)
    kind = "blender" if write is writers.write_blender else "nerfstudio"
    scene = READERS[kind](write(tmp_path, truth), None)
    assert (pixel_errors(scene, truth) < TOLERANCE).all()
    assert all(view.alpha_mask and view.mask is None for view in scene.views)


def test_the_ray_test_sees_a_hundredth_of_a_pixel(tmp_path):
    truth = writers.make_views()
    scene = READERS["neus"](writers.write_neus(tmp_path, truth), None)
    scene.views[2].camera.K[0, 2] += 0.01
    assert pixel_errors(scene, truth).argmax() == 2
    assert pixel_errors(scene, truth)[2] > TOLERANCE


@pytest.mark.parametrize("model", ["SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV", "FULL_OPENCV", "OPENCV_FISHEYE"])
@pytest.mark.parametrize("write", [writers.write_colmap_text, writers.write_colmap_binary])
def test_colmap_camera_models_match_their_published_formulas(tmp_path, model, write):
    truth = writers.make_views(3)
    scene = read_colmap(write(tmp_path, truth, model=model))
    assert (pixel_errors(scene, truth, model) < TOLERANCE).all()
    assert (scene.views[0].camera.K is None) == bool(writers.DISTORTION[model])


@pytest.mark.parametrize("model", sorted(writers.DISTORTION))
def test_every_colmap_camera_keeps_its_parameters(tmp_path, model):
    truth = writers.make_views(2)
    scene = read_colmap(writers.write_colmap_text(tmp_path, truth, model=model))
    for view, true in zip(scene.views, truth, strict=True):
        if writers.DISTORTION[model]:
            assert (view.camera.model, view.camera.params) == (model, writers.true_params(true, model))
        else:
            assert view.camera.K[0, 0] == true.K[0, 0]


@pytest.mark.parametrize(("model", "kept"), [("OPENCV", "OPENCV"), ("OPENCV_FISHEYE", "OPENCV_FISHEYE")])
def test_nerfstudio_distortion_per_frame(tmp_path, model, kept):
    truth = writers.make_views()
    scene = READERS["nerfstudio"](writers.write_nerfstudio(tmp_path, truth, model=model), None)
    assert {view.camera.model for view in scene.views} == {kept}
    assert (pixel_errors(scene, truth, model) < TOLERANCE).all()


def test_nerfstudio_shared_camera_and_third_radial_term(tmp_path):
    truth = writers.make_views(3, several_cameras=False)
    path = writers.write_nerfstudio(tmp_path, truth, per_frame=False) / "transforms.json"
    data = json.loads(path.read_text())
    path.write_text(json.dumps(data | {"k3": 0.004}))
    scene = READERS["nerfstudio"](path, None)
    assert scene.views[1].camera.model == "FULL_OPENCV"
    assert scene.views[1].camera.params[8:] == (0.004, 0.0, 0.0, 0.0)
    path.write_text(json.dumps(data | {"k4": 0.001}))
    with pytest.raises(DataError, match="k4 .*undistort"):
        READERS["nerfstudio"](path, None)


def test_one_shared_colmap_camera_serves_all_views(tmp_path):
    truth = writers.make_views(several_cameras=False)
    scene = read_colmap(writers.write_colmap_text(tmp_path, truth, shared=True))
    assert (pixel_errors(scene, truth) < TOLERANCE).all()


def test_colmap_points_keep_the_views_that_see_them(tmp_path):
    scene = read_colmap(writers.write_colmap_binary(tmp_path, writers.make_views(4)))
    points = scene.points
    np.testing.assert_allclose(points.xyz, [[0.3, -0.2, 0.5], [0.5, -0.1, 0.6]])
    tracks = [points.views[a:b].tolist() for a, b in zip(points.offsets[:-1], points.offsets[1:], strict=True)]
    assert tracks == [[0, 1, 2, 3], [1, 2, 3]]
    assert points.rgb.tolist() == [[0, 20, 30], [10, 20, 30]]
    assert points.error.tolist() == [0.25, 1.25]


def test_colmap_takes_the_largest_of_several_models(tmp_path):
    writers.write_colmap_text(tmp_path / "five", writers.make_views(5))
    writers.write_colmap_text(tmp_path / "three", writers.make_views(3))
    (tmp_path / "five" / "sparse" / "0").rename(tmp_path / "five" / "sparse" / "1")
    (tmp_path / "three" / "sparse" / "0").rename(tmp_path / "five" / "sparse" / "0")
    assert len(read_colmap(tmp_path / "five").views) == 5
    small = read_colmap(tmp_path / "five" / "sparse" / "0")
    assert len(small.views) == 3
    assert small.skipped == ("0003.png: has no pose in the model", "0004.png: has no pose in the model")


def test_neus_region_unit_skew_and_world_frame(tmp_path):
    truth = writers.make_views()
    truth[1].K[0, 1] = 0.4
    scene = READERS["neus"](writers.write_neus(tmp_path, truth, digits=6, camera_file="cameras.npz"), None)
    np.testing.assert_allclose(scene.region.apply([[0, 0, 0], [1, 0, 0]]), [[0.3, -0.2, 0.5], [1.8, -0.2, 0.5]], atol=1e-12)
    np.testing.assert_allclose(scene.views[1].camera.K, truth[1].K, atol=1e-10)
    assert scene.unit == "unknown"
    assert [view.mask.name for view in scene.views] == [f"{i:03d}.png" for i in range(5)]


def test_millimetres_are_claimed_for_dtu_scans_only(tmp_path):
    big = [
        writers.TrueView(v.name, v.K, v.w2c, np.zeros((1200, 1600), np.uint8), np.zeros((1200, 1600), np.uint8))
        for v in writers.make_views(2)
    ]
    assert READERS["neus"](writers.write_neus(tmp_path / "scan24", big), None).unit == "mm"
    assert READERS["neus"](writers.write_neus(tmp_path / "statue", big), None).unit == "unknown"
    assert READERS["neus"](writers.write_neus(tmp_path / "scan7", writers.make_views(2)), None).unit == "unknown"


def test_projection_decomposition_is_exact_whatever_sign_and_scale():
    view = writers.make_views()[3]
    for factor in (1.0, -1.0, 250.0, -0.003):
        K, w2c = decompose_projection(factor * (view.K @ view.w2c[:3]), "P")
        np.testing.assert_allclose(K, view.K, atol=1e-10)
        np.testing.assert_allclose(w2c, view.w2c, atol=1e-12)


def test_blender_reads_all_splits_with_unique_names(tmp_path):
    truth = writers.make_views(4, several_cameras=False, square=True)
    writers.write_blender(tmp_path, truth[:2], split="train")
    writers.write_blender(tmp_path, truth[2:], split="test")
    scene = READERS["blender"](tmp_path, None)
    assert [view.name for view in scene.views] == ["test_r_0", "test_r_1", "train_r_0", "train_r_1"]
    assert (pixel_errors(scene, truth[2:] + truth[:2]) < TOLERANCE).all()
    assert [view.name for view in READERS["blender"](tmp_path / "transforms_train.json", None).views] == ["r_0", "r_1"]


def test_missing_frames_are_skipped_and_counted(tmp_path):
    truth = writers.make_views()
    writers.write_nerfstudio(tmp_path, truth, model="PINHOLE")
    for name in ("0001.png", "0003.png"):
        (tmp_path / "images" / name).unlink()
    scene = READERS["nerfstudio"](tmp_path, None)
    assert scene.skipped == ("images/0001.png: no such image", "images/0003.png: no such image")
    assert (pixel_errors(scene, [truth[0], truth[2], truth[4]]) < TOLERANCE).all()


def test_importing_the_readers_loads_no_heavy_library():
    code = "import sys, nsr.data; print([m for m in ('pycolmap', 'torch', 'open3d') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
