"""The step for CUDA graphs against the plain step: same rays and samples, same loss and gradients (interpreter or GPU)."""

import pytest
import torch

from nsr.fields.model import SurfaceModel
from nsr.kernels.march import Samples
from nsr.kernels.packed import Packed
from nsr.kernels.points import points_in_ball
from nsr.losses import eikonal, mask_entropy
from nsr.rendering.volume import learned_background, render_samples
from nsr.sampling.occupancy import OccupancyGrid
from nsr.train.graph import GraphTrainer, obstacle
from nsr.train.loop import Trainer
from tests.unit.graph_settings import DEVICE, pixel_store, tiny_config
from tests.unit.training_scene import sphere_scene


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    return sphere_scene(tmp_path_factory.mktemp("graph") / "scene")


@pytest.mark.parametrize("kind", ["random", "learned"])
def test_loss_and_gradients_are_those_of_the_plain_step(scene, kind):
    config = tiny_config(kind)
    plain = SurfaceModel(config.model, torch.Generator().manual_seed(1), "reference").to(DEVICE)
    fast = SurfaceModel(config.model, torch.Generator().manual_seed(1), "triton").to(DEVICE)
    for model in (plain, fast):  # a table that matters
        with torch.no_grad():
            model.sdf.table.mul_(300)
    graph = GraphTrainer(fast, OccupancyGrid(8, DEVICE), pixel_store(scene), config.train, DEVICE)
    fast.sdf.active = graph.active.fill_(2)
    rays, samples = graph.draw()
    weights = {
        "cosine": torch.tensor(0.3, device=DEVICE),
        "colour_weight": 1.0,
        "mask": 0.1,
        "eikonal": 0.1,
        "eikonal_random": 0.02,
    }
    loss, facts = graph.loss({name: torch.as_tensor(value, device=DEVICE) for name, value in weights.items()}, rays, samples)
    loss.backward()

    used = slice(graph.points, int(samples.total))
    packed = Packed(samples.ray[used].long(), samples.starts.long() - graph.points, samples.counts.long())
    learned = kind == "learned"
    behind = learned_background(plain, rays.origin, rays.direction, rays.noise[:, :1]) if learned else rays.noise
    out = render_samples(
        plain,
        rays.origin,
        rays.direction,
        Samples(samples.t[used], packed),
        step=graph.length,
        cosine_ratio=0.3,
        background=behind,
    )
    target = rays.colour if learned else rays.colour * rays.mask[:, None] + behind * (1 - rays.mask[:, None])
    valid = samples.kept & rays.valid
    points = points_in_ball(torch.empty(32, 3, device=DEVICE), seed=config.train.seed, step=graph.step)
    expected = (
        (out.colour - target).abs().mean(1)[valid].mean()
        + 0.1 * mask_entropy(out.opacity, rays.mask)[valid].mean()
        + 0.1 * eikonal(out.gradient).mean()
        + 0.02 * eikonal(plain.sdf(points).gradient).mean()
    )
    expected.backward()
    assert int(facts["rays"]) == int(samples.kept.sum()) == 16
    torch.testing.assert_close(loss, expected, rtol=2e-3, atol=1e-5)
    found = dict(fast.named_parameters())
    for name, parameter in plain.named_parameters():
        grad = found[name].grad
        if name.endswith("table"):
            grad = graph.storages[0 if name.startswith("sdf") else 1].gradient
        error = (grad - parameter.grad).norm() / parameter.grad.norm().clamp(min=1e-9)
        assert error < 0.03, (name, float(error))


def test_a_resumed_run_continues_as_it_was(scene, tmp_path):
    config = tiny_config("random")
    config.train.checkpoint_every = 100
    whole, first = (Trainer(scene, config, tmp_path / name, DEVICE) for name in ("whole", "part"))
    for _ in range(2):
        whole.advance()
        first.advance()
    first.save()
    second = Trainer(scene, config, tmp_path / "part", DEVICE)
    assert second.resume()
    for _ in range(2):
        whole.advance()
        second.advance()
    assert whole.seen_so_far() == second.seen_so_far()
    for one, other in zip(whole.model.parameters(), second.model.parameters(), strict=True):
        torch.testing.assert_close(other, one, rtol=1e-3, atol=1e-4)


def test_settings_without_a_graph_are_named():
    config = tiny_config("random")
    assert obstacle(config.model, config.train, "triton", "triton") == ""
    assert "reference" in obstacle(config.model, config.train, "reference", "triton")
    config.train.loss.distortion = [[0, 0.0], [100, 0.01]]
    assert obstacle(config.model, config.train, "triton", "triton") == "train.loss.distortion"
    config.model.sdf.normals = "finite_difference"
    assert "normals" in obstacle(config.model, config.train, "triton", "triton")
