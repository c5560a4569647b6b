"""Learning rates over the steps, and which parameters decay."""

import math

import pytest
import torch

from nsr.config import EncodingConfig, ModelConfig, OptimConfig, TrainConfig
from nsr.fields.model import SurfaceModel
from nsr.train.optim import make_optimizer, rate_factor, set_rates
from nsr.train.schedule import cosine_ratio, loss_weight


def factors(config, steps, *at):
    return [rate_factor(config, step, steps) for step in at]


def test_rate_holds_between_warmup_and_decay():
    config = OptimConfig(warmup_steps=10, hold_steps=20, decay=0.01)
    assert factors(config, 50, 0, 5, 10, 20, 30, 40, 50) == pytest.approx([0.01, 0.505, 1, 1, 1, 0.1, 0.01])


def test_rate_without_warmup_is_whole_at_once():
    # instant-nsr-pl, neus-dtu.yaml: constant for 5000 steps, then down to a tenth.
    config = OptimConfig(warmup_steps=0, hold_steps=5000, decay=0.1)
    assert factors(config, 20000, 0, 5000, 12500, 20000) == pytest.approx([1, 1, math.sqrt(0.1), 0.1])


def test_a_plateau_longer_than_training_never_ends():
    assert factors(OptimConfig(warmup_steps=0, hold_steps=99), 50, 0, 49, 50) == [1, 1, 1]


def test_rate_drops_at_given_steps():
    config = OptimConfig(warmup_steps=10, decay=1.0, rate=[[20, 1.0], [21, 0.1], [30, 0.1], [31, 0.01]])
    assert factors(config, 50, 5, 10, 20, 21, 30, 31, 50) == pytest.approx([0.505, 1, 1, 0.1, 0.1, 0.01, 0.01])
    assert rate_factor(OptimConfig(warmup_steps=10, rate=0.5), 5, 50) == pytest.approx(0.505 / 2)


@pytest.mark.parametrize(("tables", "networks"), [(0.0, 0.01), (0.01, 0.0), (0.1, 0.2)])
def test_weight_decay_by_group(tables, networks):
    encoding = EncodingConfig(levels=2, log2_table=6, base_resolution=4, finest_resolution=8)
    model = SurfaceModel(ModelConfig(encoding=encoding), torch.Generator().manual_seed(0))
    config = OptimConfig(weight_decay=networks, table_weight_decay=tables, learning_rate=0.5)
    optimizer = make_optimizer(model, config)
    set_rates(optimizer, 0.2)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    # Without a gradient AdamW only shrinks, by rate times decay.
    shrinks = {"table": 1 - 0.1 * tables, "log_sharpness": 1.0}
    for name, value in model.named_parameters():
        share = shrinks.get(name.split(".")[-1], 1 - 0.1 * networks)
        torch.testing.assert_close(value.detach(), before[name] * share)


def test_what_a_loop_tabulates():
    config = TrainConfig(anneal_steps=200)
    config.loss.mask = [[0, 0.0], [10, 0.5]]
    assert [cosine_ratio(config, step) for step in (0, 50, 200, 300)] == [0, 0.25, 1, 1]
    assert cosine_ratio(TrainConfig(anneal_steps=0), 0) == 1
    assert [loss_weight(config, "mask", step) for step in (0, 5, 99)] == [0, 0.25, 0.5]
