"""PSNR, SSIM and the statement about training views."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import correlate1d
from skimage.metrics import peak_signal_noise_ratio

from nsr.config import resolve
from nsr.conventions import MASK_BACKGROUND, MASK_IGNORE, MASK_OBJECT, Similarity
from nsr.errors import DataError, EvaluationError
from nsr.evaluate.views import MAX_PSNR, evaluate_views_stage, psnr, ssim
from nsr.scene.scene import Scene, View, save_scene

SIZE = (40, 32)  # width, height


def images(seed=0):
    rng = np.random.default_rng(seed)
    reference = rng.uniform(size=(SIZE[1], SIZE[0], 3))
    return np.clip(reference + 0.1 * rng.normal(size=reference.shape), 0, 1), reference


def everywhere():
    return np.ones((SIZE[1], SIZE[0]), dtype=bool)


def test_psnr_against_another_implementation_and_on_parts():
    image, reference = images()
    assert psnr(image, reference, everywhere()) == pytest.approx(peak_signal_noise_ratio(reference, image, data_range=1.0))
    left = everywhere()
    left[:, 20:] = False
    spoiled = image.copy()
    spoiled[:, 20:] = 0
    assert psnr(spoiled, reference, left) == psnr(image, reference, left) != psnr(spoiled, reference, everywhere())
    assert psnr(image, image, left) == MAX_PSNR
    assert psnr(image, reference, ~everywhere()) is None


def test_ssim_against_the_formula_of_wang_et_al():
    """Written out per channel with an explicit 11-tap Gaussian; the mean leaves out the 5 px where windows hang over."""
    image, reference = images(1)
    taps = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    taps /= taps.sum()

    def blur(x):
        return correlate1d(correlate1d(x, taps, axis=0, mode="reflect"), taps, axis=1, mode="reflect")

    mu_x, mu_y = blur(image), blur(reference)
    var_x, var_y = blur(image**2) - mu_x**2, blur(reference**2) - mu_y**2
    cov = blur(image * reference) - mu_x * mu_y
    c1, c2 = 0.01**2, 0.03**2
    expected = (2 * mu_x * mu_y + c1) * (2 * cov + c2) / ((mu_x**2 + mu_y**2 + c1) * (var_x + var_y + c2))
    assert ssim(image, reference, everywhere()) == pytest.approx(expected[5:-5, 5:-5].mean(), abs=1e-9)
    part = everywhere()
    part[:, :17] = False
    assert ssim(image, reference, part) == pytest.approx(expected[part].mean(), abs=1e-9)
    assert ssim(image, image, everywhere()) == pytest.approx(1.0)
    assert ssim(image[:8], reference[:8], everywhere()[:8]) is None


@pytest.fixture
def rendered(tmp_path):
    """A scene of three views with masks, and a render folder of two of them, 10 grey levels off."""
    root, render = tmp_path / "scene", tmp_path / "render"
    root.mkdir()
    render.mkdir()
    views, facts = [], {}
    for k, name in enumerate("abc"):
        photo = np.full((SIZE[1], SIZE[0], 3), 100, dtype=np.uint8)
        Image.fromarray(photo).save(root / f"{name}.png")
        mask = np.full((SIZE[1], SIZE[0]), MASK_BACKGROUND, dtype=np.uint8)
        mask[:16] = MASK_OBJECT
        mask[-4:] = MASK_IGNORE
        Image.fromarray(mask).save(root / f"{name}_mask.png")
        views.append(View(name, root / f"{name}.png", root / f"{name}_mask.png", *SIZE, np.eye(3), np.eye(4), held_out=k < 2))
        if k < 2:
            made = photo.copy()
            made[:16] += np.uint8(10)
            made[-4:] = 255
            Image.fromarray(made).save(render / f"{name}.png")
            facts[name] = {"colour": f"{name}.png", "seen_in_training": False}
    save_scene(Scene(root, "t/s", tuple(views), Similarity.identity()))
    (render / "render.json").write_text(json.dumps({"views": facts}))
    return render, root, tmp_path / "views.json"


def change(render, **views):
    data = json.loads((render / "render.json").read_text())
    data["views"].update(views)
    (render / "render.json").write_text(json.dumps(data))


def test_stage_measures_without_ignored_pixels(rendered):
    render, scene, out = rendered
    result = evaluate_views_stage(render, scene, out, resolve([]))
    assert json.loads(out.read_text()) == result
    error = (10 / 255) ** 2
    assert result["metrics"]["psnr_masked"] == pytest.approx(-10 * np.log10(error))
    assert result["metrics"]["psnr"] == pytest.approx(-10 * np.log10(error * 16 / 28))
    assert 0.5 < result["metrics"]["ssim"] < 1.0
    assert result["views"] == "held_out"
    assert result["notes"] == []
    assert set(result["per_view"]) == {"a", "b"}


def test_what_an_exposure_alone_has_changed_is_forgiven(rendered):
    """Everything a factor of 1.1 brighter than the photograph, in one view; the other is 10 grey levels off in one part."""
    render, scene, out = rendered
    with Image.open(scene / "a.png") as photo:
        Image.fromarray(np.asarray(photo) + np.uint8(10)).save(render / "a.png")
    result = evaluate_views_stage(render, scene, out, resolve([]))
    a, b = result["per_view"]["a"], result["per_view"]["b"]
    assert a["psnr_corrected"] == a["psnr_masked_corrected"] == b["psnr_masked_corrected"] == MAX_PSNR
    assert a["psnr"] == pytest.approx(-20 * np.log10(10 / 255))
    assert b["psnr"] < b["psnr_corrected"] < MAX_PSNR
    assert "psnr_affine" not in result["metrics"]
    facts = json.loads((render / "render.json").read_text())
    (render / "render.json").write_text(json.dumps({**facts, "exposure": "affine"}))
    affine = evaluate_views_stage(render, scene, out, resolve([]))["per_view"]
    assert affine["b"]["psnr_affine"] >= b["psnr_corrected"] - 1e-6


def test_training_views_are_told(rendered):
    render, scene, out = rendered
    change(render, a={"colour": "a.png", "seen_in_training": True})
    some = evaluate_views_stage(render, scene, out, resolve([]))
    assert some["views"] == "training"
    assert "1 of 2 views were trained on: a" in some["notes"][0]
    change(render, b={"colour": "b.png", "seen_in_training": True})
    every = evaluate_views_stage(render, scene, out, resolve([]))
    assert every["views"] == "training"
    assert "all views were trained on" in every["notes"][0]


def test_smaller_renders_are_compared_with_the_shrunk_photograph(rendered):
    render, scene, out = rendered
    for name in "ab":
        with Image.open(render / f"{name}.png") as image:
            image.resize((20, 16), Image.Resampling.BOX).save(render / f"{name}.png")
    result = evaluate_views_stage(render, scene, out, resolve([]))
    assert result["metrics"]["psnr_masked"] == pytest.approx(-20 * np.log10(10 / 255))


def test_broken_renders_are_named(rendered):
    render, scene, out = rendered
    (render / "a.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"a\.png"):
        evaluate_views_stage(render, scene, out, resolve([]))
    change(render, z={"colour": "z.png", "seen_in_training": False})
    with pytest.raises(EvaluationError, match="view 'z' is not in scene t/s"):
        evaluate_views_stage(render, scene, out, resolve([]))
    (render / "render.json").write_text("{}")
    with pytest.raises(DataError, match="run render again"):
        evaluate_views_stage(render, scene, out, resolve([]))
    with pytest.raises(DataError, match="run render first"):
        evaluate_views_stage(render / "none", scene, out, resolve([]))


@pytest.mark.parametrize("content", ["[" * 3000, '{"views": {}, "behind": "grey"}', '{"views": {}, "behind": 2}'])
def test_damaged_facts_of_a_render_are_one_error(rendered, content):
    render, scene, out = rendered
    (render / "render.json").write_text(content)
    with pytest.raises(DataError, match=r"render\.json: not a file of the render stage.*run render again"):
        evaluate_views_stage(render, scene, out, resolve([]))


def test_a_render_of_too_many_pixels_is_one_error(rendered, monkeypatch):
    render, scene, out = rendered
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(DataError, match=r"a\.png: image cannot be read"):
        evaluate_views_stage(render, scene, out, resolve([]))


def test_nothing_rendered_is_said(rendered):
    render, scene, out = rendered
    (render / "render.json").write_text(json.dumps({"views": {}}))
    result = evaluate_views_stage(render, scene, out, resolve([]))
    assert result["metrics"] == {}
    assert "no view was rendered" in result["notes"][0]
