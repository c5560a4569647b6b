"""The training loop: it learns the surface, resumes after a kill, stops with a diagnosis."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from nsr.config import section
from nsr.errors import DataError, TrainingDiverged
from nsr.scene.scene import load_scene
from nsr.train import loop
from nsr.train.checkpoint import load_dict
from nsr.train.loop import Trainer, train_scene
from nsr.train.model_file import load_model
from nsr.train.optim import rate_factor
from nsr.train.step import next_ray_count
from tests.source_tree import child_environment
from tests.unit.training_scene import RADIUS, quick_config, sphere_scene

CPU = torch.device("cpu")
REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    return sphere_scene(tmp_path_factory.mktemp("scene") / "sphere")


def parameters(folder):
    return load_dict(folder / "model.pt", CPU)["model"]


def difference(one, other):
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def train_until(step, scene, config, out, monkeypatch):
    """A training that dies after a step."""
    advance = Trainer.advance

    def dies(self):
        if self.step == step:
            raise KeyboardInterrupt
        return advance(self)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "advance", dies)
        with pytest.raises(KeyboardInterrupt):
            train_scene(scene, config, out, CPU)


def surface_radii(folder):
    """Where the zero level lies along 200 directions."""
    trained = load_model(folder / "model.pt", CPU)
    generator = torch.Generator().manual_seed(0)
    direction = torch.nn.functional.normalize(torch.randn(200, 3, generator=generator), dim=1)
    radii = torch.linspace(0.2, 0.95, 151)
    values = trained.sdf((direction[:, None] * radii[:, None]).reshape(-1, 3)).reshape(200, 151)
    return radii[(values > 0).long().argmax(1)]


def test_learns_the_sphere_and_reports_what_it_did(scene, tmp_path):
    summary = train_scene(scene, quick_config(steps=250, samples=4000), tmp_path, CPU)
    assert (surface_radii(tmp_path) - RADIUS).abs().mean() < 0.02
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert records[-1]["step"] == 250
    assert records[-1]["psnr"] > records[0]["psnr"] + 3
    assert summary["psnr_train"] > 19
    assert summary["train_views"] == [view.name for view in scene.views if not view.held_out]
    assert json.loads(json.dumps(summary)) == json.loads((tmp_path / "train.json").read_text())
    trained = load_model(tmp_path / "model.pt", CPU)
    assert trained.similarity.scale == scene.similarity.scale
    points = torch.nn.functional.normalize(torch.randn(100, 3, generator=torch.Generator().manual_seed(1)), dim=1)
    expected = 0.5 + 0.4 * torch.sin(7 * RADIUS * points)
    # A constant grey is off by 0.25; 250 steps of a tiny network get about half of the pattern.
    assert (trained.colour(points * RADIUS, points) - expected).abs().mean() < 0.17


def test_two_runs_give_the_same_model(scene, tmp_path):
    for name in ("one", "two"):
        train_scene(scene, quick_config(), tmp_path / name, CPU)
    assert difference(parameters(tmp_path / "one"), parameters(tmp_path / "two")) == 0
    train_scene(scene, quick_config(seed=7), tmp_path / "three", CPU)
    assert difference(parameters(tmp_path / "one"), parameters(tmp_path / "three")) > 1e-3


def test_split_all_trains_on_every_view(scene, tmp_path):
    summary = train_scene(scene, quick_config(steps=5, split="all"), tmp_path, CPU)
    assert len(summary["train_views"]) == len(scene.views)


@pytest.mark.parametrize("average", [0.0, 0.6])
def test_resume_ends_where_the_undisturbed_run_ends(scene, tmp_path, monkeypatch, average):
    """With a mean of the parameters from step 25 on, the checkpoint of step 40 lies in the middle of it."""
    config = quick_config(average=average)
    train_scene(scene, config, tmp_path / "whole", CPU)
    train_until(47, scene, config, tmp_path / "cut", monkeypatch)
    assert not (tmp_path / "cut" / "model.pt").exists()
    summary = train_scene(scene, config, tmp_path / "cut", CPU)
    assert summary["resumed"]
    assert difference(parameters(tmp_path / "whole"), parameters(tmp_path / "cut")) == 0
    steps = [json.loads(line)["step"] for line in (tmp_path / "cut" / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(5, 65, 5)), "records after the checkpoint are written once, not twice"


def test_kill_9_and_rerun(scene, tmp_path):
    """The real program, really killed, then run again to the end."""
    config = quick_config(steps=120, checkpoint_every=10)
    settings = json.dumps(section(config, "model", "train"))
    command = [
        sys.executable,
        "scripts/train.py",
        "--scene",
        scene.root,
        "--out",
        tmp_path / "run",
        "--device",
        "cpu",
        "--threads",
        "1",
    ]
    environment = child_environment()
    process = subprocess.Popen([*command, "--settings", settings], cwd=REPOSITORY, env=environment, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (tmp_path / "run" / "checkpoint" / "last.pt").exists():
        assert process.poll() is None, "ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "run" / "model.pt").exists()
    rerun = subprocess.run(
        [*command, "--settings", settings], cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=True
    )
    assert "resumed at step" in rerun.stderr
    train_scene(scene, config, tmp_path / "whole", CPU)
    assert difference(parameters(tmp_path / "whole"), parameters(tmp_path / "run")) == 0


def test_required_masks_that_are_missing(tmp_path):
    bare = sphere_scene(tmp_path / "bare", masks=False)
    with pytest.raises(DataError, match="needs masks, but 12 of 12 views have none"):
        train_scene(bare, quick_config(use_masks="required"), tmp_path / "out", CPU)
    assert not (tmp_path / "out" / "model.pt").exists()


def test_no_view_left_to_train_on(tmp_path):
    lonely = sphere_scene(tmp_path / "one", views=1)
    with pytest.raises(DataError, match=r"train\.split=all"):
        train_scene(lonely, quick_config(), tmp_path / "out", CPU)


def test_watchdog_stops_on_nan(scene, tmp_path, monkeypatch):
    advance = Trainer.advance

    def poisoned(self):
        if self.step == 12:
            with torch.no_grad():
                self.model.sdf.W1[0, 0] = float("nan")
        return advance(self)

    monkeypatch.setattr(Trainer, "advance", poisoned)
    with pytest.raises(TrainingDiverged, match=r"step 15: the loss is nan; lower train\.optim\.learning_rate"):
        train_scene(scene, quick_config(), tmp_path, CPU)
    assert not (tmp_path / "model.pt").exists()


def test_a_broken_step_is_never_saved(scene, tmp_path, monkeypatch):
    """Also when checkpoints fall between log lines: a saved NaN would be resumed for ever."""
    advance = Trainer.advance

    def poisoned(self):
        if self.step == 12:
            with torch.no_grad():
                self.model.sdf.W1[0, 0] = float("nan")
        return advance(self)

    monkeypatch.setattr(Trainer, "advance", poisoned)
    rare = {"every": 50, "after": 50, "max_sharpness_fall": 0.5}
    with pytest.raises(TrainingDiverged, match="step 16: the loss is nan"):
        train_scene(scene, quick_config(log_every=50, checkpoint_every=8, watchdog=rare), tmp_path, CPU)
    assert load_dict(tmp_path / "checkpoint" / "last.pt", CPU)["step"] == 8


def test_watchdog_stops_on_empty_occupancy(scene, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "update_occupancy", lambda model, grid, *a, **k: grid.occupied.zero_())
    with pytest.raises(TrainingDiverged, match="occupancy grid is empty.*masks' polarity"):
        train_scene(scene, quick_config(), tmp_path, CPU)


@pytest.mark.parametrize(("offset", "side"), [(3.0, "positive"), (-3.0, "negative")])
def test_watchdog_stops_without_a_surface(scene, tmp_path, monkeypatch, offset, side):
    advance = Trainer.advance

    def pushed(self):
        result = advance(self)
        with torch.no_grad():
            self.model.sdf.b2[0] = offset
            self.occupancy.occupied.fill_(True)
        return result

    monkeypatch.setattr(Trainer, "advance", pushed)
    with pytest.raises(TrainingDiverged, match=f"signed distance is {side} everywhere"):
        train_scene(scene, quick_config(), tmp_path, CPU)


def test_watchdog_stops_on_falling_sharpness(scene, tmp_path, monkeypatch):
    advance = Trainer.advance

    def blunted(self):
        result = advance(self)
        with torch.no_grad():
            self.model.log_sharpness.fill_(0.1)
        return result

    monkeypatch.setattr(Trainer, "advance", blunted)
    with pytest.raises(TrainingDiverged, match=r"sharpness 1/s fell to 2\.7 \(start 20\.0\)"):
        train_scene(scene, quick_config(), tmp_path, CPU)


def test_the_program_reports_a_watchdog_in_one_line_and_an_exit_code(scene, tmp_path):
    settings = json.dumps(section(quick_config(watchdog={"every": 10, "after": 0, "max_sharpness_fall": 1e3}), "model", "train"))
    command = [
        sys.executable,
        "scripts/train.py",
        "--scene",
        scene.root,
        "--out",
        tmp_path,
        "--device",
        "cpu",
        "--settings",
        settings,
    ]
    done = subprocess.run(command, cwd=REPOSITORY, env=child_environment(), capture_output=True, text=True)
    assert done.returncode == 3
    assert "Traceback" not in done.stderr
    assert "the sharpness 1/s fell" in done.stderr.splitlines()[-1]


def test_every_loss_term_trains(scene, tmp_path):
    terms = {
        "mask": [[0, 0.0], [3, 0.1]], "eikonal_random": 0.1, "curvature": 1e-4, "sparsity": 0.01, "opaque": 0.01, "distortion": 0.01,
        "colour": "mse",
    }  # fmt: skip
    config = quick_config(steps=12, random_points=64, loss=terms, log_every=4)
    train_scene(scene, config, tmp_path, CPU)
    last = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
    for term in ("colour", "mask", "eikonal", "eikonal_random", "curvature", "sparsity", "opaque", "distortion"):
        assert np.isfinite(last[term])
        assert last[term] != 0


def test_learned_background_without_masks(tmp_path):
    bare = sphere_scene(tmp_path / "bare", masks=False)
    config = quick_config(steps=30)
    config.model.background.kind, config.model.background.levels, config.model.background.log2_table = "learned", 4, 8
    summary = train_scene(bare, config, tmp_path / "out", CPU)
    assert not summary["masks"]
    assert np.isfinite(summary["psnr_train"])


def test_a_scene_survives_saving_and_loading(scene):
    again = load_scene(scene.root)
    assert [view.name for view in again.views] == [view.name for view in scene.views]
    np.testing.assert_array_equal(again.unit_w2c(again.views), scene.unit_w2c(scene.views))


def test_learning_rate_schedule():
    optim = quick_config().train.optim
    factors = [rate_factor(optim, step, 60) for step in (0, 5, 10, 35, 60)]
    assert factors == pytest.approx([0.01, 0.505, 1.0, 0.1**0.5, 0.1])


def test_ray_count_heads_for_the_sample_budget():
    train = quick_config(samples=1000, max_rays=512).train
    rays = 64
    for _ in range(100):
        rays = next_ray_count(rays, rays * 5, train)
    assert rays == pytest.approx(200, abs=10)
    assert next_ray_count(100, 0, train) == 512, "no sample at all must not divide by zero"
    assert next_ray_count(16, 10**6, train) == 16
