"""`train.members`: several fields, each as if trained alone, and their mean as the model."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from nsr.errors import ConfigError
from nsr.fields.model import SurfaceModel
from nsr.job import Job, running
from nsr.mesh.marching_cubes import extract
from nsr.rendering.render import Member, render_view
from nsr.train.checkpoint import load_dict
from nsr.train.loop import Trainer, train_scene
from nsr.train.members import member_config, train_members
from nsr.train.model_file import TrainedModel, load_model
from tests.unit.test_rendering import sphere_model
from tests.unit.training_scene import SIMILARITY, K, quick_config, sphere_scene

CPU = torch.device("cpu")
STEPS = 6
FILES = ("model.pt", "train.json", "metrics.jsonl")


def config(members=2, **train):
    return quick_config(members=members, steps=STEPS, checkpoint_every=3, log_every=2, **train)


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    return sphere_scene(tmp_path_factory.mktemp("members") / "scene")


@pytest.fixture(scope="module")
def trained(scene, tmp_path_factory):
    """Folder and summary of a model of two fields."""
    folder = tmp_path_factory.mktemp("members") / "run"
    with running(Job(stage="train")):
        return folder, train_members(scene, config(), folder, CPU)


def alone(scene, number, folder, **train):
    """The model of one field, trained as if it were the only one."""
    train_scene(scene, member_config(config(**train), number), folder, CPU)
    return load_model(folder / "model.pt", CPU)


def field_results(folder, count=2):
    """`train.json` of each field."""
    return [json.loads((folder / "checkpoint" / f"member{number}" / "train.json").read_text()) for number in range(count)]


def same_parameters(first, second):
    """Whether two fields are equal in every number."""
    mine, other = first.state_dict(), second.state_dict()
    return mine.keys() == other.keys() and all(torch.equal(mine[name], other[name]) for name in mine)


def sphere(radius, sharpness=400.0, kind="black"):
    """A field whose surface is a sphere, by the bias of its distance."""
    model = sphere_model(kind, sharpness)
    with torch.no_grad():
        points = torch.nn.functional.normalize(torch.randn(64, 3, generator=torch.Generator().manual_seed(1)), dim=1) * radius
        list(model.sdf.parameters())[-1][0] -= model.sdf.value(points).mean()
    return model


def together(*models):
    members = tuple(Member(model, torch.ones(8, 8, 8, dtype=torch.bool)) for model in models)
    return TrainedModel(members, SIMILARITY, 512, 1000, "reference", {})


def test_every_field_is_what_it_would_be_alone(scene, trained, tmp_path):
    members = load_model(trained[0] / "model.pt", CPU).members
    assert len(members) == 2
    for number, member in enumerate(members):
        single = alone(scene, number, tmp_path / str(number))
        assert same_parameters(member.model, single.model)
        assert torch.equal(member.occupied, single.occupied)
    assert not same_parameters(members[0].model, members[1].model)


def test_one_field_is_a_plain_training(scene, tmp_path):
    train_members(scene, config(members=1), tmp_path / "members", CPU)
    train_scene(scene, config(members=1), tmp_path / "plain", CPU)
    one, other = (load_dict(tmp_path / name / "model.pt", CPU) for name in ("members", "plain"))
    assert one.keys() == other.keys() and "others" not in one
    assert all(torch.equal(one["model"][name], other["model"][name]) for name in one["model"])


def test_seeds_of_neighbouring_models_do_not_meet():
    seeds = [member_config(config(members=4, seed=seed), number).train.seed for seed in (0, 1, 2, 3) for number in range(4)]
    assert len(set(seeds)) == 16 and min(seeds) >= 0 and max(seeds) < 2**31
    assert seeds[::4] == [0, 1, 2, 3]  # the first field is the one of the plain training


def test_distance_and_colour_are_means():
    fields = [sphere(0.4), sphere(0.6)]
    model = together(*fields)
    points = torch.rand(50, 3, generator=torch.Generator().manual_seed(2)) * 2 - 1
    normals = torch.nn.functional.normalize(points, dim=1)
    torch.testing.assert_close(model.sdf(points), sum(together(field).sdf(points) for field in fields) / 2)
    torch.testing.assert_close(
        model.colour(points, normals), sum(together(field).colour(points, normals) for field in fields) / 2
    )


@pytest.mark.parametrize(("radii", "middle"), [((0.3, 0.5, 0.55), (1,)), ((0.3, 0.7, 0.5, 0.55), (2, 3))])
def test_the_distance_of_more_is_the_median(radii, middle):
    fields = [sphere(radius) for radius in radii]
    # The bias moves every distance of these fields alike, so their order is that of the radii everywhere.
    points = torch.rand(50, 3, generator=torch.Generator().manual_seed(2)) * 2 - 1
    wanted = sum(together(fields[number]).sdf(points) for number in middle) / len(middle)
    torch.testing.assert_close(together(*fields).sdf(points), wanted)


def test_the_surface_of_two_spheres_is_the_sphere_between_them():
    radii = [float(np.linalg.norm(extract(together(sphere(r)).sdf, 48).vertices, axis=1).mean()) for r in (0.4, 0.6)]
    mesh = extract(together(sphere(0.4), sphere(0.6)).sdf, 48)
    lengths = np.linalg.norm(mesh.vertices, axis=1)
    assert radii == pytest.approx([0.4, 0.6], abs=0.02)
    assert lengths.mean() == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("kind", ["black", "learned"])
def test_an_image_is_the_mean_of_the_fields_images(kind):
    fields = [sphere(0.4, kind=kind), sphere(0.6, kind=kind)]
    pose = np.eye(4)
    pose[2, 3] = 2.4
    both, *single = (render_view(field, K, pose, 48, 48) for field in (together(*fields), *map(together, fields)))
    np.testing.assert_allclose(both.colour, (single[0].colour + single[1].colour) / 2, atol=2e-6)
    np.testing.assert_allclose(both.opacity, (single[0].opacity + single[1].opacity) / 2, atol=2e-6)
    seen = single[0].opacity > 0.99
    assert seen.any()
    np.testing.assert_allclose(both.depth[seen], ((single[0].depth + single[1].depth) / 2)[seen], rtol=1e-3)


def test_depth_is_of_the_fields_that_see_something():
    """Beside the smaller sphere only the larger one is seen, by two fields of three; its depth is not mixed with the other's nothing."""
    small, large = sphere(0.3), sphere(0.6)
    pose = np.eye(4)
    pose[2, 3] = 2.4
    models = (together(small, large, large), together(small), together(large))
    mixed, of_small, of_large = (render_view(model, K, pose, 48, 48) for model in models)
    beside = (of_small.opacity < 1e-4) & (of_large.opacity > 0.9999)
    assert beside.sum() > 50
    np.testing.assert_allclose(mixed.opacity[beside], 2 / 3, atol=1e-3)
    np.testing.assert_allclose(mixed.depth[beside], of_large.depth[beside], rtol=1e-3)


def test_occupied_is_where_any_field_is():
    cells = [torch.zeros(4, 4, 4, dtype=torch.bool) for _ in range(2)]
    cells[0][0, 0, 0] = cells[1][3, 3, 3] = True
    model = TrainedModel(tuple(Member(sphere(0.5), cell) for cell in cells), SIMILARITY, 64, 64, "reference", {})
    assert model.occupied.nonzero().tolist() == [[0, 0, 0], [3, 3, 3]]


def test_results_of_all_fields_are_summed_up(trained):
    folder, summary = trained
    parts = field_results(folder)
    assert json.loads((folder / "train.json").read_text())["settings"]["train"]["members"] == 2
    assert summary["steps"] == 2 * STEPS
    assert summary["seconds"] == pytest.approx(sum(part["seconds"] for part in parts))
    assert summary["psnr_train"] == pytest.approx(np.mean([part["psnr_train"] for part in parts]))
    assert summary["peak_memory_mb"] == max(part["peak_memory_mb"] for part in parts)
    samples = sum(part["samples_per_second"] * part["seconds"] for part in parts)
    assert summary["samples_per_second"] * summary["seconds"] == pytest.approx(samples)
    assert summary["manifest"]["seed"] == parts[0]["manifest"]["seed"] != parts[1]["manifest"]["seed"]
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == [2, 4, 6, 8, 10, 12]
    assert [record["member"] for record in records] == [0, 0, 0, 1, 1, 1]
    assert all(a["seconds"] <= b["seconds"] for a, b in zip(records, records[1:], strict=False))


def test_checkpoints_of_finished_fields_are_gone(trained):
    assert not list((trained[0] / "checkpoint").rglob("*last.pt"))


def test_exposures_are_means(scene, tmp_path):
    settings = config()
    settings = replace(settings, model=replace(settings.model, exposure="gain"))
    summary = train_members(scene, settings, tmp_path, CPU)
    parts = field_results(tmp_path)
    name = summary["train_views"][0]
    expected = (np.array(parts[0]["exposure"][name]) + np.array(parts[1]["exposure"][name])) / 2
    np.testing.assert_allclose(summary["exposure"][name], expected)


class Killed(Exception):
    """What ends a training in the middle."""


def killed_after(monkeypatch, steps):
    """Let a training die after so many steps of all fields; returns the numbers of the steps taken."""
    taken, advance = [], Trainer.advance

    def counted(self):
        if len(taken) == steps:
            raise Killed
        result = advance(self)
        taken.append(self.step)
        return result

    monkeypatch.setattr(Trainer, "advance", counted)
    return taken


def test_a_killed_training_goes_on_in_the_field_where_it_was(scene, trained, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        killed_after(patch, STEPS + 5)
        with pytest.raises(Killed):
            train_members(scene, config(), tmp_path, CPU)
    assert not any((tmp_path / name).exists() for name in FILES)
    with monkeypatch.context() as patch:
        taken = killed_after(patch, 100)
        summary = train_members(scene, config(), tmp_path, CPU)
    assert taken == [4, 5, 6]  # of the second field, from its checkpoint on
    assert summary["resumed"]
    for member, undisturbed in zip(
        *(load_model(folder / "model.pt", CPU).members for folder in (tmp_path, trained[0])), strict=True
    ):
        assert same_parameters(member.model, undisturbed.model)


def test_a_rerun_trains_nothing_and_counts_the_cost_of_before(scene, trained, tmp_path, monkeypatch):
    folder, summary = trained
    for name in FILES:
        (folder / name).rename(tmp_path / name)
    taken = killed_after(monkeypatch, 0)
    with running(Job(stage="train")):
        again = train_members(scene, config(), folder, CPU)
    assert not taken
    assert again["seconds"] == summary["seconds"] and again["psnr_train"] == summary["psnr_train"]
    assert again["manifest"]["cost"]["wall_seconds"] >= summary["seconds"]
    assert (folder / "metrics.jsonl").read_bytes() == (tmp_path / "metrics.jsonl").read_bytes()
    assert len(load_model(folder / "model.pt", CPU).members) == 2


@pytest.mark.parametrize("change", ["settings", "damage", "no numbers"])
def test_a_field_of_other_settings_or_damaged_is_trained_again(scene, trained, tmp_path, monkeypatch, change):
    train_members(scene, config(), tmp_path, CPU)
    second = tmp_path / "checkpoint" / "member1"
    if change == "damage":
        whole = (second / "model.pt").read_bytes()
        (second / "model.pt").write_bytes(whole[: len(whole) // 2])
    elif change == "no numbers":
        (second / "train.json").write_text("[1, 2]")
    settings = config(seed=7) if change == "settings" else config()
    taken = killed_after(monkeypatch, 100)
    train_members(scene, settings, tmp_path, CPU)
    assert taken == [1, 2, 3, 4, 5, 6] * (2 if change == "settings" else 1)
    assert all(isinstance(member.model, SurfaceModel) for member in load_model(tmp_path / "model.pt", CPU).members)


def test_a_number_that_is_none():
    with pytest.raises(ConfigError, match="train.members"):
        config(members=0)
