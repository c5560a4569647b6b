"""Choice of the torch device."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial

import torch

from nsr.errors import DeviceUnavailable
from nsr.gpus import claim
from nsr.job import HeldGpu, current
from nsr.log import get_logger


def pick_device(name: str) -> torch.device:
    """`auto` (a GPU if there is one), `cpu`, `cuda` or `cuda:N`.

    A GPU is taken for the running job alone (see `nsr.gpus`), which waits for one where other jobs hold all, and becomes the
    process's current one. It counts among the job's costs from then on.

    Raises:
        DeviceUnavailable: a GPU is asked for and there is none, or the name is unknown.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise DeviceUnavailable(f"device '{name}' is unknown; use auto, cpu, cuda or cuda:N")
    device = torch.device(name)
    if device.type == "cpu":
        return device
    if not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count():
        raise DeviceUnavailable(
            f"device '{name}' was asked for, but torch {torch.__version__} sees {torch.cuda.device_count()} GPUs; "
            "use device auto or cpu, or install a CUDA build of torch and check nvidia-smi"
        )
    return take_gpus(None if device.index is None else [device.index])[0]


def take_gpus(among: Sequence[int] | None = None, count: int = 1) -> tuple[torch.device, ...]:
    """Take `count` GPUs for the running job, or those that it holds already; the first becomes the current one.

    Args:
        among: indices that may be taken, None: all that are visible.
    """
    names = {gpu_name(index): index for index in range(torch.cuda.device_count())}
    allowed = [name for name, index in names.items() if among is None or index in among]
    job = current()
    taken = [gpu.uuid for gpu in job.gpus if gpu.uuid in allowed][:count]
    if len(taken) < count:
        for slot in claim([name for name in allowed if name not in taken], count - len(taken)):
            index = names[slot.uuid]
            peak = partial(torch.cuda.max_memory_allocated, index)
            job.hold(HeldGpu(torch.cuda.get_device_name(index), slot.uuid, slot.share, peak, release=slot.release))
            get_logger().info("GPU %d (%s)", index, slot.uuid)
            taken.append(slot.uuid)
    torch.cuda.set_device(names[taken[0]])
    return tuple(torch.device("cuda", names[name]) for name in taken)


def gpu_name(index: int) -> str:
    """The UUID by which the driver knows a visible GPU, whatever its index is in this process."""
    uuid = getattr(torch.cuda.get_device_properties(index), "uuid", None)  # torch 2.4 has none on some platforms
    return f"index-{index}" if uuid is None else f"GPU-{uuid}"


def reset_peak_memory(device: torch.device) -> None:
    """Start a new measurement of the peak of allocated GPU memory."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory_mb(device: torch.device) -> float:
    """Peak of allocated GPU memory in MB since the last reset; 0 on the CPU."""
    return torch.cuda.max_memory_allocated(device) / 1e6 if device.type == "cuda" else 0.0


def device_name(device: torch.device) -> str:
    """Name for results: the GPU's model or `cpu`."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def rays_at_once(device: torch.device) -> int:
    """How many rays to render together: a CPU is fastest while their samples stay in its caches, a GPU when it is full.

    docs/performance.md has the measurements.
    """
    return 8192 if device.type == "cuda" else 1024
