"""Bad input: one line that names the file or view and the remedy."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nsr.data import READERS
from nsr.data.checks import check_facing, check_views, nearest_rotation
from nsr.data.files import match_masks, view_names
from nsr.data.raw import RawCamera, RawView
from nsr.errors import DataError
from tests.unit import dataset_writers as writers


def edit_json(path: Path, change) -> None:
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def edit_npz(path: Path, **changes) -> None:
    with np.load(path) as data:
        arrays = {key: data[key] for key in data.files}
    arrays.update(changes)
    np.savez(path, **{key: value for key, value in arrays.items() if value is not None})


def set_pose(index, value):
    return lambda data: data["frames"][index].update(transform_matrix=value)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.full((4, 4), np.nan).tolist(), r"frame 1 \(images/0001.png\).*NaN"),
        (np.eye(3).tolist(), "shape 3x3 instead of 4x4"),
        ((np.diag([2.0, 2.0, 2.0, 1.0])).tolist(), "no rotation.*without scale"),
        (np.diag([-1.0, 1.0, 1.0, 1.0]).tolist(), "mirrored"),
        ([["a"] * 4] * 4, "not a matrix of numbers"),
        ([[1.0], [1.0, 2.0]], "not a matrix of numbers"),
    ],
)
def test_broken_poses(tmp_path, value, message):
    path = writers.write_nerfstudio(tmp_path, writers.make_views(3)) / "transforms.json"
    edit_json(path, set_pose(1, value))
    with pytest.raises(DataError, match=message) as caught:
        READERS["nerfstudio"](tmp_path, None)
    assert "transforms.json" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["frames"][0].pop("transform_matrix"), "frame 0: needs file_path and transform_matrix"),
        (lambda d: d.update(camera_model="EQUIRECTANGULAR"), "EQUIRECTANGULAR is not supported.*undistort"),
        (lambda d: d["frames"][2].update(fl_x=-50.0), r"view '0002': parameters \(-50.0, .*focal length > 0"),
        (lambda d: d["frames"][2].update(fl_x="long"), "fl_x is 'long'"),
        (lambda d: [f.pop(k) for f in d["frames"] for k in ("fl_x", "fl_y")], "no fl_x.*focal length"),
        (lambda d: d["frames"][1].update(w=128), "image is 64x48 px, its camera says 128x48"),
        (lambda d: d["frames"][1].pop("mask_path"), "no mask_path while other frames have one"),
        (lambda d: d["frames"][1].update(mask_path="masks/none.png"), "none.png does not exist"),
        (lambda d: d["frames"].clear(), "no list of frames"),
        (lambda d: [f.update(file_path="x/" + f["file_path"]) for f in d["frames"]], "none of its 3 images exists"),
        (lambda d: d["frames"].append(d["frames"][0]), "two images are called"),
        (lambda d: [d["frames"].pop(), d["frames"].pop()], "1 usable view"),
    ],
)
def test_broken_transforms(tmp_path, change, message):
    path = writers.write_nerfstudio(tmp_path, writers.make_views(3)) / "transforms.json"
    edit_json(path, change)
    with pytest.raises(DataError, match=message):
        READERS["nerfstudio"](tmp_path, None)


def test_transforms_that_are_missing_or_no_json(tmp_path):
    for kind in ("nerfstudio", "blender"):
        with pytest.raises(DataError, match="no such file|no transforms_train.json"):
            READERS[kind](tmp_path, None)
    (tmp_path / "transforms.json").write_text('{"frames": [')
    with pytest.raises(DataError, match="transforms.json: not a JSON file"):
        READERS["nerfstudio"](tmp_path, None)
    (tmp_path / "transforms_train.json").write_text(
        json.dumps({"frames": [{"file_path": "a", "transform_matrix": np.eye(4).tolist()}]})
    )
    with pytest.raises(DataError, match=r"none of its 1 images exists \(a"):
        READERS["blender"](tmp_path, None)


def test_blender_without_a_field_of_view(tmp_path):
    writers.write_blender(tmp_path, writers.make_views(2, square=True))
    edit_json(tmp_path / "transforms_train.json", lambda d: d.update(camera_angle_x=4.0))
    with pytest.raises(DataError, match="field of view 4 must be between"):
        READERS["blender"](tmp_path, None)
    edit_json(tmp_path / "transforms_train.json", lambda d: d.pop("camera_angle_x"))
    with pytest.raises(DataError, match="no camera_angle_x"):
        READERS["blender"](tmp_path, None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"world_mat_1": np.full((4, 4), np.nan)}, "world_mat_1: holds NaN"),
        ({"world_mat_1": np.eye(3)}, "world_mat_1: shape 3x3"),
        ({"world_mat_1": np.ones((4, 4))}, "world_mat_1: not a camera projection"),
        ({"world_mat_1": None}, "world_mat_1 is missing"),
        ({"world_mat_4": None}, "4 cameras but 5 images"),
        ({"scale_mat_2": np.eye(4)}, "scale_mat_2 differs from scale_mat_0"),
        ({f"scale_mat_{i}": np.diag([1.0, 1.0, 2.0, 1.0]) for i in range(5)}, "no uniform scale"),
    ],
)
def test_broken_neus_cameras(tmp_path, changes, message):
    writers.write_neus(tmp_path, writers.make_views())
    edit_npz(tmp_path / "cameras_sphere.npz", **changes)
    with pytest.raises(DataError, match=message):
        READERS["neus"](tmp_path, None)


def test_neus_folder_with_missing_parts(tmp_path):
    with pytest.raises(DataError, match="no cameras_sphere.npz or cameras.npz"):
        READERS["neus"](tmp_path, None)
    writers.write_neus(tmp_path, writers.make_views())
    (tmp_path / "mask" / "003.png").unlink()
    with pytest.raises(DataError, match=r"no mask for 003.png \(4 masks, 5 images\)"):
        READERS["neus"](tmp_path, None)
    (tmp_path / "cameras_sphere.npz").write_bytes(b"PK\x03\x04 cut short")
    with pytest.raises(DataError, match="cameras_sphere.npz: not a readable .npz"):
        READERS["neus"](tmp_path, None)


def test_image_of_another_size_or_no_image_at_all(tmp_path):
    writers.write_neus(tmp_path, writers.make_views())
    Image.new("L", (32, 24)).save(tmp_path / "mask" / "002.png")
    with pytest.raises(DataError, match="002.png: mask is 32x24 px, its camera says 64x48"):
        READERS["neus"](tmp_path, None)
    (tmp_path / "image" / "001.png").write_bytes(b"not an image")
    with pytest.raises(DataError, match="001.png: not a readable JPEG or PNG"):
        READERS["neus"](tmp_path, None)


def test_broken_colmap_models(tmp_path):
    with pytest.raises(DataError, match="no COLMAP model"):
        READERS["colmap"](tmp_path, None)
    writers.write_colmap_binary(tmp_path, writers.make_views(3))
    folder = tmp_path / "sparse" / "0"
    for path in sorted(folder.glob("*.bin")):
        whole = path.read_bytes()
        for size in (0, 7, len(whole) // 3, len(whole) // 2, len(whole) - 1):
            path.write_bytes(whole[:size])
            with pytest.raises(DataError, match=f"{path.name}: COLMAP model file is cut short"):
                READERS["colmap"](tmp_path, None)
        path.write_bytes(whole + b"x")
        with pytest.raises(DataError, match=f"{path.name}: COLMAP model file has 1 bytes too many"):
            READERS["colmap"](tmp_path, None)
        path.write_bytes(whole)
    assert len(READERS["colmap"](tmp_path, None).views) == 3
    (tmp_path / "images" / "0001.png").unlink()
    with pytest.raises(DataError, match="0001.png: no such image"):
        READERS["colmap"](tmp_path, None)


def test_views_that_look_away_are_named():
    views = [RawView(v.name, Path(v.name), RawCamera(64, 48, v.K), v.w2c) for v in writers.make_views(6)]
    check_facing(views, (0.3, -0.2, 0.5), 0.5)
    turned = views[4].w2c.copy()
    turned[[0, 2]] *= -1  # half a turn round the camera's own y axis
    views[4] = RawView("0004", Path("x"), views[4].camera, turned)
    with pytest.raises(DataError, match="view '0004': the camera looks away.*remove the view"):
        check_facing(views, (0.3, -0.2, 0.5), 0.5)
    flipped = [replace(view, w2c=np.diag([1.0, -1, -1, 1]) @ view.w2c) for view in views]
    with pytest.raises(DataError, match="of 6 views look away.*another convention"):
        check_facing(flipped, (0.3, -0.2, 0.5), 0.5)
    with pytest.raises(DataError, match="'0000', '0001', '0004': .* check the camera convention"):
        check_facing([*flipped[:2], *views[2:]], (0.3, -0.2, 0.5), 0.5)
    check_facing(views, (0.3, -0.2, 0.5), 10.0)  # inside the region every direction is fine
    with pytest.raises(DataError, match="of 6 views look away from the region.*region is wrong"):
        check_facing(views, (0.3, -0.2, 80.0), 0.5)


def test_facing_counts_the_image_corner_and_the_ball_edge():
    K = np.array([[50.0, 0, 32], [0, 50.0, 24], [0, 0, 1]])
    half_field = np.arctan(np.hypot(32, 24) / 50)
    for model in (RawCamera(64, 48, K), RawCamera(64, 48, model="SIMPLE_RADIAL", params=(50.0, 32.0, 24.0, 0.01))):
        views = [RawView(n, Path(n), model, np.eye(4)) for n in "abc"]
        for inside, angle in ((True, half_field + np.arcsin(0.1) - 0.01), (False, half_field + np.arcsin(0.1) + 0.01)):
            centre = 10 * np.array([np.sin(angle), 0.0, np.cos(angle)])
            if inside:
                check_facing(views, centre, 1.0)
            else:
                with pytest.raises(DataError, match="3 of 3 views"):
                    check_facing(views, centre, 1.0)


def test_rounded_rotations_are_repaired():
    R = writers.make_views(3)[1].w2c[:3, :3]
    repaired = nearest_rotation(np.round(R, 4), "R")
    np.testing.assert_allclose(repaired @ repaired.T, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(repaired, R, atol=1e-4)


def test_too_few_views(tmp_path):
    with pytest.raises(DataError, match="0 usable view"):
        check_views([], tmp_path)


@pytest.mark.parametrize(
    ("images", "masks", "wanted"),
    [
        (["a.jpg", "b.jpg"], ["b.jpg.png", "a.jpg.png"], ["a.jpg.png", "b.jpg.png"]),
        (["sub/a.jpg", "sub/b.jpg"], ["sub/a.png", "sub/b.png"], ["sub/a.png", "sub/b.png"]),
        (["000009.png", "000010.png"], ["9.png", "10.png", "11.png"], ["9.png", "10.png"]),
        (["front.jpg", "side.jpg"], ["m1.png", "m2.png"], ["m1.png", "m2.png"]),
    ],
)
def test_masks_are_found_by_name_number_or_order(tmp_path, images, masks, wanted):
    for name in masks:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [p.relative_to(tmp_path).as_posix() for p in match_masks(images, tmp_path)] == wanted


def test_no_mask_folder_means_no_masks_but_a_wrong_one_is_an_error(tmp_path):
    assert match_masks(["a.jpg"], None) == [None]
    with pytest.raises(DataError, match="no such folder of masks"):
        match_masks(["a.jpg"], tmp_path / "nowhere")


def test_names_use_the_folder_only_where_needed():
    assert view_names(["a/1.png", "b/2.png"]) == ["1", "2"]
    assert view_names(["./a/1.png", "b/1.png"]) == ["a_1", "b_1"]
