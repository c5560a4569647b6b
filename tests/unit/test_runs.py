"""The list of runs in its long and its short form."""

from __future__ import annotations

import json

import pytest

from nsr.runs import list_runs

SHORT = {"results": "out", "methods": ["a", "b"], "scenes": ["d/s", "d/t"]}


def test_short_form_is_every_scene_under_every_method() -> None:
    runs = list_runs(SHORT)
    assert [run["folder"] for run in runs] == ["out/d/s/a", "out/d/s/b", "out/d/t/a", "out/d/t/b"]
    assert runs[1] == {"dataset": "d", "scene": "s", "method": "b", "folder": "out/d/s/b"}
    assert list_runs(runs) == runs


def test_a_thousand_scenes_fit_on_a_command_line() -> None:
    scenes = [f"data-set/a-rather-long-name-of-a-scene-{number:04d}" for number in range(1000)]
    assert len(json.dumps({**SHORT, "scenes": scenes})) < 100_000


@pytest.mark.parametrize(
    "wrong", [{}, {"results": "r", "methods": ["m"], "scenes": ["alone"]}, 3, None, {"results": 1, "scenes": [2], "methods": []}]
)
def test_what_is_no_list(wrong: object) -> None:
    with pytest.raises((ValueError, KeyError, TypeError)):
        list_runs(wrong)
