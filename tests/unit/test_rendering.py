"""NeuS opacity and rendering: the paper's formula, its limits, and images of a field whose surface is known."""

import math

import numpy as np
import pytest
import torch

from nsr.config import BackgroundConfig, EncodingConfig, ModelConfig
from nsr.errors import DeviceUnavailable
from nsr.fields.model import SurfaceModel
from nsr.kernels.neus.alpha import annealed_cosine, cell_visibility, neus_alpha
from nsr.rendering import render
from nsr.rendering.device import pick_device, rays_at_once
from nsr.rendering.render import render_view
from nsr.rendering.volume import background_colour, draw_samples, render_samples, step_length
from nsr.train import model_file


def sphere_model(kind="black", sharpness=400.0):
    encoding = EncodingConfig(levels=2, log2_table=8, base_resolution=4, finest_resolution=8)
    config = ModelConfig(encoding=encoding, background=BackgroundConfig(kind=kind), sharpness_start=sharpness)
    model = SurfaceModel(config, torch.Generator().manual_seed(0))
    with torch.no_grad():
        model.sdf.table.zero_()
    return model


class Field:
    def __init__(self, model, steps=1024):
        self.march_steps, self.ray_chunk = steps, 1000
        self.march_backend = "reference"
        self.members = [render.Member(model, torch.ones(8, 8, 8, dtype=torch.bool))]


def test_alpha_is_the_formula_of_the_paper():
    sdf, cosine = torch.tensor([0.02, -0.01, 0.3]), torch.tensor([-1.0, -0.4, -0.9])
    s, delta = torch.tensor(64.0), 0.01
    ahead, behind = sdf + cosine * delta / 2, sdf - cosine * delta / 2
    expected = ((torch.sigmoid(s * behind) - torch.sigmoid(s * ahead)) / torch.sigmoid(s * behind)).clamp(min=0)
    torch.testing.assert_close(neus_alpha(sdf, cosine, delta, s), expected, atol=1e-6, rtol=1e-4)


def test_alpha_gradient_against_finite_differences():
    sdf = torch.tensor([0.02, -0.03, 0.001], dtype=torch.float64, requires_grad=True)
    cosine = torch.tensor([-0.9, -0.2, -0.6], dtype=torch.float64, requires_grad=True)
    sharpness = torch.tensor(50.0, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda f, c, s: neus_alpha(f, c, 0.02, s), (sdf, cosine, sharpness), atol=1e-6)


def test_transmittance_through_a_plane_is_the_logistic_function():
    # Along a straight crossing the product of (1 - alpha) telescopes to a ratio of logistic functions.
    t = torch.linspace(-0.5, 0.5, 2001, dtype=torch.float64)
    delta = float(t[1] - t[0])
    alpha = neus_alpha(-t, -torch.ones_like(t), delta, torch.tensor(100.0, dtype=torch.float64))
    left = torch.prod(1 - alpha[: len(t) // 2 + 1])
    assert float(left) == pytest.approx(1 / (1 + math.exp(100 * delta / 2)), rel=2e-2)


def test_annealed_cosine_ends():
    c = torch.linspace(-1, 1, 9)
    torch.testing.assert_close(annealed_cosine(c, 1.0), -torch.relu(-c))
    torch.testing.assert_close(annealed_cosine(c, 0.0), -(0.5 - 0.5 * c))
    assert ((annealed_cosine(c, 0.3) <= 0) & (annealed_cosine(c, 0.3) >= -1)).all()


def test_visibility_keeps_the_surface_and_drops_the_rest():
    s = torch.tensor(200.0)
    sdf = torch.tensor([0.0, 0.02, -0.02, 0.5, -0.5, 0.06, -0.06])
    seen = cell_visibility(sdf, s, step=0.005, reach=0.02, threshold=1e-3) > 1e-3
    assert seen.tolist() == [True, True, True, False, False, False, False]


def test_dropping_invisible_cells_changes_no_pixel():
    model = sphere_model()
    origin = torch.tensor([[0.0, 0, -2.0], [0.2, 0.1, -2.0], [0.49, 0, -2.0]])
    direction = torch.tensor([[0.0, 0, 1]]).expand(3, 3)
    axis = (torch.arange(64) + 0.5) / 32 - 1
    points = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
    step = step_length(2048)
    with torch.no_grad():
        visible = cell_visibility(model.sdf.value(points), model.sharpness(), step, 3**0.5 / 64, 1e-3) > 1e-3
        images = []
        for occupied in (torch.ones(64, 64, 64, dtype=torch.bool), visible.reshape(64, 64, 64)):
            samples = draw_samples(origin, direction, occupied, step, None)
            images.append(render_samples(model, origin, direction, samples, step=step, cosine_ratio=1.0, background=None))
    assert len(images[1].t) < 0.2 * len(images[0].t)
    torch.testing.assert_close(images[0].colour, images[1].colour, atol=3e-3, rtol=0)
    torch.testing.assert_close(images[0].opacity, images[1].opacity, atol=3e-3, rtol=0)


@pytest.mark.parametrize("offset", [0.0, 0.35])
def test_rendered_sphere_has_the_right_depth_normal_and_outline(offset):
    field = Field(sphere_model())
    K = np.array([[60.0, 0, 20], [0, 60, 20], [0, 0, 1]])
    w2c = np.eye(4)
    w2c[:3, 3] = [offset, 0, 2.0]
    view = render_view(field, K, w2c, 40, 40)
    centre = np.array([-offset, 0.0, -2.0])
    ys, xs = np.nonzero(view.opacity > 0.9)
    errors, bends = [], []
    for y, x in zip(ys, xs, strict=True):
        d = np.linalg.inv(K) @ [x + 0.5, y + 0.5, 1]
        length = np.linalg.norm(d)
        d /= length
        along = -(centre @ d)
        square = along**2 - centre @ centre + 0.25
        if square < 0.02:
            continue
        t = along - math.sqrt(square)
        errors.append(abs(view.depth[y, x] - t / length))
        bends.append((centre + t * d) @ view.normal[y, x] / 0.5)
    assert len(errors) > 100
    assert np.mean(errors) < 0.015
    assert np.min(bends) > 0.9
    assert view.opacity[0, 0] < 1e-6
    assert view.depth[0, 0] == 0


def test_a_model_read_for_triton_renders_and_marches_with_it(trained, monkeypatch):
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    K = np.array([[9.0, 0, 4], [0, 9, 4], [0, 0, 1]])
    w2c = np.eye(4)
    w2c[:3, 3] = [0.1, 0, 2.2]
    views, seen = [], []
    for backend in ("reference", "triton"):
        monkeypatch.setattr(model_file, "resolve_backend", lambda name, device, backend=backend: backend)
        field = model_file.load_model(trained / "run" / "model.pt", device)
        note = lambda *rays, backend: seen.append(backend) or draw_samples(*rays, backend=backend)  # noqa: E731
        monkeypatch.setattr(render, "draw_samples", note)
        assert field.march_backend == field.model.sdf.backend == backend
        views.append(render_view(field, K, w2c, 8, 8))
    assert set(seen) == {"reference", "triton"}
    assert views[0].opacity.max() > 0.5
    for slow, fast in zip(*views, strict=True):
        np.testing.assert_allclose(fast, slow, atol=5e-3)


def test_on_a_cpu_a_read_model_marches_with_the_reference(trained):
    assert model_file.load_model(trained / "run" / "model.pt", torch.device("cpu")).march_backend == "reference"


def test_a_view_is_the_same_however_many_rays_fit_into_memory(monkeypatch):
    field = Field(sphere_model())
    K, w2c = np.array([[30.0, 0, 20], [0, 30, 20], [0, 0, 1]]), np.eye(4)
    w2c[2, 3] = 2.0
    expected = render_view(field, K, w2c, 40, 40)
    whole, tried = render.draw_samples, []

    def small_memory(origin, *rest, **options):
        tried.append(len(origin))
        if len(origin) > 300:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return whole(origin, *rest, **options)

    monkeypatch.setattr(render, "draw_samples", small_memory)
    found = render_view(field, K, w2c, 40, 40)
    assert tried == [1000, 500, 250, 250, 250, 250, 250, 250, 100]
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    monkeypatch.setattr(render, "_FEWEST_RAYS", 400)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        render_view(field, K, w2c, 40, 40)


def test_a_device_has_its_own_number_of_rays_unless_the_settings_name_one(trained, tmp_path):
    path = trained / "run" / "model.pt"
    assert model_file.load_model(path, torch.device("cpu")).ray_chunk == rays_at_once(torch.device("cpu")) == 1024
    assert rays_at_once(torch.device("cuda")) > 1024
    data = torch.load(path, weights_only=True)
    data["train_config"]["march"]["ray_chunk"] = 77
    torch.save(data, tmp_path / "model.pt")
    assert model_file.load_model(tmp_path / "model.pt", torch.device("cpu")).ray_chunk == 77


def test_backgrounds():
    generator = torch.Generator().manual_seed(0)
    origin, direction = torch.tensor([[0.0, 0, -3]]), torch.tensor([[0.0, 1, 0]])
    assert background_colour(sphere_model("none"), origin, direction, generator) is None
    assert background_colour(sphere_model("white"), origin, direction, generator).tolist() == [[1, 1, 1]]
    assert background_colour(sphere_model("black"), origin, direction, generator).tolist() == [[0, 0, 0]]
    one, two = (background_colour(sphere_model("random"), origin, direction, generator) for _ in range(2))
    assert not torch.equal(one, two)
    assert background_colour(sphere_model("random"), origin, direction, None).tolist() == [[0, 0, 0]]


def test_learned_background_sees_all_samples_once():
    # A background of constant colour must come out as that colour, whatever the density: the weights add up to 1.
    model = sphere_model("learned")
    with torch.no_grad():
        for p in model.background.colour.weights:
            p.zero_()
        model.background.colour.biases[-1].copy_(torch.tensor([0.5, -0.2, 1.0]))
    origin = torch.tensor([[0.0, 0, -3], [0, 0, -3]])
    direction = torch.nn.functional.normalize(torch.tensor([[0.0, 0, 1], [0, 1, 0.2]]), dim=1)
    colour = background_colour(model, origin, direction, None)
    torch.testing.assert_close(colour, torch.sigmoid(torch.tensor([[0.5, -0.2, 1.0]])).expand(2, 3), atol=1e-3, rtol=0)


def test_a_missing_gpu_is_an_error():
    if torch.cuda.is_available():
        assert pick_device("auto").type == "cuda"
        return
    assert pick_device("auto").type == "cpu"
    with pytest.raises(DeviceUnavailable, match="device 'cuda' was asked for"):
        pick_device("cuda")
