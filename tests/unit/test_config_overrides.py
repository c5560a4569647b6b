"""A single setting over a resolved config is what resolving everything gives, and so is its error."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest

from nsr.config import Config, resolve
from nsr.config_overrides import override
from nsr.errors import ConfigError
from nsr.manifest import SceneRow, WorkflowConfig, resolve_scene

BASE = resolve([{"mesh": {"resolution": 64}, "train": {"loss": {"mask": [[0, 0.5], [10, 1]]}}}])


def never() -> Config:
    raise AssertionError("resolved as a whole")


def leaves(owner: Any, path: str = "") -> list[tuple[str, Any]]:
    """Every setting with its default."""
    found = []
    for item in fields(owner):
        value, name = getattr(owner, item.name), f"{path}{item.name}"
        found += leaves(value, f"{name}.") if is_dataclass(value) else [(name, value)]
    return found


@pytest.mark.parametrize(("name", "default"), leaves(Config()))
def test_every_setting_can_be_given_alone(name: str, default: Any) -> None:
    given = [f"{name}={json.dumps(list(default) if isinstance(default, tuple) else default)}"]
    assert override(BASE, given, never) == resolve([asdict(BASE)], given)


@pytest.mark.parametrize("given", [["mesh.resolution=128", "mesh.resolution=256"], ["train.loss.mask=[[0, 1], [5, 2]]"], []])
def test_the_last_one_wins_and_the_base_stays(given: list[str]) -> None:
    assert override(BASE, given, never) == resolve([asdict(BASE)], given)
    assert BASE.mesh.resolution == 64


@pytest.mark.parametrize(
    "given",
    [
        "mesh.resolutoin=9",
        "mesh.resolution=many",
        "mesh.resolution=0",
        "mesh=3",
        "mesh.resolution",
        "nothing.at.all=1",
        "mesh.resolution.deeper=1",
        "mesh.resolution=${train.steps}",
        "train.split=most",
        "train.loss.mask=[[0",
    ],
)
def test_what_is_no_plain_setting_is_left_to_the_whole(given: str) -> None:
    asked = []

    def whole() -> Config:
        asked.append(given)
        return Config()

    assert override(BASE, [given], whole) == Config()
    assert asked == [given]


def test_a_wrong_override_says_the_same_in_a_list_of_scenes() -> None:
    row = SceneRow("d", "s", "photos", "neus", overrides="mesh.resolutoin=9")
    with pytest.raises(ConfigError) as listed:
        resolve_scene(row, WorkflowConfig(), None)
    with pytest.raises(ConfigError) as alone:
        resolve([], ["mesh.resolutoin=9"])
    assert str(listed.value) == str(alone.value)


def test_a_changed_preset_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    preset, row = Path("config/methods/own.yaml"), SceneRow("d", "s", "photos", "neus", overrides="mesh.holes=true")
    preset.parent.mkdir(parents=True)
    for time, steps in ((1, 7), (2, 8)):
        preset.write_text(f"train: {{steps: {steps}}}\n")
        os.utime(preset, (time, time))
        config = resolve_scene(row, WorkflowConfig(), "own")
        assert (config.train.steps, config.mesh.holes) == (steps, True)
