"""LPIPS against a rewrite without torch, depth against known shapes, both in the stage and left out with a reason."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image
from scipy.signal import correlate

from nsr.config import resolve
from nsr.conventions import MASK_BACKGROUND, MASK_OBJECT, Similarity
from nsr.errors import DataError
from nsr.evaluate.depth import TrueDepth, depth_metrics
from nsr.evaluate.lpips import load_lpips
from nsr.evaluate.views import Truth, evaluate_views_stage
from nsr.mesh.io import write_ply
from nsr.mesh.surface import Mesh
from nsr.scene.scene import Scene, View, save_scene
from tests.unit.look_at import look_at

CHANNELS = (3, 4, 5, 6, 4, 4)
KERNELS, STRIDES, PADS = (11, 5, 3, 3, 3), (4, 1, 1, 1, 1), (2, 2, 1, 1, 1)
NAMES = ("features.0", "features.3", "features.6", "features.8", "features.10")
WIDTH, HEIGHT = 80, 72
K = np.array([[90.0, 0, 40], [0, 90.0, 36], [0, 0, 1]])


def write_weights(folder, seed=0):
    """AlexNet's five layers with few channels, random."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    backbone, heads = {}, {}
    for k, name in enumerate(NAMES):
        shape = (CHANNELS[k + 1], CHANNELS[k], KERNELS[k], KERNELS[k])
        backbone[f"{name}.weight"] = torch.tensor(rng.normal(size=shape) * 0.1)
        backbone[f"{name}.bias"] = torch.tensor(rng.normal(size=shape[0]) * 0.1)
        heads[f"lin{k}.model.1.weight"] = torch.tensor(rng.uniform(size=(1, shape[0], 1, 1)))
    for values, name in ((backbone, "alexnet-owt-0.pth"), (heads, "alex.pth")):
        torch.save({key: value.float() for key, value in values.items()}, folder / name)
    return folder


def rewritten_lpips(folder, image, reference):
    """Zhang et al. 2018, equation 1, with scipy's correlation and loops over pooling windows."""
    backbone, heads = torch.load(folder / "alexnet-owt-0.pth"), torch.load(folder / "alex.pth")

    def features(x):
        x = (2 * x - 1).transpose(2, 0, 1)
        x = (x - np.array([-0.030, -0.088, -0.188])[:, None, None]) / np.array([0.458, 0.448, 0.450])[:, None, None]
        for k, name in enumerate(NAMES):
            if k in (1, 2):
                rows, columns = ((n - 3) // 2 + 1 for n in x.shape[1:])
                pooled = [
                    [x[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3].max(axis=(1, 2)) for j in range(columns)] for i in range(rows)
                ]
                x = np.array(pooled).transpose(2, 0, 1)
            padded = np.pad(x, ((0, 0), (PADS[k], PADS[k]), (PADS[k], PADS[k])))
            weight, bias = backbone[f"{name}.weight"].numpy().astype(float), backbone[f"{name}.bias"].numpy()
            x = np.stack([correlate(padded, kernel, mode="valid")[0] for kernel in weight])
            x = np.maximum(x[:, :: STRIDES[k], :: STRIDES[k]] + bias[:, None, None], 0)
            yield x

    total = 0.0
    for k, (a, b) in enumerate(zip(features(image), features(reference), strict=True)):
        a, b = (f / (np.sqrt((f**2).sum(axis=0)) + 1e-10) for f in (a, b))
        total += float((heads[f"lin{k}.model.1.weight"].numpy().reshape(-1, 1, 1) * (a - b) ** 2).sum(axis=0).mean())
    return total


def test_lpips_equals_the_rewrite(tmp_path):
    folder = write_weights(tmp_path)
    lpips = load_lpips(folder)
    rng = np.random.default_rng(1)
    image, reference = rng.uniform(size=(2, 70, 90, 3))
    assert lpips(image, reference) == pytest.approx(rewritten_lpips(folder, image, reference), rel=1e-4)
    assert lpips(image, image) == 0.0
    assert lpips(image, 0.9 * image + 0.1 * reference) < lpips(image, reference)


def test_bad_weights_are_named(tmp_path):
    with pytest.raises(DataError, match=r"alexnet\.pth: no such LPIPS weights"):
        load_lpips(tmp_path)
    folder = write_weights(tmp_path / "w")
    torch.save({"lin0.model.1.weight": torch.zeros(1, 64, 1, 1)}, folder / "alex.pth")
    with pytest.raises(DataError, match="lin1"):
        load_lpips(folder)
    (folder / "alex.pth").write_bytes(b"no")
    with pytest.raises(DataError, match="not readable as weights"):
        load_lpips(folder)


def test_depth_numbers_by_hand():
    truth, depth = np.array([[1.0, 2, 0, 4]]), np.array([[1.5, 2, 7, 0]])
    everywhere = np.ones((1, 4), dtype=bool)
    found = depth_metrics(depth, truth, everywhere)
    assert found == {"depth_error": 0.25, "depth_median": 0.25, "depth_missing": pytest.approx(1 / 3)}
    assert depth_metrics(depth, truth, np.array([[True, False, True, False]]))["depth_error"] == 0.5
    assert depth_metrics(depth, np.zeros((1, 4)), everywhere)["depth_error"] is None
    assert depth_metrics(np.zeros((1, 4)), truth, everywhere) == {"depth_error": None, "depth_median": None, "depth_missing": 1.0}


def unit_ball():
    made = trimesh.creation.icosphere(subdivisions=5)
    return Mesh(np.asarray(made.vertices), np.asarray(made.faces, dtype=np.int64))


def ball_depth(w2c, radius=1.0):
    """Depth along z of a ball at the origin, 0 outside, by the quadratic equation."""
    column, row = np.meshgrid(np.arange(WIDTH) + 0.5, np.arange(HEIGHT) + 0.5)
    directions = np.stack([(column - K[0, 2]) / K[0, 0], (row - K[1, 2]) / K[1, 1], np.ones_like(column)], axis=-1)
    centre = w2c[:3, 3]
    a, b = (directions**2).sum(axis=-1), directions @ centre
    inside = b**2 - a * (centre @ centre - radius**2)
    return np.where(inside > 0, (b - np.sqrt(np.maximum(inside, 0))) / a, 0)


def test_depth_of_a_ball_is_that_of_the_equation():
    w2c = look_at([3.0, 1.0, 1.0])
    found = TrueDepth(unit_ball(), Similarity.identity()).picture(K, w2c, WIDTH, HEIGHT)
    expected = ball_depth(w2c)
    both = (found > 0) & (expected > 0)
    assert both.sum() > 0.97 * (expected > 0).sum()
    np.testing.assert_allclose(found[both], expected[both], atol=0.02)
    assert np.median(np.abs(found - expected)[both]) < 1e-3


@pytest.fixture
def rendered(tmp_path):
    """Two views of a ball twice as large in the ground truth's frame, rendered 1 % of the radius too far away."""
    root, render = tmp_path / "scene", tmp_path / "render"
    root.mkdir()
    render.mkdir()
    to_truth = Similarity(2.0, np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]), np.array([5.0, 6, 7]))
    write_ply(tmp_path / "truth.ply", unit_ball().moved(to_truth))
    rng, views, facts, known = np.random.default_rng(0), [], {}, {}
    for k, position in enumerate(([3.0, 1.0, 1.0], [-1.0, 3.0, 0.5], [0.5, -2.0, 2.5])):
        name, w2c = f"{k}", look_at(position)
        depth = ball_depth(w2c)
        photo = rng.integers(0, 255, size=(HEIGHT, WIDTH, 3)).astype(np.uint8)
        Image.fromarray(photo).save(root / f"{name}.png")
        Image.fromarray(np.where(depth > 0, MASK_OBJECT, MASK_BACKGROUND).astype(np.uint8)).save(root / f"{name}_mask.png")
        made = photo.copy()
        made[depth == 0] = 0
        Image.fromarray(made).save(render / f"{name}.png")
        np.savez(render / f"{name}_depth.npz", depth=np.where(depth > 0, depth + 0.01, 0).astype(np.float32))
        views.append(View(name, root / f"{name}.png", root / f"{name}_mask.png", WIDTH, HEIGHT, K, w2c, held_out=True))
        facts[name] = {"colour": f"{name}.png", "depth": f"{name}_depth.npz", "K": K.tolist(), "seen_in_training": False}
        known[f"world_mat_{k}"] = np.eye(4)
        known[f"world_mat_{k}"][:3] = K @ to_truth.inverse().camera_to_unit(w2c)[:3]
    save_scene(Scene(root, "t/ball", tuple(views), Similarity.identity()))
    np.savez(tmp_path / "cameras_sphere.npz", **known)
    (render / "render.json").write_text(json.dumps({"views": facts}))
    return render, root, tmp_path


def test_stage_measures_depth_in_percent_of_the_radius_and_lpips_with_weights(rendered):
    render, scene, folder = rendered
    config = resolve([{"evaluate": {"lpips_weights": str(write_weights(folder / "weights"))}}])
    truth = Truth(folder / "truth.ply", folder / "cameras_sphere.npz")
    result = evaluate_views_stage(render, scene, folder / "out.json", config, truth)
    metrics = result["metrics"]
    assert metrics["depth_median"] == pytest.approx(1.0, abs=0.1)
    assert metrics["depth_missing"] < 0.03
    assert metrics["psnr_masked"] == 100.0
    assert metrics["ssim_masked"] > 0.9 > metrics["ssim"]
    assert metrics["lpips_masked"] == 0.0 < metrics["lpips"]
    assert result["left_out"] == {}
    assert set(result["per_view"]["0"]) >= {"depth_error", "lpips", "psnr"}


@pytest.mark.parametrize("K", [None, 3, [[1, 2], [3, 4]], [[0, 0, 1], [0, 0, 1], [0, 0, 1]], "x", [[10**400, 0, 0]] * 3])
def test_damaged_cameras_of_a_render_are_one_error(rendered, K):
    render, scene, folder = rendered
    content = json.loads((render / "render.json").read_text())
    content["views"]["0"]["K"] = K
    (render / "render.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"render\.json: K of view '0' cannot be used"):
        evaluate_views_stage(render, scene, folder / "out.json", resolve([]), Truth(folder / "truth.ply"))


def test_depth_of_another_size_is_one_error(rendered):
    render, scene, folder = rendered
    np.savez(render / "0_depth.npz", depth=np.ones((3, 4), dtype=np.float32))
    with pytest.raises(DataError, match=r"0_depth\.npz: not of the size of the colour of view '0'; run render again"):
        evaluate_views_stage(render, scene, folder / "out.json", resolve([]), Truth(folder / "truth.ply"))


def test_what_is_left_out_is_said(rendered):
    render, scene, folder = rendered
    result = evaluate_views_stage(render, scene, folder / "out.json", resolve([]))
    assert "no installed package ships" in result["left_out"]["lpips"]
    assert result["left_out"]["depth"] == "no ground truth"
    assert not {"lpips", "depth_error"} & set(result["metrics"])
    trimesh.PointCloud(unit_ball().vertices).export(folder / "cloud.ply")
    result = evaluate_views_stage(render, scene, folder / "out.json", resolve([]), Truth(folder / "cloud.ply"))
    assert "point cloud" in result["left_out"]["depth"]
    (render / "1_depth.npz").unlink()
    with pytest.raises(DataError, match=r"1_depth\.npz: no rendered depth"):
        evaluate_views_stage(render, scene, folder / "out.json", resolve([]), Truth(folder / "truth.ply"))
