"""What jobs ask a scheduler for: from the photographs' number and size, more with each, more at each attempt."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from nsr.config import Config, resolve
from nsr.manifest import SceneRow
from nsr.resources import SceneSize, demand, report_demand, scene_size
from tests.source_tree import ROOT, STAGES

OF_A_SCENE = [stage for stage in STAGES if stage not in ("report", "check", "ablation")]
SMALL = SceneSize(views=30, width=640, height=480)


def photographs(folder: Path, names: list[str], size: tuple[int, int]) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size).save(folder / name)


def row(source: Path, **cells: str) -> SceneRow:
    return SceneRow(dataset="d", scene="s", source=str(source), format=cells.pop("format", "neus"), **cells)  # type: ignore[arg-type]


def test_masks_and_depth_are_no_views(tmp_path: Path) -> None:
    photographs(tmp_path, ["image/0.png", "image/1.jpg", "mask/0.png", "mask/1.png", "train/r_0_depth.png"], (64, 48))
    assert scene_size(row(tmp_path)) == SceneSize(views=2, width=64, height=48)


def test_a_folder_above_the_source_may_be_called_mask(tmp_path: Path) -> None:
    photographs(tmp_path / "masked", ["a.png"], (8, 6))
    assert scene_size(row(tmp_path / "masked", format="photos")).views == 1


def test_examples_are_read_as_they_are() -> None:
    assert scene_size(row(ROOT / "examples/bob")) == SMALL


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n" + b"\0" * 40])
def test_unreadable_photographs_are_taken_for_large_ones(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.png").write_bytes(content)
    size = scene_size(row(tmp_path, format="photos"))
    assert size.megapixels() == 12.0


def test_a_source_without_photographs_has_a_size(tmp_path: Path) -> None:
    assert scene_size(row(tmp_path)).views == 1


def test_shrinking_never_enlarges() -> None:
    size = SceneSize(1, 4000, 2000)
    assert size.megapixels(2000) == pytest.approx(2.0)
    assert size.megapixels(9000) == size.megapixels() == size.megapixels(0) == 8.0


@pytest.mark.parametrize("stage", OF_A_SCENE)
def test_more_and_larger_photographs_never_ask_for_less(stage: str) -> None:
    config = Config()
    series = [SceneSize(views, side, side) for views, side in ((10, 500), (100, 500), (100, 2000), (1000, 2000), (1000, 4000))]
    demands = [demand(stage, size, config) for size in series]
    assert [item.memory for item in demands] == sorted(item.memory for item in demands)
    assert [item.minutes for item in demands] == sorted(item.minutes for item in demands)
    assert (demands[0].memory, demands[0].minutes) != (demands[-1].memory, demands[-1].minutes)


@pytest.mark.parametrize(
    ("stage", "setting"),
    [
        ("train", "train.steps=500000"),
        ("mesh", "mesh.resolution=2048"),
        ("texture", "texture.size=16384"),
        ("render", "render.views=all"),
        ("evaluate_mesh", "mesh.resolution=2048"),
    ],
)
def test_settings_that_cost_more_ask_for_more(stage: str, setting: str) -> None:
    size = SceneSize(200, 3000, 2000)
    before, after = demand(stage, size, Config()), demand(stage, size, resolve([], [setting]))
    assert (after.memory, after.minutes) > (before.memory, before.minutes) or after.minutes > before.minutes


def test_shrunk_photographs_ask_for_less() -> None:
    size = SceneSize(500, 6000, 4000)
    assert demand("train", size, resolve([], ["prepare.max_size=800"])).memory < demand("train", size, Config()).memory


def test_sequential_matching_asks_for_less_time() -> None:
    size = replace(SMALL, views=1000)
    assert demand("sfm", size, resolve([], ["sfm.matcher=sequential"])).minutes < demand("sfm", size, Config()).minutes


# Wall seconds and MB that were measured: docs/reliability.md, docs/textures.md, docs/results.md; sfm on two cores, not eight.
@pytest.mark.parametrize(
    ("stage", "size", "settings", "seconds", "memory"),
    [
        ("sfm", SceneSize(50, 1080, 1920), [], 394, 1320),
        ("prepare", SceneSize(2000, 1200, 900), [], 282, 2400),
        ("train", SceneSize(2000, 1200, 900), ["train.steps=100"], 230, 2280),
        ("train", SMALL, ["train.steps=2500"], 400, 1000),
        ("texture", SceneSize(56, 800, 600), ["texture.size=4096", "texture.faces=200000"], 142, 2100),
        ("mesh", SceneSize(56, 800, 600), ["mesh.resolution=2048"], 3, 1900),
    ],
)
def test_what_was_measured_fits_twice(stage: str, size: SceneSize, settings: list[str], seconds: float, memory: float) -> None:
    asked = demand(stage, size, resolve([], settings))
    assert asked.minutes * 60 >= 2 * seconds
    assert asked.memory >= 1.5 * memory
    assert asked.memory <= 16000
    assert asked.minutes <= 240


def test_later_attempts_ask_for_more() -> None:
    first = demand("train", SMALL, Config())
    assert first.at(1) == first
    assert first.at(3).memory == 3 * first.memory
    assert first.at(3).minutes == 3 * first.minutes


def test_report_grows_with_its_runs() -> None:
    assert report_demand(3000).memory > report_demand(2).memory
    assert report_demand(3000).minutes > report_demand(2).minutes


def test_unknown_stages_are_refused() -> None:
    with pytest.raises(KeyError):
        demand("paint", SMALL, Config())
