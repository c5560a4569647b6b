"""The shipped presets: each trains, and those after other systems say what these systems do."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from nsr.config import Config, resolve
from nsr.data.raw import Points
from nsr.fields.sdf import active_levels, difference_length, grid_spec
from nsr.scene.scene import Scene
from nsr.train.loop import Trainer, train_scene
from nsr.train.model_file import load_model
from nsr.train.optim import rate_factor
from nsr.train.schedule import loss_weight
from tests.unit.training_scene import sphere_scene

METHODS = Path(__file__).resolve().parents[2] / "config" / "methods"
PRESETS = sorted(METHODS.glob("*.yaml"))
# Fewer and smaller parts of each kind, so that what a preset switches on stays on.
SMALL = [
    "model.encoding.log2_table=9", "model.encoding.levels=4", "model.encoding.base_resolution=4",
    "model.encoding.finest_resolution=32", "model.sdf.hidden=8", "model.sdf.geometry_features=3",
    "model.radiance.hidden=8", "model.background.levels=2", "model.background.log2_table=8", "model.background.hidden=8",
    "model.background.base_resolution=4", "model.background.finest_resolution=8", "train.steps=3", "train.samples=500",
    "train.start_rays=32", "train.max_rays=64", "train.march.steps=64", "train.march.grid_resolution=8",
    "train.log_every=1", "train.watchdog.every=1", "train.watchdog.after=0",
]  # fmt: skip
CPU = torch.device("cpu")


def scene_with_points(root) -> Scene:
    """Of every preset's kind of input: photographs, masks, and sparse points of the surface that three views see."""
    scene = sphere_scene(root, views=4)
    way = np.random.default_rng(3).normal(size=(40, 3))
    xyz = scene.similarity.apply(0.5 * way / np.linalg.norm(way, axis=1, keepdims=True))
    seen = np.tile(np.arange(1, 4, dtype=np.int32), 40)  # view 0 is held out
    return replace(scene, points=Points(xyz, np.zeros((40, 3), np.uint8), np.full(40, 0.5), np.arange(41) * 3, seen))


def preset(name, *overrides) -> Config:
    return resolve([METHODS / f"{name}.yaml"], overrides)


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_a_few_steps_of_every_preset(tmp_path, path):
    config = resolve([path], [*SMALL, "train.random_points=16"])
    scene = scene_with_points(tmp_path / "scene")
    summary = train_scene(scene, config, tmp_path / "out", CPU)
    assert summary["masks"] == (config.train.use_masks != "never")
    records = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    wanted = {"colour", *(name for name in ("mask", "eikonal", "curvature", "points") if loss_weight(config.train, name, 2) > 0)}
    assert wanted <= records[-1].keys()
    assert all(np.isfinite(record[name]) for record in records for name in ("loss", *wanted & record.keys()))
    trained = load_model(tmp_path / "out" / "model.pt", CPU)
    assert trained.model.config == config.model


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_resume_of_every_preset(tmp_path, path):
    """State that a preset adds, such as the step of finite differences, belongs to the step and not to the run."""
    config = resolve([path], [*SMALL, "train.random_points=16"])
    scene = scene_with_points(tmp_path / "scene")
    whole, first = (Trainer(scene, config, tmp_path / name, CPU) for name in ("whole", "cut"))
    for trainer, steps in ((whole, 3), (first, 2)):
        for _ in range(steps):
            trainer.advance()
    first.save()
    second = Trainer(scene, config, tmp_path / "cut", CPU)
    assert second.resume()
    second.advance()
    assert second.model.sdf.difference_step() == whole.model.sdf.difference_step()
    for one, other in zip(whole.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_instant_nsr_pl_is_neus_dtu():
    config = preset("instant-nsr-pl")
    spec = grid_spec(config.model.encoding)
    assert 2 * spec.entries == 13_969_152
    assert spec.growth == pytest.approx(1.3195079107728942, rel=1e-6)
    radiance = config.model.radiance
    assert config.model.sdf.geometry_features + 3 + radiance.view_degree**2 + 3 * radiance.position == 32
    assert [rate_factor(config.train.optim, step, 20000) for step in (0, 5000, 20000)] == pytest.approx([1, 1, 0.1])
    assert config.model.sharpness_start == pytest.approx(np.exp(3), rel=1e-5)


def test_instant_nsr_is_its_network_sdf():
    config = preset("instant-nsr")
    spec = grid_spec(config.model.encoding)
    assert spec.growth == pytest.approx(1.381913, rel=1e-5)
    lengths = [difference_length(config.model.encoding, config.model.sdf, step) for step in (0, 10000, 19000, 20000)]
    # 0.005 (1 - min(epoch / 200, 0.95)), 200 epochs being 20 000 steps.
    assert lengths == pytest.approx([0.005, 0.0025, 0.00025, 0.00025])
    radiance = config.model.radiance
    assert config.model.sdf.geometry_features + 3 + radiance.view_degree**2 + 3 * radiance.position == 37
    assert [rate_factor(config.train.optim, step, 20000) for step in (0, 10000, 20000)] == pytest.approx([1, 0.1**0.5, 0.1])


def test_neuralangelo_steps_and_weights_follow_the_levels():
    config = preset("neuralangelo")
    encoding, growth = config.model.encoding, 64 ** (1 / 15)
    assert grid_spec(encoding).growth == pytest.approx(growth)
    seen = set()
    for step in range(500, config.train.steps, 500):
        levels = active_levels(encoding, step)
        seen.add(levels)
        # The released code takes 1 / (floor(32 growth^(l-1)) + 1) of the unit length, for us one cell's quarter.
        released = 1 / (np.floor(32 * growth ** (levels - 1)) + 1)
        assert difference_length(encoding, config.model.sdf, step) == pytest.approx(released, rel=0.02)
        assert loss_weight(config.train, "curvature", step) == pytest.approx(5e-4 / growth ** (levels - 1), rel=0.01)
    assert seen == set(range(5, 17))
    assert active_levels(encoding, 0) == 4
    assert loss_weight(config.train, "curvature", 0) == 0
    rates = [rate_factor(config.train.optim, step, config.train.steps) for step in (200, 12000, 12001, 16000, 16001, 20000)]
    assert rates == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])
