"""Settings: layers, refusals with the nearest key, schedules at their knots, and the shipped presets."""

from pathlib import Path

import pytest

from nsr.config import Config, preset_files, resolve, section
from nsr.errors import ConfigError
from nsr.fields.schedule import schedule_value

PRESETS = sorted((Path(__file__).resolve().parents[2] / "config" / "methods").glob("*.yaml"))


def test_later_layers_win(tmp_path):
    preset = tmp_path / "preset.yaml"
    preset.write_text("mesh:\n  resolution: 64\ntrain:\n  steps: 7\n")
    config = resolve([preset, {"train": {"steps": 8}}], ["train.seed=3"])
    assert (config.mesh.resolution, config.train.steps, config.train.seed) == (64, 8, 3)
    assert config.sfm == Config().sfm


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("mesh.resolutin=3", "Did you mean: 'resolution'"),
        ("train.loss.colour=l3", "l3.*'l1', 'mse'"),
        ("train.steps=many", "many.*train.steps"),
        ("train.loss.mask=heavy", "train.loss.mask: 'heavy' is neither a number nor"),
        ("train.loss.mask=[[10,1],[5,2]]", "rising steps"),
        ("mesh.resolution=0", "mesh.resolution"),
        ("mesh.triangles=-1", "mesh.triangles: -1 must not be negative"),
        ("mesh.box=[1,2,3]", "mesh.box: .* six numbers"),
        ("mesh.box=[0,0,0,1,-1,1]", "mesh.box: .* lowest and then highest"),
        ("mesh.box=[0,0,0,[],1,1]", "mesh.box: .* plain list of numbers"),
        ("train.optim.betas=[[1],2]", "train.optim.betas"),
        ("mesh.metric.distance=2", "mesh.metric: a known distance needs"),
        ("mesh.metric.first=[0,0,1]", "mesh.metric: a known distance needs"),
        ("mesh.metric={first: [0,0,1], second: [0,0,1], distance: 2}", "finite and different points"),
        ("mesh.metric={first: [0,0,1], second: [0,0,.nan], distance: 2}", "finite and different points"),
        ("mesh.metric={first: [0,0,1], second: [0,0,2], distance: 2, file: a.json}", "not both"),
        ("evaluate.dtu_culls=[]", "evaluate.dtu_culls: must name at least one"),
        ("train.loss.mask=-1", "train.loss.mask: -1 must not be negative"),
        ("train.optim.rate=[[0,1],[5,-1]]", "train.optim.rate.*must not be negative"),
        ("train.optim.rate=.nan", "train.optim.rate.*must be finite"),
        ("model.sdf.difference_length=tiny", "model.sdf.difference_length: 'tiny' is neither a number nor"),
        ("model.sdf.difference_length=[]", "model.sdf.difference_length"),
        ("model.sdf.difference_step=0", "model.sdf.difference_step: 0.0 must be greater than 0"),
        ("model.background.layers=0", "model.background.layers: 0 must be greater than 0"),
        ("model.background.view_degree=5", "model.background.view_degree: 5 must be 0, 1, 2, 3 or 4"),
        ("train.optim.table_weight_decay=-0.1", "train.optim.table_weight_decay: -0.1 must not be negative"),
        ("train.optim.hold_steps=-1", "train.optim.hold_steps: -1 must not be negative"),
        ("train.backend=cuda", "cuda.*'auto', 'reference', 'triton', 'tcnn'"),
        ("train.march.backend=tcnn", "tcnn.*'auto', 'reference', 'triton', 'nerfacc'"),
    ],
)
def test_mistakes_are_named(override, words):
    with pytest.raises(ConfigError, match=words) as error:
        resolve([], [override])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("overrides", "found"),
    [
        ([], "model.sdf.normals=closed_form and model.radiance.bias=true;"),
        (["model.sdf.normals=finite_difference"], "go with model.radiance.bias=true;"),
        (["model.radiance.bias=false"], "go with model.sdf.normals=closed_form;"),
    ],
)
def test_tcnn_needs_settings_it_can_do(overrides, found):
    advice = "set model.sdf.normals=finite_difference model.radiance.bias=false, or train.backend=auto"
    with pytest.raises(ConfigError, match=f"train.backend: tcnn does not .*{found} {advice}"):
        resolve([], ["train.backend=tcnn", *overrides])
    good = resolve([], ["train.backend=tcnn", "model.sdf.normals=finite_difference", "model.radiance.bias=false"])
    assert (good.train.backend, good.train.march.backend) == ("tcnn", "auto")


def test_section_is_what_was_asked_for():
    assert list(section(Config(), "mesh", "tsdf")) == ["mesh", "tsdf"]


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
def test_shipped_presets_resolve(preset):
    assert resolve([preset]) != Config()


def test_schedule_at_and_between_its_knots():
    knots = [[10, 1.0], [20, 3.0], [20, 0.0], [40, 0.5]]
    values = [schedule_value(knots, step) for step in (0, 10, 15, 20, 30, 40, 99)]
    assert values == [1.0, 1.0, 2.0, 3.0, 0.25, 0.5, 0.5]
    assert schedule_value(0.3, 12345) == 0.3


@pytest.mark.parametrize("text", ["[[[[", "[[[=1", "]=2"])
def test_a_key_of_brackets_is_refused(text):
    with pytest.raises(ConfigError, match="overrides: "):
        resolve([], [text])


def test_a_preset_builds_on_another(tmp_path):
    """Settings of the base stay where the preset says nothing; an edited base is read again, from a list of scenes too."""
    texts = {"a": "train: {steps: 10, seed: 1}", "b": "base: a\ntrain: {steps: 20}", "c": "base: b\nmesh: {resolution: 64}"}
    for name, text in texts.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    config = resolve([tmp_path / "c.yaml"])
    assert (config.train.steps, config.train.seed, config.mesh.resolution) == (20, 1, 64)
    assert [file.stem for file in preset_files(tmp_path / "c.yaml")] == ["a", "b", "c"]
    (tmp_path / "a.yaml").write_text("train: {steps: 10, seed: 7}")
    assert resolve([tmp_path / "c.yaml"]).train.seed == 7


@pytest.mark.parametrize(
    ("text", "words"),
    [("base: gone", ("gone", "there is no")), ("base: c", ("builds on itself",)), ("base: ../a", ("beside it",)), ("base: 3", ("beside it",))],
)  # fmt: skip
def test_a_base_that_cannot_be_is_named(tmp_path, text, words):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ConfigError) as error:
        resolve([tmp_path / "c.yaml"])
    assert all(word in str(error.value) for word in ("c.yaml", *words))
