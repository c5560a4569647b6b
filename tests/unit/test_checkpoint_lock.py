"""Two trainings into one folder: a workflow that was killed may have left its own behind, alive."""

from __future__ import annotations

import torch

from nsr.train import checkpoint as checkpoint_module
from nsr.train.loop import Trainer, train_scene
from tests.unit.training_scene import quick_config, sphere_scene

CPU = torch.device("cpu")


def test_a_training_that_outlived_its_workflow_is_waited_for(tmp_path, monkeypatch, caplog):
    """The rerun does not write into the same folder beside it, and goes on from what it left."""
    scene, out, waited = sphere_scene(tmp_path / "scene"), tmp_path / "run", []
    held = checkpoint_module.alone_in(out / "checkpoint")
    held.__enter__()

    def until_it_ends(_):
        waited.append(1)
        Trainer(scene, quick_config(steps=5, checkpoint_every=2), out, CPU).save()
        held.__exit__(None, None, None)

    monkeypatch.setattr(checkpoint_module.time, "sleep", until_it_ends)
    summary = train_scene(scene, quick_config(steps=5, checkpoint_every=2), out, CPU)
    assert waited == [1]
    assert "another process trains into" in caplog.text
    assert summary["resumed"]
