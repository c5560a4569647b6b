"""Room on the GPU: the samples a step that fit, and errors that say what to set. Numbers of memory are made up."""

import logging
from types import SimpleNamespace

import pytest
import torch

from nsr.errors import OutOfMemory
from nsr.fields.model import SurfaceModel
from nsr.sampling.occupancy import OccupancyGrid
from nsr.train import loop, ready
from nsr.train.graph import GraphTrainer
from nsr.train.loop import Trainer, train_scene
from nsr.train.memory import SMALLEST, fitting_samples, shortage_named
from nsr.train.model_file import load_model
from tests.unit.graph_settings import DEVICE, pixel_store, tiny_config
from tests.unit.training_scene import quick_config, sphere_scene

MB = 10**6


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    return sphere_scene(tmp_path_factory.mktemp("memory") / "scene")


def linear(samples):
    """100 MB and 1000 bytes a sample."""
    return 100 * MB + 1000 * samples


@pytest.mark.parametrize(
    ("free", "samples"),
    [(80_000 * MB, 262144), (399 * MB, 262144), (398 * MB, 131072), (255 * MB, 131072), (253 * MB, 65536), (120 * MB, 8192)],
)
def test_the_largest_budget_that_fits_with_a_tenth_to_spare(free, samples, caplog):
    with caplog.at_level(logging.WARNING, logger="nsr"):
        assert fitting_samples(262144, free, linear) == samples
    assert bool(caplog.records) == (samples < 262144)
    if caplog.records:
        text = caplog.records[0].getMessage()
        assert "train.samples=262144" in text
        assert str(samples) in text


def test_a_budget_that_was_tried_in_vain_is_halved():
    tried = []

    def need(samples):
        tried.append(samples)
        return None if samples > 40000 else MB

    assert fitting_samples(131072, 10**9, need) == 32768
    assert tried == [131072, 65536, 32768]


@pytest.mark.parametrize("need", [linear, lambda samples: None])
def test_not_even_the_smallest_fits(need):
    with pytest.raises(OutOfMemory, match=rf"train\.samples={SMALLEST}.*0\.10 GB are free.*model\.encoding\.log2_table"):
        fitting_samples(262144, 100 * MB, need)


def test_a_small_budget_is_kept_or_refused_but_not_cut():
    assert fitting_samples(1500, 200 * MB, linear) == 1500
    with pytest.raises(OutOfMemory, match=r"train\.samples=1500"):
        fitting_samples(1500, 50 * MB, linear)


def test_torchs_error_is_named():
    with pytest.raises(OutOfMemory) as found, shortage_named("step 7", "set train.samples below 5"):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has ...")
    assert str(found.value).startswith("step 7: GPU memory ran out; set train.samples below 5")
    assert "CUDA out of memory" in str(found.value)
    with pytest.raises(RuntimeError, match="something else"), shortage_named("step 7", ""):
        raise RuntimeError("something else")


def out_of_memory(*arguments, **options):
    """What torch raises where the GPU's allocator has no more."""
    raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def test_a_step_that_has_no_room_is_tried_again_with_half_the_samples(scene, tmp_path, monkeypatch, caplog):
    """Another program takes memory in the middle of training, twice; the run ends all the same and says what happened."""
    step, asked = loop.training_step, []

    def short_at_5_and_8(*arguments, **options):
        asked.append((options["step"] + 1, options["rays"]))
        if len(asked) in (5, 9):
            out_of_memory()
        return step(*arguments, **options)

    monkeypatch.setattr(loop, "training_step", short_at_5_and_8)
    monkeypatch.setattr(loop, "SMALLEST", 100)
    config = quick_config(steps=12, samples=1600, start_rays=120)
    summary = train_scene(scene, config, tmp_path, torch.device("cpu"))
    assert [number for number, _ in asked] == [1, 2, 3, 4, 5, 5, 6, 7, 8, 8, 9, 10, 11, 12]
    assert asked[5][1] == asked[4][1] // 2
    assert max(rays for _, rays in asked[10:]) <= config.train.max_rays // 4
    assert summary["samples_a_step"] == 400
    assert summary["shortages"] == [{"step": 5, "samples": 800}, {"step": 8, "samples": 400}]
    assert "step 5: GPU memory ran out; trying again with 800 samples a step instead of 1600" in caplog.text
    assert load_model(tmp_path / "model.pt", torch.device("cpu")).info["step"] == 12


def test_half_of_too_little_is_not_tried(scene, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(loop, "training_step", out_of_memory)
    with pytest.raises(OutOfMemory, match=rf"step 1: .*train\.samples below {4 * SMALLEST}"):
        train_scene(scene, quick_config(samples=4 * SMALLEST), tmp_path, torch.device("cpu"))
    assert caplog.text.count("trying again") == 2


def test_the_graph_step_begins_anew_with_fewer_samples(scene, monkeypatch):
    """What a broken step added to the table's gradient is gone, and the next one is of the smaller size."""
    graph = tiny_graph(scene, samples=128, max_rays=32, start_rays=32)
    graph.storages[0].gradient.fill_(7.0)
    graph.shrink(64)
    assert not graph.storages[0].gradient.any()
    before = graph.model.sdf.table.detach().clone()
    graph.advance(0)
    assert int(graph.step) == 1
    assert 0 < int(graph.facts["rays"]) <= 16
    moved = (graph.model.sdf.table.detach() - before).abs()
    assert 0 < float(moved.max()) < 0.1
    assert bool((moved == 0).any()), "the 7 was everywhere"


@pytest.mark.parametrize("where", ["training_step", "load_training_data"])
def test_memory_that_runs_out_in_training_is_named(scene, tmp_path, monkeypatch, where):
    def full(*arguments, **options):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(loop, where, full)
    wanted = r"step 1: .*train\.samples below 1500" if where == "training_step" else r"photographs.*prepare\.max_size"
    with pytest.raises(OutOfMemory, match=wanted):
        train_scene(scene, quick_config(), tmp_path, torch.device("cpu"))


def tiny_graph(scene, **train):
    config = tiny_config("random")
    for name, value in train.items():
        setattr(config.train, name, value)
    model = SurfaceModel(config.model, torch.Generator().manual_seed(1), "triton").to(DEVICE)
    return GraphTrainer(model, OccupancyGrid(8, DEVICE), pixel_store(scene), config.train, DEVICE)


def test_a_limited_step_has_fewer_samples_and_rays(scene):
    graph = tiny_graph(scene, samples=512, max_rays=64, start_rays=64)
    graph.limit(128)
    rays, samples = graph.draw()
    assert len(rays.origin) == 16 == int(graph.live)
    assert len(samples.t) == graph.points + 144
    state = graph.state() | {"live": torch.tensor([50], dtype=torch.int32)}
    graph.load({name: value for name, value in state.items()}, 0)
    assert int(graph.live) == 16, "a run that goes on here began on a larger GPU"
    graph.limit(512)
    assert graph.rays == 64


def test_a_step_is_measured_and_limited_before_training(scene, monkeypatch, caplog):
    """As on a GPU with room for 40 000 samples: the first rehearsal cannot have its memory, the second has too much."""
    graph, gpu = tiny_graph(scene, samples=131072, max_rays=512), SimpleNamespace(type="cuda")
    rehearsals = []

    def rehearse(rehearsal, device):
        rehearsals.append(graph.samples)
        if graph.samples > 100000:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return 3

    monkeypatch.setattr(ready, "compile_ahead", rehearse)
    monkeypatch.setattr(ready, "free_bytes", lambda device: 44 * MB)
    monkeypatch.setattr(ready, "PeakMemory", lambda device: SimpleNamespace(bytes=1000 * graph.samples))
    ready.make_ready(graph, gpu)
    assert rehearsals == [131072, 65536, 32768]
    assert (graph.samples, graph.rays) == (32768, 128)


def test_the_result_says_how_many_samples_a_step_had(scene, tmp_path):
    assert Trainer(scene, quick_config(), tmp_path, torch.device("cpu")).budget() == 1500
    assert train_scene(scene, quick_config(steps=2), tmp_path, torch.device("cpu"))["samples_a_step"] == 1500
