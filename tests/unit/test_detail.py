"""`model.encoding.cells_per_pixel`: a hash grid no finer than the photographs."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from nsr.config import resolve
from nsr.conventions import Similarity
from nsr.scene.pixels import pixel_width
from nsr.train.detail import with_detail
from nsr.train.loop import Trainer, train_scene
from nsr.train.model_file import load_model
from tests.unit.training_scene import K, quick_config, sphere_scene

DISTANCE = 2.4  # of the scene's cameras, unit frame


def finest(config, scene):
    return with_detail(config, scene).model.encoding.finest_resolution


def settings(*words):
    return resolve((), ["model.encoding.base_resolution=4", *words])


def test_a_pixel_is_the_width_that_it_sees_at_the_centre(tmp_path):
    scene = sphere_scene(tmp_path / "scene")
    assert pixel_width(scene) == pytest.approx(DISTANCE / K[0, 0], rel=1e-6)


def test_two_points_a_pixel_width_apart_are_a_pixel_apart_in_a_view(tmp_path):
    """Against projection itself, with the camera of a view, along its rows and columns."""
    scene = sphere_scene(tmp_path / "scene")
    view, pose = scene.views[3], scene.unit_w2c(scene.views)[3]
    rotation, t = pose[:3, :3], pose[:3, 3]
    width = pixel_width(scene)
    for axis in (0, 1):
        aside = rotation.T[:, axis] * width  # parallel to the image
        pixels = [view.K @ (rotation @ point + t) for point in (np.zeros(3), aside)]
        first, second = (p[:2] / p[2] for p in pixels)
        assert np.linalg.norm(second - first) == pytest.approx(1.0, rel=1e-6)


@pytest.mark.parametrize("cells", [0.5, 1.0, 1.6])
def test_the_finest_level_has_so_many_cells_a_pixel(tmp_path, cells):
    scene = sphere_scene(tmp_path / "scene")
    found = finest(settings(f"model.encoding.cells_per_pixel={cells}"), scene)
    assert 2 / found == pytest.approx(DISTANCE / K[0, 0] / cells, rel=0.02)  # the cube's side is 2


def test_the_size_of_the_world_does_not_matter(tmp_path):
    scene = sphere_scene(tmp_path / "scene")
    old = scene.similarity
    larger = replace(
        scene,
        similarity=Similarity(1000 * old.scale, old.R, 1000 * old.t),
        views=tuple(replace(view, w2c=_farther(view.w2c)) for view in scene.views),
    )
    config = settings("model.encoding.cells_per_pixel=1")
    assert finest(config, larger) == finest(config, scene)


def _farther(w2c):
    moved = w2c.copy()
    moved[:3, 3] *= 1000
    return moved


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["model.encoding.cells_per_pixel=0"], 2048),
        (["model.encoding.cells_per_pixel=1", "model.encoding.finest_resolution=20"], 20),
        (["model.encoding.cells_per_pixel=0.01"], 4),
    ],
)
def test_limits(tmp_path, words, expected):
    assert finest(settings(*words), sphere_scene(tmp_path / "scene")) == expected


def test_the_median_view_decides(tmp_path):
    """One camera far away or very near changes nothing."""
    scene = sphere_scene(tmp_path / "scene")
    views = list(scene.views)
    views[0] = replace(views[0], w2c=_farther(views[0].w2c))
    assert pixel_width(replace(scene, views=tuple(views))) == pytest.approx(pixel_width(scene), rel=1e-6)


def test_what_was_used_is_in_the_results_and_a_resumed_training_agrees(tmp_path):
    scene = sphere_scene(tmp_path / "scene")
    config = quick_config(steps=4, checkpoint_every=2)
    encoding = replace(config.model.encoding, cells_per_pixel=0.5, finest_resolution=64)
    config = replace(config, model=replace(config.model, encoding=encoding))
    expected = finest(config, scene)
    assert config.model.encoding.base_resolution < expected < 64
    first = Trainer(scene, config, tmp_path, torch.device("cpu"))
    first.advance()
    first.save()
    summary = train_scene(scene, config, tmp_path, torch.device("cpu"))
    assert summary["resumed"]
    assert summary["settings"]["model"]["encoding"]["finest_resolution"] == expected
    assert load_model(tmp_path / "model.pt", torch.device("cpu")).model.config.encoding.finest_resolution == expected
