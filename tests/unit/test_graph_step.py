"""The step for CUDA graphs against the plain step: same rays and samples, same loss and gradients (interpreter or GPU)."""

import shutil

import pytest
import torch

from nsr.fields.model import SurfaceModel
from nsr.kernels.march import Samples
from nsr.kernels.packed import Packed
from nsr.kernels.points import points_in_ball, points_of_table
from nsr.losses import distortion, eikonal, mask_entropy, opaque_entropy, zero_level
from nsr.rendering.volume import as_photographed, render_samples
from nsr.sampling.occupancy import OccupancyGrid
from nsr.train import average
from nsr.train.graph import GraphTrainer, obstacle
from nsr.train.loop import Trainer
from nsr.train.patch import load_patches, patch_term
from nsr.train.points import SurfacePoints
from nsr.train.schedule import inverse_cutoff, schedule_value
from tests.unit.graph_settings import DEVICE, ancestors, patches, photographs, pixel_store, tiny_config
from tests.unit.training_scene import sphere_scene

pytestmark = pytest.mark.usefixtures("few_operations")


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    return sphere_scene(tmp_path_factory.mktemp("graph") / "scene")


def closed_form_with_curvature(config):
    config.train.loss.curvature, config.train.random_points = 0.01, 0
    return config


def known_points(config):
    config.train.loss.points, config.train.loss.points_cutoff, config.train.sparse_points = [[0, 0.0], [2, 0.5]], 0.1, 40
    return config


def known_points_alone(config):
    config.train.random_points = 0
    return known_points(config)


def surface_points():
    """Points near the sphere's surface, with widths on both sides of the distances, weights, and entries by length of track."""
    generator = torch.Generator().manual_seed(6)
    position = torch.nn.functional.normalize(torch.randn(30, 3, generator=generator), dim=1) * 0.5
    facts = torch.rand(30, 2, generator=generator) * torch.tensor([0.2, 1.0]) + 0.01
    entries = torch.repeat_interleave(torch.arange(30), torch.arange(30) % 4 + 1).int()
    return SurfacePoints(torch.cat([position, facts], 1).to(DEVICE), entries.to(DEVICE))


RECIPES = {
    "known points": known_points,
    "known points without random ones": known_points_alone,
    "plain": lambda config: config,
    "patches": patches,
    "photographs": photographs,
    "finite differences": ancestors,
    "finite differences, a network beyond the kernels": lambda config: ancestors(config, hidden=16),
    "closed form and curvature": closed_form_with_curvature,
}


def schedule(config, name):
    """A value of each column of the schedules' table."""
    if name in ("rate", "difference"):
        return 1.0  # not the loss's business
    if name == "inverse_cutoff":
        return inverse_cutoff(config.train, config.train.steps)
    return 0.3 if name == "cosine" else schedule_value(getattr(config.train.loss, name), config.train.steps)


@pytest.mark.parametrize(
    ("kind", "recipe"), [("learned", "plain"), ("learned", "photographs"), *(("random", recipe) for recipe in RECIPES)]
)
def test_loss_and_gradients_are_those_of_the_plain_step(scene, kind, recipe):
    config = RECIPES[recipe](tiny_config(kind))
    known, store = surface_points(), pixel_store(scene)
    views = len(store.tables.starts)
    plain, fast = (
        SurfaceModel(config.model, torch.Generator().manual_seed(1), backend, views=views).to(DEVICE)
        for backend in ("reference", "triton")
    )
    for model in (plain, fast):  # a table that matters, and photographs that differ
        with torch.no_grad():
            model.sdf.table.mul_(300)
            for own in model.photograph_parameters():
                own.copy_(0.3 * torch.randn(own.shape, generator=torch.Generator().manual_seed(2)))
    seen = load_patches(scene, scene.split("train"), store, config.train.patch)
    graph = GraphTrainer(fast, OccupancyGrid(8, DEVICE), store, config.train, DEVICE, known=known, patches=seen)
    fast.sdf.active = graph.active.fill_(2)
    rays, samples = graph.draw()
    # What a table of schedules holds at a step, but for the weights of terms that begin at 0.
    now = {name: schedule(config, name) for name in graph.names}
    fast.sdf.difference = torch.full((1,), plain.sdf.difference_step(), device=DEVICE)
    loss, facts = graph.loss({name: torch.as_tensor(value, device=DEVICE) for name, value in now.items()}, rays, samples)
    loss.backward()

    used = slice(graph.points, int(samples.total))
    packed = Packed(samples.ray[used].long(), samples.starts.long() - graph.points, samples.counts.long())
    learned = kind == "learned"
    codes = plain.codes(len(rays.view), rays.view)
    behind = plain.background(rays.origin, rays.direction, rays.noise[:, 0], codes=codes) if learned else rays.noise
    out = render_samples(
        plain,
        rays.origin,
        rays.direction,
        Samples(samples.t[used], packed),
        step=graph.length,
        cosine_ratio=0.3,
        background=behind,
        view=rays.view,
    )
    cut_out = {} if learned else {"opacity": out.opacity, "backdrop": behind}
    out = out._replace(colour=as_photographed(plain, out.colour, rays.view, **cut_out))
    target = rays.colour if learned else rays.colour * rays.mask[:, None] + behind * (1 - rays.mask[:, None])
    valid = samples.kept & rays.valid
    position = torch.empty(40, 3, device=DEVICE)
    width, weight = points_of_table(position, *known, seed=config.train.seed, step=graph.step).unbind(1)
    points = points_in_ball(torch.empty(32, 3, device=DEVICE), seed=config.train.seed, step=graph.step)
    terms = {
        "colour_weight": (out.colour - target).abs().mean(1)[valid].mean(),
        "mask": mask_entropy(out.opacity, rays.mask)[valid].mean(),
        "opaque": opaque_entropy(out.opacity)[valid].mean(),
        "eikonal": eikonal(out.gradient).mean(),
        "eikonal_random": eikonal(plain.sdf(points).gradient).mean(),
        "curvature": plain.sdf.finite_differences(out.position, out.sdf)[1].abs().mean(),
        "points": (weight * zero_level(plain.sdf.value(position), width, 1 / 0.1)).mean(),
        "patch": patch_term(
            out.sdf,
            out.gradient,
            out.t,
            out.packed,
            rays,
            seen,
            config=config.train.patch,
            step=graph.length,
            backend="reference",
        ),
        "distortion": distortion(out.weights, out.t, graph.length, out.packed)[samples.kept].mean(),
    }
    expected = sum(now[name] * terms[name] for name in graph.terms)
    expected.backward()
    assert ("patch" in facts) == (recipe == "patches")
    assert float(facts.get("patch", 1)) > 1e-3
    assert int(facts["rays"]) == int(samples.kept.sum()) == 16
    for name in graph.terms:
        torch.testing.assert_close(facts[name.removesuffix("_weight")], terms[name].detach(), rtol=2e-3, atol=1e-5)
    torch.testing.assert_close(loss, expected, rtol=2e-3, atol=1e-5)
    found = dict(fast.named_parameters())
    for name, parameter in plain.named_parameters():
        grad = found[name].grad
        if name in ("sdf.table", "background.table"):
            grad = graph.storages[0 if name.startswith("sdf") else 1].gradient
        error = (grad - parameter.grad).norm() / parameter.grad.norm().clamp(min=1e-9)
        assert error < 0.03, (name, float(error))


def test_a_resumed_run_continues_as_it_was(scene, tmp_path, monkeypatch):
    """The mean of the parameters, too, which the step changes in place."""
    monkeypatch.setattr(average, "EVERY", 1)
    config = tiny_config("random")
    config.train.checkpoint_every, config.train.average = 100, 1.0
    whole = Trainer(scene, config, tmp_path / "whole", DEVICE)
    passed = []

    def advance(trainer):
        trainer.advance()
        trainer.mean.add(trainer.step)
        return [parameter.detach().clone() for parameter in trainer.model.parameters()]

    passed += [advance(whole), advance(whole)]
    whole.save()
    shutil.copytree(tmp_path / "whole", tmp_path / "part")
    second = Trainer(scene, config, tmp_path / "part", DEVICE)
    assert second.resume()
    for _ in range(2):
        passed.append(advance(whole))
        advance(second)
    assert whole.seen_so_far() == second.seen_so_far()
    for one, other in zip(whole.model.parameters(), second.model.parameters(), strict=True):
        torch.testing.assert_close(other, one, rtol=1e-3, atol=1e-4)
    second.mean.install()
    for states, parameter in zip(zip(*passed, strict=True), second.model.parameters(), strict=True):
        torch.testing.assert_close(parameter.detach(), torch.stack(states).mean(0), rtol=1e-3, atol=1e-4)
        assert len(states) == 4


def test_every_term_and_the_step_of_differences_follow_their_schedules(scene):
    config = ancestors(tiny_config("random"))
    config.model.sdf.difference_length = [[0, 0.04], [2, 0.02]]
    model = SurfaceModel(config.model, torch.Generator().manual_seed(1), "triton").to(DEVICE)
    graph = GraphTrainer(model, OccupancyGrid(8, DEVICE), pixel_store(scene), config.train, DEVICE)
    assert set(graph.terms) == {"colour_weight", "mask", "eikonal", "eikonal_random", "opaque", "curvature", "distortion"}
    table = dict(zip(graph.names, graph.schedule.T.tolist(), strict=True))
    assert table["difference"] == pytest.approx([0.04, 0.03, 0.02, 0.02])
    assert table["distortion"] == pytest.approx([0.0, 0.2, 0.4, 0.4])
    graph.step.fill_(1)
    graph.advance(1)
    assert float(model.sdf.difference_step()) == pytest.approx(0.03)
    assert all(torch.isfinite(value).all() for value in (*graph.facts.values(), *model.parameters()))


def test_back_ends_without_a_graph_are_named():
    assert obstacle("triton", "triton") == ""
    assert "reference" in obstacle("reference", "triton")
    assert "nerfacc" in obstacle("triton", "nerfacc")
