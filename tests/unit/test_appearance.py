"""Appearance codes of photographs: what they reach, what is rendered without a photograph, what training makes of them."""

import numpy as np
import pytest
import torch

from nsr.config import resolve
from nsr.errors import ConfigError
from nsr.fields.model import SurfaceModel
from nsr.rendering.render import render_view
from nsr.rendering.volume import background_colour, draw_samples, render_samples, step_length
from nsr.train.loop import Trainer, train_scene
from nsr.train.model_file import load_model
from tests.unit.training_scene import RADIUS, SIZE, K, quick_config, sphere_scene

CPU = torch.device("cpu")


def model_with_codes(kind="random", views=4):
    config = quick_config().model
    config.appearance, config.background.kind, config.background.samples = 2, kind, 4
    config.background.log2_table = 8
    model = SurfaceModel(config, torch.Generator().manual_seed(0), views=views)
    with torch.no_grad():
        model.appearance.copy_(torch.randn(views, 2, generator=torch.Generator().manual_seed(1)))
    return model


def rendered(model, view):
    """Colours of four equal rays onto the sphere, and of what is behind."""
    origin, direction = torch.tensor([[0.1, 0.0, -2.0]]).expand(4, 3), torch.tensor([[0.0, 0.0, 1.0]]).expand(4, 3)
    step, occupied = step_length(64), torch.ones(8, 8, 8, dtype=torch.bool)
    samples = draw_samples(origin, direction, occupied, step, None)
    options = {"step": step, "cosine_ratio": 1.0, "background": None, "view": view}
    front = render_samples(model, origin, direction, samples, **options).colour
    return front, background_colour(model, origin, direction, None, view)


def test_a_code_reaches_surface_and_background_of_its_own_photograph_only():
    model = model_with_codes("learned")
    view = torch.tensor([0, 2, 2, 3])
    for colour in rendered(model, view):
        torch.testing.assert_close(colour[1], colour[2])
        assert (colour[0] - colour[1]).abs().max() > 1e-3
        (gradient,) = torch.autograd.grad(colour[1:3].sum(), model.appearance, retain_graph=True)
        assert gradient[2].abs().min() > 0
        assert not gradient[[0, 1, 3]].any()


def test_without_a_photograph_it_is_the_mean_code():
    model = model_with_codes("learned")
    none = rendered(model, None)
    with torch.no_grad():
        model.appearance.copy_(model.appearance.mean(0).expand(4, 2).clone())
    for one, other in zip(none, rendered(model, torch.arange(4)), strict=True):
        torch.testing.assert_close(one, other)


def test_no_codes_no_parameters():
    plain = SurfaceModel(quick_config().model, torch.Generator().manual_seed(0))
    assert plain.codes(5) is None and plain.photograph_parameters() == []
    model = model_with_codes()
    assert model.state_dict().keys() - plain.state_dict().keys() == {"appearance"}
    assert any(parameter is model.appearance for parameter in model.dense_parameters())
    with pytest.raises(ConfigError, match=r"model\.appearance"):
        model_with_codes(views=0)
    with pytest.raises(ConfigError, match=r"model\.appearance"):
        resolve([], ["model.appearance=-1"])
    with pytest.raises(ConfigError, match=r"model\.radiance\.directions"):
        resolve([], ["model.radiance.directions=mirrored", "model.radiance.view_degree=1"])


def test_trained_saved_resumed_and_rendered(tmp_path):
    """All three at once: the run goes on as it was, and pictures and colours of surfaces are those of the mean code."""
    config = quick_config(steps=8, checkpoint_every=4)
    config.model.appearance, config.model.exposure = 2, "affine"
    config.model.radiance.directions, config.model.radiance.view_degree = "both", 2
    scene = sphere_scene(tmp_path / "scene")
    train_scene(scene, config, tmp_path / "whole", CPU)
    second = Trainer(scene, config, tmp_path / "whole", CPU)
    assert second.resume() and second.step == 4
    for _ in range(4):
        second.advance()
    trained = load_model(tmp_path / "whole" / "model.pt", CPU)
    for name, tensor in trained.model.state_dict().items():
        assert torch.equal(tensor, second.model.state_dict()[name]), name
    assert trained.model.appearance.abs().max() > 0

    points = torch.eye(3) * RADIUS
    w2c = scene.unit_w2c(scene.views)[0]
    colour, picture = trained.colour(points, torch.eye(3)), render_view(trained, K, w2c, SIZE, SIZE).colour
    with torch.no_grad():
        trained.model.appearance.copy_(trained.model.appearance.mean(0).expand_as(trained.model.appearance).clone())
    torch.testing.assert_close(trained.colour(points, torch.eye(3)), colour)
    assert np.abs(render_view(trained, K, w2c, SIZE, SIZE).colour - picture).max() < 1e-5
