"""Several ranks train one scene: real processes with gloo on a CPU, and the arithmetic alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch

from nsr.config import section
from nsr.errors import DeviceUnavailable, OutOfMemory
from nsr.scene.scene import load_scene
from nsr.train import loop, ranks
from nsr.train.loop import Trainer, train_scene
from nsr.train.model_file import load_model
from nsr.train.ranks import ALONE, Ranks, joined, start_ranks
from tests.source_tree import ROOT, child_environment
from tests.unit.graph_settings import DEVICE, pixel_store, tiny_config
from tests.unit.test_members import field_results, same_parameters
from tests.unit.training_scene import quick_config, sphere_scene

CPU = torch.device("cpu")
STEPS = 12
# What one rank does: the first steps of a training, in which its own rays and its parameters are written down.
PROGRAM = """
import sys
from pathlib import Path
import torch
from nsr.scene.scene import load_scene
from nsr.train.loop import Trainer
from nsr.train.ranks import joined
from tests.unit.test_ranks import STEPS, config, drawn
torch.set_num_threads(1)
root = Path(sys.argv[1])
with joined("cpu") as (ranks, device):
    trainer = Trainer(load_scene(root / "scene"), config(), root / "out", device, ranks)
    rays = drawn(trainer)
    losses = [float(trainer.advance().loss)]
    after_one = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    losses += [float(trainer.advance().loss) for _ in range(STEPS - 1)]
    state = {"after_one": after_one, "model": trainer.model.state_dict(), "occupied": trainer.occupancy.occupied, "rays": trainer.rays}
    state |= {"drawn": rays, "losses": losses, "seen": list(trainer.seen), "optimizer": trainer.optimizer.state_dict()}
    state["least"] = ranks.least(10 + ranks.rank)
    torch.save(state, root / f"rank{ranks.rank}.pt")
"""

pytestmark = pytest.mark.xdist_group("ranks")  # they share two processes' run


def config(**train):
    made = quick_config(**{"steps": 400, "start_rays": 128, "max_rays": 128, **train})
    made.model.exposure, made.model.appearance = "gain", 2
    return made


def drawn(trainer):
    """The rays that are drawn, filled while training."""
    rays: list[torch.Tensor] = []
    sample = trainer.data.store.sample

    def written_down(count, generator):
        batch = sample(count, generator)
        rays.append(batch.direction)
        return batch

    trainer.data.store.sample = written_down
    return rays


def torchrun(program, *arguments, count=2):
    """A program under torchrun."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count), "--"]
    environment = child_environment(OMP_NUM_THREADS="1")
    command = [*launcher, str(program), *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """The folder of a run of two ranks, and what both wrote."""
    root = tmp_path_factory.mktemp("two")
    sphere_scene(root / "scene")
    (root / "program.py").write_text(PROGRAM)
    done = torchrun(root / "program.py", root)
    assert done.returncode == 0, done.stderr
    return root, [torch.load(root / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]


def test_ranks_stay_the_same_and_draw_different_rays(two):
    _, (first, second) = two
    assert first["model"].keys() == second["model"].keys()
    for name, tensor in first["model"].items():
        assert torch.equal(tensor, second["model"][name]), name
    assert torch.equal(first["occupied"], second["occupied"])
    assert first["losses"] == second["losses"]
    assert first["seen"] == second["seen"]
    assert (first["least"], second["least"]) == (10, 10)
    for mine, other in zip(first["drawn"], second["drawn"], strict=True):
        assert len(mine) == len(other)
        assert not torch.isclose(mine, other).all(dim=1).any()
    assert first["seen"][0] == sum(2 * len(rays) for rays in first["drawn"])


def test_a_step_of_two_ranks_is_one_on_all_their_rays(two, tmp_path):
    """The first step by hand: gradients of both ranks' rays added up and halved, then one step of the optimiser."""
    root, (first, _) = two
    trainer = Trainer(load_scene(root / "scene"), config(), tmp_path, CPU)
    train, model = trainer.config.train, trainer.model
    model.set_step(0)
    loop.update_occupancy(model, trainer.occupancy, train, step=0, generator=trainer.generator)
    loop.set_rates(trainer.optimizer, loop.rate_factor(train.optim, 0, train.steps))
    losses = []
    for rank in (0, 1):
        generator = torch.Generator().manual_seed(Ranks(rank, 2).seed(train.seed, 1))
        result = loop.training_step(
            model, trainer.occupancy, trainer.data.store, train, step=0, rays=trainer.rays, generator=generator
        )
        (0.5 * result.loss).backward()
        losses.append(float(result.loss.detach()))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trainer.optimizer.step()
    assert first["losses"][0] == pytest.approx(sum(losses) / 2, rel=1e-6)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(first["after_one"][name], tensor, rtol=0, atol=1e-7, msg=name)
    assert any(not torch.equal(before[name], tensor) for name, tensor in first["after_one"].items())


def test_the_loss_is_that_of_one_process_with_twice_the_rays(two, tmp_path):
    """Other rays, the same number: the difference is of the size that other seeds make."""
    root, (first, _) = two
    alone = []
    for seed in (42, 1, 2):
        settings = config(start_rays=256, max_rays=256, samples=3000, seed=seed)
        trainer = Trainer(load_scene(root / "scene"), settings, tmp_path / str(seed), CPU)
        alone.append([float(trainer.advance().loss.detach()) for _ in range(STEPS)])
    single, both = torch.tensor(alone), torch.tensor(first["losses"])
    noise = float(single.std()) * (1 / both.numel() + 1 / single.numel()) ** 0.5
    assert abs(float(both.mean() - single.mean())) < 4 * noise
    assert 4 * noise < 0.15 * float(single.mean())


@pytest.fixture()
def others(monkeypatch):
    """All-reduce with one other rank, whose numbers are twice this one's; the sizes that were sent."""
    sent: list[int] = []

    def all_reduce(tensor, op=None):
        sent.append(tensor.numel())
        tensor.mul_(3)

    monkeypatch.setattr(ranks.dist, "all_reduce", all_reduce)
    return sent


def test_means_over_ranks(others):
    large, small, single = torch.ones(ranks._APART + 1), torch.arange(6.0).reshape(2, 3), torch.tensor(4.0)
    Ranks(0, 2).average([small, large, single])
    assert torch.equal(large, torch.full_like(large, 1.5))
    assert torch.equal(small, 1.5 * torch.arange(6.0).reshape(2, 3))
    assert float(single) == 6.0
    assert others == [ranks._APART + 1, 7], "small ones travel together"
    parameters = [torch.zeros(3, requires_grad=True), torch.zeros(2, requires_grad=True)]
    parameters[0].grad = torch.ones(3)
    Ranks(0, 2).average_gradients(parameters)
    assert [parameter.grad.tolist() for parameter in parameters] == [[1.5] * 3, [0.0] * 2]


def test_facts_of_a_graph_step(others):
    facts = {"loss": 1.0, "mse": 2.0, "wanted": 100, "rays": 10, "samples": 60}
    tensors = {name: torch.tensor(value) for name, value in facts.items()}
    table = torch.ones(4)
    shared = Ranks(1, 2).share(tensors, [table], [])
    assert {name: float(value) for name, value in shared.items()} == {
        "loss": 1.5, "mse": 3.0, "wanted": 150.0, "rays": 30.0, "samples": 180.0,
    }  # fmt: skip
    assert table.tolist() == [1.5] * 4
    assert ALONE.share(tensors, [table], []) == {}


def test_seeds():
    assert ALONE.seed(42) == Ranks(0, 8).seed(42) == 42
    found = {Ranks(rank, 8).seed(42, step) for rank in range(8) for step in range(1000)}
    assert len(found) == 8000
    assert all(0 <= seed < 2**31 for seed in found)


@pytest.mark.usefixtures("few_operations")
def test_the_graph_step_averages_what_it_learned(others, tmp_path):
    from nsr.fields.model import SurfaceModel
    from nsr.sampling.occupancy import OccupancyGrid
    from nsr.train.graph import GraphTrainer

    settings = tiny_config("random")
    settings.train.samples, settings.train.max_rays, settings.train.start_rays = 64, 16, 16
    model = SurfaceModel(settings.model, torch.Generator().manual_seed(1), "triton").to(DEVICE)
    store = pixel_store(sphere_scene(tmp_path / "scene"))
    graph = GraphTrainer(model, OccupancyGrid(8, DEVICE), store, settings.train, DEVICE, ranks=Ranks(1, 2))
    graph.rehearse()
    assert others == []
    graph.advance(0)
    assert len(others) >= 2
    assert int(graph.seen[0]) == int(graph.facts["rays"]) > 0
    assert int(graph.seen[0]) % 3 == 0, "the other rank has twice as many"
    assert graph.seed != settings.train.seed


def test_memory_that_runs_out_on_a_rank_ends_all(tmp_path, monkeypatch):
    def out_of_memory(*arguments, **options):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(loop, "training_step", out_of_memory)
    trainer = Trainer(sphere_scene(tmp_path / "scene"), quick_config(samples=65536), tmp_path / "out", CPU, Ranks(1, 2))
    with pytest.raises(OutOfMemory):
        trainer.advance()
    trainer.save()
    assert not trainer.checkpoint.exists(), "only the first rank writes"


def test_the_program_under_torchrun(two):
    """Two ranks, one set of results, one log; killed and resumed parts are tested with one rank."""
    root, _ = two
    settings = json.dumps(section(quick_config(steps=6, checkpoint_every=3), "model", "train"))
    out = root / "whole"
    options = ["--scene", root / "scene", "--out", out, "--device", "cpu", "--log", root / "train.log", "--settings", settings]
    done = torchrun("scripts/train.py", *options)
    assert done.returncode == 0, done.stderr
    summary = json.loads((out / "train.json").read_text())
    assert summary["ranks"] == 2
    steps = [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert steps == [5, 6]
    assert (root / "train.log").read_text().count("INFO back ends") == 1
    assert (out / "model.pt").is_file()


FIELDS = """
import sys
from pathlib import Path
import torch
from nsr.job import Job, running
from nsr.scene.scene import load_scene
from nsr.train.members import train_members
from nsr.train.ranks import joined
from tests.unit.test_members import config
torch.set_num_threads(1)
with running(Job(stage="train")), joined("cpu") as (ranks, device):
    train_members(load_scene(Path(sys.argv[1])), config(int(sys.argv[3])), Path(sys.argv[2]), device, ranks)
"""


def trained_fields(root, name, members, count):
    """Models and summary of the fields that `count` ranks trained."""
    (root / "fields.py").write_text(FIELDS)
    done = torchrun(root / "fields.py", root / "scene", root / name, members, count=count)
    assert done.returncode == 0, done.stderr
    return load_model(root / name / "model.pt", CPU).members, json.loads((root / name / "train.json").read_text())


def equal(first, second):
    return same_parameters(first.model, second.model) and torch.equal(first.occupied, second.occupied)


def test_ranks_that_can_have_fields_of_their_own_make_those_of_one_rank(two):
    root, _ = two
    alone, _ = trained_fields(root, "alone", members=2, count=1)
    apart, summary = trained_fields(root, "apart", members=2, count=2)
    assert len(apart) == 2
    assert all(equal(*pair) for pair in zip(alone, apart, strict=True))
    assert (summary["ranks"], summary["steps"]) == (2, 12)
    parts = field_results(root / "apart")
    assert summary["seconds"] == max(part["seconds"] for part in parts), "they were trained at the same time"
    records = [json.loads(line) for line in (root / "apart/metrics.jsonl").read_text().splitlines()]
    assert [(record["member"], record["step"]) for record in records] == [(k // 3, 2 * (k + 1)) for k in range(6)]
    assert records[-1]["seconds"] == pytest.approx(parts[1]["seconds"], abs=1e-3)

    # One rank's field is lost: a rerun of both ranks trains that one only.
    lost, kept = (root / "apart/checkpoint" / name / "model.pt" for name in ("member1", "member0"))
    lost.unlink()
    before = kept.stat().st_mtime_ns
    again, summary = trained_fields(root, "apart", members=2, count=2)
    assert kept.stat().st_mtime_ns == before and lost.is_file()
    assert all(equal(*pair) for pair in zip(alone, again, strict=True))
    assert summary["manifest"]["cost"]["wall_seconds"] >= parts[0]["seconds"], "the cost of the first run counts"


def test_fields_that_ranks_cannot_have_equally_many_of_are_trained_by_all(two):
    root, _ = two
    together, summary = trained_fields(root, "together", members=3, count=2)
    assert len(together) == 3 and summary["ranks"] == 2
    parts = field_results(root / "together", 3)
    assert [part["ranks"] for part in parts] == [2, 2, 2]
    assert summary["seconds"] == sum(part["seconds"] for part in parts)


def test_without_enough_gpus_one_process_trains(caplog, monkeypatch):
    monkeypatch.setattr(ranks.os, "execve", lambda *_: pytest.fail("started torchrun"))
    start_ranks(1, "auto")
    assert caplog.text == ""
    start_ranks(2, "cpu")
    assert "train.gpus=2, but 0 GPUs may be used; training in one process" in caplog.text
    monkeypatch.setenv("WORLD_SIZE", "2")
    start_ranks(2, "cuda")  # torchrun's own process


@pytest.mark.parametrize("said", [None, "6"])
def test_torchrun_is_started_with_the_same_arguments(monkeypatch, said):
    called = []
    monkeypatch.setattr(ranks.os, "execve", lambda program, words, environment: called.append((program, words, environment)))
    if said is None:
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    else:
        monkeypatch.setenv("OMP_NUM_THREADS", said)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(sys, "argv", ["scripts/train.py", "--scene", "a b"])
    start_ranks(4, "auto")
    ((program, words, environment),) = called
    assert program == words[0] == sys.executable
    assert environment == {**os.environ, "OMP_NUM_THREADS": said or "1"}
    assert words[-6:] == ["--nproc-per-node", "4", "--", "scripts/train.py", "--scene", "a b"]


@pytest.mark.parametrize(("environment", "device", "words"), [
    ({"WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2", "RANK": "0"}, "cpu", "one host"),
    ({"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "RANK": "0"}, "cuda:1", "use auto, cpu or cuda"),
])  # fmt: skip
def test_ranks_that_cannot_work(monkeypatch, environment, device, words):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(DeviceUnavailable, match=words), joined(device):
        pass


def test_alone_nothing_changes(tmp_path):
    scene = sphere_scene(tmp_path / "scene")
    with joined("cpu") as (mine, device):
        assert (mine, device) == (ALONE, CPU)
    summary = train_scene(scene, quick_config(steps=2), tmp_path / "out", CPU)
    assert summary["ranks"] == 1
