"""Exposure of each photograph: the transform, what it finds in spoiled photographs, and the numbers for views that have none."""

import numpy as np
import pytest
import torch

from nsr.config import Config
from nsr.errors import CheckpointError, ConfigError
from nsr.evaluate.exposure import corrected
from nsr.evaluate.views import psnr
from nsr.fields.model import SurfaceModel
from nsr.fields.photograph import Exposure
from nsr.rendering.render import render_view
from nsr.rendering.volume import as_photographed
from nsr.train.checkpoint import load_dict, save_atomically
from nsr.train.loop import train_scene
from nsr.train.model_file import exposures, load_model
from nsr.train.optim import make_optimizer
from tests.unit.training_scene import SIZE, K, quick_config, sphere_scene

CPU = torch.device("cpu")
VIEWS = 5


def learned(kind, scale=0.2):
    """An `Exposure` in float64 that has learned something, and colours, views and shares of rays."""
    generator = torch.Generator().manual_seed(1)
    exposure = Exposure(kind, VIEWS).double()
    with torch.no_grad():
        exposure.table.copy_(scale * torch.randn(exposure.table.shape, generator=generator) + 0.3)
    colour, share = torch.rand(9, 3, generator=generator).double(), torch.rand(9, generator=generator).double()
    return exposure, colour, torch.randint(VIEWS, (9,), generator=generator).int(), share


@pytest.mark.parametrize("kind", ["gain", "affine"])
def test_a_photograph_is_the_rendering_times_its_matrix(kind):
    exposure, colour, view, share = learned(kind)
    transforms = exposure.transforms()
    for part in (None, share):
        alpha = torch.ones(9, 1) if part is None else part[:, None]
        joined = torch.cat([colour, alpha], dim=1)
        expected = torch.stack([transforms[v] @ row for v, row in zip(view, joined, strict=True)])
        torch.testing.assert_close(exposure(colour, view, part), expected)
    assert torch.autograd.gradcheck(
        lambda table, c, s: torch.func.functional_call(exposure, {"table": table}, (c, view, s)),
        (exposure.table.detach().requires_grad_(), colour.requires_grad_(), share.requires_grad_()),
    )


def test_the_average_camera_changes_nothing():
    gain, affine = learned("gain")[0].transforms(), learned("affine")[0].transforms()
    torch.testing.assert_close(gain.diagonal(dim1=1, dim2=2).log().mean(0), torch.zeros(3).double())
    torch.testing.assert_close(affine.mean(0), torch.eye(3, 4).double())
    for kind in ("gain", "affine"):
        fresh, colour, view, share = Exposure(kind, VIEWS), torch.rand(4, 3), torch.arange(4), torch.rand(4)
        assert torch.equal(fresh(colour, view, share), colour)


@pytest.mark.parametrize("kind", ["gain", "affine"])
def test_no_exposure_reaches_the_backdrop_of_a_cut_out_object(kind):
    model = small_model(exposure=kind)
    model.exposure = learned(kind)[0].float()
    front, view, backdrop = 0.5 * torch.rand(4, 3), torch.tensor([0, 1, 2, 2]), torch.rand(4, 3)
    opacity = torch.tensor([0.0, 1.0, 0.6, 0.6])
    front[0] = 0
    seen = as_photographed(model, front + (1 - opacity)[:, None] * backdrop, view, opacity=opacity, backdrop=backdrop)
    torch.testing.assert_close(seen[0], backdrop[0])
    black = as_photographed(model, front, view, opacity=opacity)
    torch.testing.assert_close(seen, black + (1 - opacity)[:, None] * backdrop)
    torch.testing.assert_close(black[1], as_photographed(model, front, view)[1])


def small_model(views=VIEWS, **model):
    config = quick_config().model
    for name, value in model.items():
        setattr(config, name, value)
    return SurfaceModel(config, torch.Generator().manual_seed(0), views=views)


def test_without_exposure_a_model_is_what_it_was():
    plain, none = small_model(views=0), small_model()
    assert plain.state_dict().keys() == none.state_dict().keys()
    assert {name.split(".")[0] for name in none.state_dict()} == {"sdf", "radiance", "log_sharpness"}
    assert len(make_optimizer(none, Config().train.optim).param_groups) == 3
    exposed = small_model(exposure="gain")
    assert exposed.state_dict().keys() - none.state_dict().keys() == {"exposure.table"}
    for name, value in none.state_dict().items():
        assert torch.equal(value, exposed.state_dict()[name]), "the random start does not shift"
    group = make_optimizer(exposed, Config().train.optim).param_groups[-1]
    assert group["params"] == [exposed.exposure.table] and group["weight_decay"] == 0
    with pytest.raises(ConfigError, match=r"model\.exposure"):
        small_model(views=0, exposure="gain")


def spoiled(steps, kind, root, gains):
    """Summary of a training on photographs with these gains."""
    config = quick_config(steps=steps, samples=4000)
    config.model.radiance.position, config.model.radiance.hidden = True, 32
    config.model.exposure, config.train.optim.photograph_rate = kind, 0.01
    scene = sphere_scene(root / "scene", frequency=3, gains=gains)
    return train_scene(scene, config, root / kind, CPU), scene


@pytest.fixture(scope="module")
def spoils():
    return np.exp(np.random.default_rng(0).uniform(-0.25, 0.25, (12, 3)))


def test_gains_of_spoiled_photographs_are_found(spoils, tmp_path):
    torch.set_num_threads(1)
    without, _ = spoiled(300, "none", tmp_path / "one", spoils)
    summary, scene = spoiled(300, "gain", tmp_path / "two", spoils)
    injected = np.log(spoils[[not view.held_out for view in scene.views]])
    injected -= injected.mean(0)
    assert list(summary["exposure"]) == summary["train_views"]
    transforms = np.array([summary["exposure"][name] for name in summary["train_views"]])
    found = np.log(np.diagonal(transforms, axis1=1, axis2=2))
    assert np.sqrt(((found - injected) ** 2).mean()) < 0.35 * np.sqrt((injected**2).mean())
    assert np.corrcoef(found.ravel(), injected.ravel())[0, 1] > 0.95
    assert summary["psnr_train"] > without["psnr_train"] + 2.5
    assert without["exposure"] == {}


def test_a_model_file_keeps_them_and_renders_without(tmp_path):
    gains = np.ones((12, 3))
    summary, scene = spoiled(4, "affine", tmp_path, gains)
    path = tmp_path / "affine" / "model.pt"
    trained = load_model(path, CPU)
    assert exposures(trained.model, trained.info["train_views"]) == summary["exposure"]
    w2c = scene.unit_w2c(scene.views)[0]
    before = render_view(trained, K, w2c, SIZE, SIZE).colour
    with torch.no_grad():
        trained.model.exposure.table.add_(torch.rand_like(trained.model.exposure.table))
    assert np.array_equal(render_view(trained, K, w2c, SIZE, SIZE).colour, before)

    data = load_dict(path, CPU)
    data["info"]["train_views"].pop()
    save_atomically(data, path)
    with pytest.raises(CheckpointError, match="train again"):
        load_model(path, CPU)
    # As files were before there was exposure.
    data["model"].pop("exposure.table")
    data["model_config"].pop("exposure")
    save_atomically(data, path)
    assert load_model(path, CPU).model.exposure is None


def pictures(seed=0):
    rng = np.random.default_rng(seed)
    return rng.uniform(0.2, 0.7, (20, 16, 3)), rng


def test_the_best_gain_is_that_of_the_photograph():
    image, rng = pictures()
    pixels = rng.uniform(size=(20, 16)) < 0.7
    gain = np.array([1.3, 0.9, 0.7])
    reference = np.where(pixels[..., None], image * gain, rng.uniform(size=image.shape))
    assert psnr(corrected(image, reference, pixels, kind="gain"), reference, pixels) == 100.0
    matrix = np.eye(3) + 0.05 * rng.normal(size=(3, 3))
    bent = image @ matrix.T + 0.02
    every = np.ones((20, 16), dtype=bool)
    assert psnr(corrected(image, bent, every, kind="affine"), bent, every) == 100.0
    noisy = (bent + 0.1 * rng.normal(size=bent.shape)).clip(0, 1)
    steps = [psnr(image, noisy, every), *(psnr(corrected(image, noisy, every, kind=k), noisy, every) for k in ("gain", "affine"))]
    assert steps == sorted(steps)
    best = corrected(image, noisy, every, kind="gain")[..., 0] / image[..., 0]
    for other in (0.99, 1.01):  # least squares: no other factor of a channel is better
        assert ((image[..., 0] * best * other - noisy[..., 0]) ** 2).sum() > ((image[..., 0] * best - noisy[..., 0]) ** 2).sum()


@pytest.mark.parametrize("kind", ["gain", "affine"])
def test_a_backdrop_is_not_corrected(kind):
    """An object before white, half of the picture, a gain of 0.8: found as if there were no white, and the white stays."""
    image, rng = pictures(1)
    share = np.clip(np.linspace(-1, 2, 20), 0, 1)[:, None, None] * np.ones((20, 16, 1))
    white = np.concatenate([np.repeat(1 - share, 3, axis=2), share], axis=2)
    every = np.ones((20, 16), dtype=bool)
    rendered, photo = image * share + (1 - share), 0.8 * image * share + (1 - share)
    assert psnr(corrected(rendered, photo, every, kind=kind, backdrop=white), photo, every) == 100.0
    assert psnr(corrected(rendered, photo, every, kind="gain"), photo, every) < 40


def test_black_and_empty_pictures():
    black, every = np.zeros((4, 4, 3)), np.ones((4, 4), dtype=bool)
    assert np.array_equal(corrected(black, black + 0.5, every, kind="gain"), black)
    assert np.array_equal(corrected(black, black, ~every, kind="affine"), black)
