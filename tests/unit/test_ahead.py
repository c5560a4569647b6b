"""Kernels compiled before the first step: all that the step launches, side by side, and nothing else happens."""

import json
import subprocess
import sys
import threading

import pytest
import torch

from nsr.kernels.ahead import compile_ahead
from nsr.kernels.gpu import interpreted
from nsr.train.loop import Trainer
from tests.source_tree import ROOT, child_environment
from tests.unit.graph_settings import DEVICE, patches, tiny_config
from tests.unit.training_scene import sphere_scene

KINDS = ("learned", "ancestors", "photographs")
pytestmark = pytest.mark.skipif(not interpreted(), reason="compares with what the interpreter launches")


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    return sphere_scene(tmp_path_factory.mktemp("ahead") / "scene")


@pytest.fixture(scope="module")
def hopper(scene, tmp_path_factory):
    """What `tests/unit/hopper.py` found, with an empty cache of kernels."""
    cache = tmp_path_factory.mktemp("kernels")
    surroundings = child_environment(TRITON_INTERPRET="0", TRITON_CACHE_DIR=str(cache))
    command = [sys.executable, "-m", "tests.unit.hopper", scene.root, *KINDS]
    done = subprocess.run(command, env=surroundings, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.mark.usefixtures("few_operations")
def test_a_rehearsal_asks_for_every_kernel_of_a_run(scene, hopper, tmp_path, monkeypatch):
    from triton.runtime.interpreter import InterpretedFunction

    launched, run = set(), InterpretedFunction.run

    def note(kernel, *args, **options):
        launched.add(f"{kernel.fn.__module__}.{kernel.fn.__name__}")
        return run(kernel, *args, **options)

    monkeypatch.setattr(InterpretedFunction, "run", note)
    Trainer(scene, patches(tiny_config("learned")), tmp_path, DEVICE).advance()
    assert len(launched) > 10
    assert set(hopper["learned"]["kernels"]) == launched


@pytest.mark.parametrize("kind", KINDS)
def test_a_rehearsal_changes_nothing(hopper, kind):
    assert hopper[kind]["same"]


def test_kernels_are_compiled_once_and_not_launched(hopper):
    found = hopper["compiled"]
    assert found["counts"] == [2, 0]
    assert found["untouched"] and found["binary"] > 1000


def test_kernels_are_parsed_one_at_a_time(hopper):
    found = hopper["parsed"]
    assert found["times"] > 10 and found["restored"]
    assert found["at once"] == 1


def test_a_kernel_that_triton_refuses_once_is_compiled_again(hopper):
    once, always = hopper["refused"]
    assert once == [2, ""]
    assert always[0] == 2 and "injected" in always[1]


def test_a_single_sample_can_be_rendered(hopper):
    assert hopper["single"] > 10


def test_nothing_to_compile_under_the_interpreter():
    def rehearsal():
        raise AssertionError("not needed")

    threads = threading.active_count()
    assert compile_ahead(rehearsal, torch.device("cpu")) == 0
    assert threading.active_count() == threads
