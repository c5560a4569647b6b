"""Slots of GPUs, with invented GPUs and real processes: one job on each, freed by whatever ends a job."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch

from nsr import gpus
from nsr.errors import DeviceUnavailable
from nsr.gpus import claim
from nsr.job import Job, current, running
from nsr.rendering import device as devices
from tests.source_tree import child_environment

# Says what it got, and keeps it until its input ends.
HOLDER = """
import sys
from nsr.gpus import claim
from nsr.log import log_to
with log_to(None):
    slots = claim(sys.argv[1].split(","), count=int(sys.argv[2]), share=int(sys.argv[3]))
print(",".join(slot.uuid for slot in slots), flush=True)
sys.stdin.read()
"""


class Holders:
    """Processes that take slots in one folder."""

    def __init__(self, folder: Path, stack: ExitStack):
        self.folder, self.stack = folder, stack

    def start(self, names: str, count: int = 1, share: int = 1) -> subprocess.Popen[str]:
        """A process that asks for GPUs of `names`."""
        process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, names, str(count), str(share)],
            env=child_environment(**{gpus.FOLDER: str(self.folder)}),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.stack.enter_context(process)
        self.stack.callback(process.kill)
        return process

    def waiting(self, *arguments) -> subprocess.Popen[str]:
        """A process that has said that it must wait."""
        process = self.start(*arguments)
        assert process.stderr is not None
        assert "waiting for" in process.stderr.readline()
        return process


def got(process: subprocess.Popen[str]) -> str:
    """The GPUs that a process took."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.fixture()
def holders(tmp_path):
    with ExitStack() as stack:
        yield Holders(tmp_path / "locks", stack)


def test_each_job_has_its_gpu_and_a_killed_one_frees_it(holders):
    jobs = []
    for name in "abc":
        jobs.append(holders.start("a,b,c"))
        assert got(jobs[-1]) == name  # in the given order
    fourth = holders.waiting("a,b,c")
    os.kill(jobs[1].pid, signal.SIGKILL)
    assert got(fourth) == "b"
    jobs[2].stdin.close()  # a job that ends by itself
    assert got(holders.start("a,b,c")) == "c"


def test_only_visible_gpus_are_taken(holders):
    """Two jobs of a scheduler that shows each its own GPU, and one that sees both."""
    assert got(holders.start("b")) == "b"
    assert got(holders.start("a,b")) == "a"
    assert got(holders.start("c,b")) == "c"


def test_sharing_only_where_both_say_so(holders):
    sharing = [holders.start("a,b", 1, 2) for _ in range(4)]
    assert sorted(got(process) for process in sharing) == ["a", "a", "b", "b"]
    fifth, alone = holders.waiting("a,b", 1, 2), holders.waiting("a,b")
    sharing[0].kill()
    assert got(fifth) in ("a", "b")
    for process in (*sharing, fifth):
        process.kill()
    assert got(alone) in ("a", "b")


def test_jobs_that_share_take_an_empty_gpu_first(holders):
    assert got(holders.start("a,b", 1, 3)) == "a"
    assert got(holders.start("a,b", 1, 3)) == "b"
    assert got(holders.start("a,b", 1, 3)) == "a"


def test_several_gpus_are_taken_at_once_or_not_at_all(holders):
    first = holders.start("a,b,c")
    assert got(first) == "a"
    both = holders.waiting("a,b", 2)
    assert got(holders.start("b")) == "b"  # the one that waits for two keeps none
    assert got(holders.start("a,c")) == "c"
    first.kill()
    with pytest.raises(subprocess.TimeoutExpired):
        both.wait(timeout=2 * gpus.PAUSE)


def test_many_jobs_are_never_two_on_one(tmp_path, holders):
    """Eight jobs, three GPUs: while a job holds one, a file stands for it that no other may have made."""
    program = (
        "import os, sys, time\nfrom pathlib import Path\nfrom nsr.gpus import claim\n"
        "slot, = claim(['a', 'b', 'c'])\nmark = Path(sys.argv[1]) / slot.uuid\nos.close(os.open(mark, os.O_CREAT | os.O_EXCL))\n"
        "time.sleep(0.1)\nmark.unlink()\n"
    )
    environment = child_environment(**{gpus.FOLDER: str(holders.folder)})
    jobs = [subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], env=environment) for _ in range(8)]
    assert [job.wait(timeout=60) for job in jobs] == [0] * 8


def test_what_cannot_be_had_is_said(tmp_path, monkeypatch):
    with pytest.raises(DeviceUnavailable, match=r"2 GPUs were asked for and 1 are visible.*train.gpus"):
        claim(["a"], count=2, folder=tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(DeviceUnavailable, match="NSR_GPU_LOCKS"):
        claim(["a"], folder=tmp_path / "file")
    (tmp_path / "a").symlink_to(tmp_path / "file")
    with pytest.raises(DeviceUnavailable, match="cannot be opened"):
        claim(["a"], folder=tmp_path)
    for text in ("0", "-1", "two", "1.5", "²"):
        monkeypatch.setenv(gpus.SHARE, text)
        with pytest.raises(DeviceUnavailable, match="NSR_GPU_SHARE"):
            claim(["b"], folder=tmp_path)


@pytest.fixture()
def machine(tmp_path, monkeypatch):
    """A machine with three GPUs, as torch would show it; the index that was made current."""
    now: list[int] = []
    for name, fake in {
        "is_available": lambda: True,
        "device_count": lambda: 3,
        "set_device": now.append,
        "get_device_name": lambda index: f"Big GPU {index}",
        "max_memory_allocated": lambda index: 10**9 * (index + 1),
    }.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    monkeypatch.setattr(devices, "gpu_name", lambda index: f"GPU-{index}")
    monkeypatch.setenv(gpus.FOLDER, str(tmp_path / "locks"))
    return now


def test_a_job_takes_one_gpu_and_gives_it_back(machine, tmp_path):
    with running(Job("train")):
        assert devices.pick_device("auto") == torch.device("cuda", 0)
        assert devices.pick_device("cuda") == torch.device("cuda", 0)  # the one it has
        (other,) = claim(["GPU-0", "GPU-1"])
        assert other.uuid == "GPU-1"
        with running(Job("mesh")):  # stands for another process
            assert devices.pick_device("cuda") == torch.device("cuda", 2)
            cost = current().cost()
        assert (cost["gpu"], cost["gpu_ids"], cost["gpu_peak_gb"]) == ("Big GPU 2", ["GPU-2"], 3.0)
        assert devices.pick_device("cuda:2") == torch.device("cuda", 2)  # free again
    assert machine == [0, 0, 2, 2]
    other.release()
    with running(Job("train")):
        assert [device.index for device in devices.take_gpus(count=3)] == [0, 1, 2]


def test_a_gpu_that_is_named_is_waited_for(machine, monkeypatch):
    (slot,) = claim(["GPU-1"])
    waited = []

    def sleep(_: float) -> None:
        waited.append(time.monotonic())
        slot.release()

    monkeypatch.setattr(gpus.time, "sleep", sleep)
    with running(Job("train")):
        assert devices.pick_device("cuda:1") == torch.device("cuda", 1)
    assert len(waited) == 1
