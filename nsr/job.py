"""The running job: its stage, code, settings and inputs, and what it has cost so far. A stage's results carry all of it.

The command line opens a job (`running`), the choice of the device adds the GPU (`Job.hold`), and `nsr.provenance.manifest` writes
down what is known by then. Without a command line there is a nameless job that began with the first use.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

NO_GPU = "no GPU was used"
NO_DRIVER = "not measured: the package nvidia-ml-py is not installed or finds no driver"
NO_COUNTER = "not measured: the driver has no counter of energy for this GPU"
SHARED = "not measured: other jobs may use the same GPU"
EARLIER = "not measured: a part that ran earlier was not"
_ADDED = ("wall_seconds", "cpu_seconds", "gpu_seconds")
_LARGEST = ("host_peak_gb", "gpu_peak_gb")


@dataclass
class HeldGpu:
    """A GPU from the moment at which a job got it.

    Attributes:
        name: its model. uuid: by which the driver knows it. share: of how many jobs at a time it may be.
        peak: bytes that this process's tensors took at most. energy: the driver's counter in J, or why there is none.
        release: gives it back.
        since, began: when it was taken, and the counter then.
    """

    name: str
    uuid: str
    share: int = 1
    peak: Callable[[], int] = lambda: 0
    energy: Callable[[str], float | str] = field(default_factory=lambda: energy_counter)
    release: Callable[[], None] = lambda: None
    since: float = field(default_factory=lambda: seconds())
    began: float | str = field(init=False)

    def __post_init__(self) -> None:
        self.began = SHARED if self.share > 1 else self.energy(self.uuid)

    def spent(self) -> float | str:
        """Energy of the GPU since it was taken, J, idle or not; or why it is not known."""
        now = self.began if isinstance(self.began, str) else self.energy(self.uuid)
        return now if isinstance(now, str) or isinstance(self.began, str) else now - self.began


@dataclass
class Job:
    """One run of a stage.

    Attributes:
        stage, code, commit: name, hash of its code, and the checkout's commit; None where there is no checkout.
        settings: as they were given to it. inputs: files and folders it reads, by option.
    """

    stage: str | None = None
    code: str | None = None
    commit: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, Path] = field(default_factory=dict)
    start: float = field(default_factory=lambda: seconds())
    gpus: list[HeldGpu] = field(default_factory=list)
    earlier: Mapping[str, Any] = field(default_factory=dict)

    def hold(self, gpu: HeldGpu) -> None:
        """Count a GPU from now on; one that is held already counts once."""
        if gpu.uuid not in [held.uuid for held in self.gpus]:
            self.gpus.append(gpu)

    def carry(self, cost: Mapping[str, Any]) -> None:
        """Add the cost of an earlier part of the same work, `cost()` of a run that was killed; {} if unknown."""
        self.earlier = dict(cost)

    def cost(self) -> dict[str, Any]:
        """What the job has used so far.

        Wall-clock and processor seconds, seconds for which GPUs were held (times their number, through their share), peaks of
        memory in GB (1e9 bytes) and energy of the GPUs in J, None with `energy_note` where it is not known.
        """
        now = seconds()
        found: dict[str, Any] = {
            "wall_seconds": now - self.start,
            "cpu_seconds": cpu_seconds(),
            "gpu_seconds": sum((now - gpu.since) / gpu.share for gpu in self.gpus),
            "gpus": len(self.gpus),
            "gpu": self.gpus[0].name if self.gpus else None,
            "gpu_ids": [gpu.uuid for gpu in self.gpus],
            "gpu_share": self.gpus[0].share if self.gpus else None,
            "host_peak_gb": host_peak() / 1e9,
            "gpu_peak_gb": max((gpu.peak() for gpu in self.gpus), default=0) / 1e9,
        }
        return self._with_earlier(found | _energy(self.gpus))

    def _with_earlier(self, found: dict[str, Any]) -> dict[str, Any]:
        if not self.earlier:
            return found
        for key in _ADDED:
            found[key] += self.earlier.get(key, 0.0)
        for key in _LARGEST:
            found[key] = max(found[key], self.earlier.get(key, 0.0))
        before, now = self.earlier.get("energy_j"), found["energy_j"]
        if self.earlier.get("gpu_seconds"):
            if before is None:
                found |= {"energy_j": None, "energy_note": self.earlier.get("energy_note") or EARLIER}
            elif now is not None:
                found["energy_j"] = now + before
        return found


_CURRENT: ContextVar[Job | None] = ContextVar("job", default=None)


def current() -> Job:
    """The running job."""
    job = _CURRENT.get()
    if job is None:
        job = Job()
        _CURRENT.set(job)
    return job


@contextmanager
def running(job: Job) -> Iterator[Job]:
    """Make `job` the running one for the block; its GPUs are given back at the end."""
    token = _CURRENT.set(job)
    try:
        yield job
    finally:
        _CURRENT.reset(token)
        for gpu in job.gpus:
            gpu.release()


def seconds() -> float:
    """A clock that only runs forward."""
    return time.monotonic()


def cpu_seconds() -> float:
    """Processor time of this process and of those it started and waited for."""
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def host_peak() -> int:
    """Most memory this process had so far, bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def energy_counter(uuid: str) -> float | str:
    """J that a GPU has used since its driver was loaded (NVML), or why that is not known."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except (ImportError, OSError):
        return NO_DRIVER
    except pynvml.NVMLError:
        return NO_DRIVER
    try:
        return pynvml.nvmlDeviceGetTotalEnergyConsumption(pynvml.nvmlDeviceGetHandleByUUID(uuid)) / 1e3
    except pynvml.NVMLError:
        return NO_COUNTER
    finally:
        pynvml.nvmlShutdown()


def _energy(gpus: list[HeldGpu]) -> dict[str, Any]:
    spent = [gpu.spent() for gpu in gpus]
    known = [joules for joules in spent if not isinstance(joules, str)]
    unknown = [reason for reason in spent if isinstance(reason, str)]
    if not gpus or unknown:
        return {"energy_j": None, "energy_note": unknown[0] if unknown else NO_GPU}
    return {"energy_j": sum(known)}
