"""The mean of the parameters over the last steps: which steps count, and what the model is then."""

from __future__ import annotations

import pytest
import torch

from nsr.config import resolve
from nsr.errors import ConfigError
from nsr.train.average import EVERY, ParameterMean
from nsr.train.checkpoint import load_dict
from nsr.train.loop import Trainer, train_scene
from tests.unit.training_scene import quick_config, sphere_scene

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    return sphere_scene(tmp_path_factory.mktemp("average") / "scene")


def parameters(folder):
    return load_dict(folder / "model.pt", CPU)["model"]


def test_equal_mean_of_every_eighth_of_the_last_steps():
    weight = torch.nn.Parameter(torch.zeros(3))
    mean = ParameterMean([weight], 0.5, 100)
    for step in range(1, 101):
        weight.data.fill_(float(step))
        mean.add(step)
    counted = list(range(100, 50, -EVERY))
    assert mean.count == len(counted) == 7
    mean.install()
    torch.testing.assert_close(weight.data, torch.full((3,), sum(counted) / len(counted)))


@pytest.mark.parametrize(("share", "counted"), [(0.0, 0), (0.001, 0), (0.01, 1), (1.0, 13)])
def test_share(share, counted):
    weight = torch.nn.Parameter(torch.ones(1))
    mean = ParameterMean([weight], share, 100)
    for step in range(1, 101):
        mean.add(step)
    assert mean.count == counted
    mean.install()
    assert weight.item() == 1.0


def test_the_model_is_the_mean_and_training_goes_on_without_it(scene, tmp_path, monkeypatch):
    seen = {}
    advance = Trainer.advance

    def watched(self):
        result = advance(self)
        seen[self.step] = {name: value.clone() for name, value in self.model.state_dict().items()}
        return result

    monkeypatch.setattr(Trainer, "advance", watched)
    train_scene(scene, quick_config(average=0.4), tmp_path / "mean", CPU)
    last, counted = seen[60], [seen[step] for step in (44, 52, 60)]
    for name, value in parameters(tmp_path / "mean").items():
        torch.testing.assert_close(value, torch.stack([state[name] for state in counted]).mean(0), rtol=1e-5, atol=1e-7)
    plain = train_scene(scene, quick_config(), tmp_path / "last", CPU)
    assert plain["steps"] == 60
    assert all(torch.equal(value, last[name]) for name, value in parameters(tmp_path / "last").items())


def test_a_share_of_more_than_all_is_refused():
    with pytest.raises(ConfigError, match=r"train\.average: 1\.5 must lie between 0 and 1"):
        resolve([{"train": {"average": 1.5}}])
