"""Checkpoints: foreign ones are refused, a damaged one costs no more than the steps since the one before, a full disk spoils none."""

import errno
from pathlib import Path

import pytest
import torch

from nsr.errors import CheckpointError
from nsr.train import checkpoint as checkpoint_module
from nsr.train.checkpoint import load_dict, save_atomically
from nsr.train.loop import Trainer, train_scene
from tests.unit.test_training import difference, parameters, train_until
from tests.unit.training_scene import quick_config, sphere_scene

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    return sphere_scene(tmp_path_factory.mktemp("scene") / "sphere")


def test_checkpoints_of_other_settings_or_data_are_refused(scene, tmp_path, caplog):
    trainer = Trainer(scene, quick_config(), tmp_path, CPU)
    trainer.step = 40
    trainer.save()
    assert Trainer(scene, quick_config(), tmp_path, CPU).resume()
    for other in (
        Trainer(scene, quick_config(steps=61), tmp_path, CPU),
        Trainer(scene, quick_config(split="all"), tmp_path, CPU),
    ):
        caplog.clear()
        assert not other.resume()
        assert "not resumed" in caplog.text
        assert "settings" in caplog.text
        assert other.step == 0
    elsewhere = sphere_scene(tmp_path / "other", views=11)
    assert not Trainer(elsewhere, quick_config(), tmp_path, CPU).resume()
    assert "other data" in caplog.text


def test_a_corrupt_checkpoint_is_not_resumed(scene, tmp_path, caplog):
    trainer = Trainer(scene, quick_config(), tmp_path, CPU)
    trainer.save()
    content = trainer.checkpoint.read_bytes()
    trainer.checkpoint.write_bytes(content[: len(content) // 2])
    assert not trainer.resume()
    assert "corrupt" in caplog.text


@pytest.mark.parametrize("damage", ["cut off", "gone"])
def test_a_damaged_checkpoint_costs_the_steps_since_the_one_before(scene, tmp_path, monkeypatch, caplog, damage):
    config = quick_config(steps=40, checkpoint_every=10)
    train_scene(scene, config, tmp_path / "whole", CPU)
    train_until(35, scene, config, tmp_path / "cut", monkeypatch)
    last = tmp_path / "cut" / "checkpoint" / "last.pt"
    assert load_dict(last, CPU)["step"] == 30
    last.unlink() if damage == "gone" else last.write_bytes(last.read_bytes()[:-1000])
    with caplog.at_level("INFO"):
        train_scene(scene, config, tmp_path / "cut", CPU)
    assert "resumed at step 20 of 40" in caplog.text
    assert ("last.pt: corrupt" in caplog.text) == (damage == "cut off")
    assert difference(parameters(tmp_path / "whole"), parameters(tmp_path / "cut")) == 0
    assert sorted(path.name for path in last.parent.iterdir()) == ["last.pt", "lock", "metrics.jsonl"], "room is given back"


def test_a_full_disk_keeps_the_old_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "last.pt"
    save_atomically({"version": 1, "value": torch.ones(3)}, path)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint_module.torch, "save", full)
    with pytest.raises(CheckpointError, match=r"last\.pt: cannot be written .*No space left.*free disk space"):
        save_atomically({"version": 1, "value": torch.zeros(3)}, path)
    assert load_dict(path, CPU)["value"].tolist() == [1, 1, 1]
    assert [p.name for p in tmp_path.iterdir()] == ["last.pt"], "nothing half-written"


def test_a_really_full_disk_is_the_same_error(tmp_path):
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full on this system")
    (tmp_path / "last.pt.partial").symlink_to("/dev/full")
    with pytest.raises(CheckpointError, match="free disk space"):
        save_atomically({"version": 1, "value": torch.zeros(300_000)}, tmp_path / "last.pt")
    assert not (tmp_path / "last.pt").exists()
