"""Several processes that train one scene together on one host, each on a GPU and rays of its own: `torchrun scripts/train.py`.

All ranks hold the same parameters and occupancy: they begin with the same, average their gradients and take the same step. Only
the first rank writes.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from nsr.errors import DeviceUnavailable
from nsr.log import get_logger
from nsr.rendering.device import pick_device, take_gpus

_WORLD = "WORLD_SIZE"  # torchrun tells its processes about each other in the environment
_APART = 1 << 16  # numbers from which on a tensor is averaged in place; smaller ones are put together
_SHARED = ("loss", "mse", "wanted", "rays", "samples")
_PATIENCE = timedelta(days=1)  # others may wait for the first rank's locks; torchrun ends them where one fails


@dataclass(frozen=True)
class Ranks:
    """Which of how many processes this is. Alone, nothing here does anything."""

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes."""
        return self.rank == 0

    def seed(self, seed: int, step: int = 0) -> int:
        """A seed of this rank's own at a step; `seed` for the first rank at step 0."""
        return (seed + self.rank * 0x2545F491 + step * 0x9E3779B1) % 2**31

    def average(self, tensors: Iterable[Tensor]) -> None:
        """Replace tensors by their means over the ranks; the same tensors in the same order on each."""
        if self.count == 1:
            return
        small: dict[torch.dtype, list[Tensor]] = {}
        for tensor in tensors:
            if tensor.numel() >= _APART and tensor.is_contiguous():
                dist.all_reduce(tensor)
                tensor.mul_(1.0 / self.count)
            else:
                small.setdefault(tensor.dtype, []).append(tensor)
        for group in small.values():
            joined = torch.cat([tensor.reshape(-1) for tensor in group])
            dist.all_reduce(joined)
            joined.mul_(1.0 / self.count)
            for tensor, part in zip(group, joined.split([tensor.numel() for tensor in group]), strict=True):
                tensor.copy_(part.view_as(tensor))

    def average_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Average the parameters' gradients; one that a rank has none of counts as 0."""
        if self.count == 1:
            return
        gradients = []
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            gradients.append(parameter.grad)
        self.average(gradients)

    def share(self, facts: Mapping[str, Tensor], gradients: Iterable[Tensor], parameters: Iterable[Tensor]) -> dict[str, Tensor]:
        """Average gradients and those of parameters; of a graph step's facts what all ranks agree on, {} alone.

        Loss, error and the samples that were asked for are means, rays and samples are those of all ranks together.
        """
        if self.count == 1:
            return {}
        self.average(gradients)
        self.average_gradients(parameters)
        means = dict(zip(_SHARED, self.means([facts[name] for name in _SHARED]), strict=True))
        return means | {name: (means[name] * self.count).round() for name in ("rays", "samples")}

    def means(self, numbers: Sequence[Tensor]) -> list[Tensor]:
        """Means over the ranks of single numbers, as float32; they are not waited for."""
        joined = torch.stack([number.detach().float().reshape(()) for number in numbers])
        self.average([joined])
        return list(joined.unbind())

    def least(self, number: int) -> int:
        """The smallest of the ranks' numbers; waits for all of them."""
        if self.count == 1:
            return number
        found = torch.tensor([number])
        dist.all_reduce(found, op=dist.ReduceOp.MIN)
        return int(found)

    def wait(self) -> None:
        """Wait until all ranks are here."""
        self.least(0)


ALONE = Ranks()


@contextmanager
def joined(device: str) -> Iterator[tuple[Ranks, torch.device]]:
    """The ranks that torchrun started and this one's device; alone, the device of `pick_device`.

    Raises:
        DeviceUnavailable: the ranks are on several hosts, there are fewer GPUs than ranks, or one GPU is named.
    """
    if int(os.environ.get(_WORLD, "1")) == 1:
        yield ALONE, pick_device(device)
        return
    ranks = Ranks(int(os.environ["RANK"]), int(os.environ[_WORLD]))
    if int(os.environ.get("LOCAL_WORLD_SIZE", ranks.count)) != ranks.count:
        raise DeviceUnavailable("train.gpus: the ranks of one scene must be on one host; start torchrun with --nnodes 1")
    on_gpu = device == "cuda" or (device == "auto" and torch.cuda.is_available())
    if not on_gpu and device not in ("auto", "cpu"):
        raise DeviceUnavailable(f"device '{device}' is one for {ranks.count} ranks; use auto, cpu or cuda")
    dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo", timeout=_PATIENCE)
    try:
        yield ranks, _own_gpu(ranks) if on_gpu else torch.device("cpu")
    finally:
        dist.destroy_process_group()


def _own_gpu(ranks: Ranks) -> torch.device:
    """The first rank takes GPUs for all, so that no two jobs wait for each other's, and tells who gets which."""
    told: list[list[int] | None] = [None]
    if ranks.first:
        told = [[device.index for device in take_gpus(count=ranks.count)]]
    dist.broadcast_object_list(told, src=0, device=torch.device("cpu"))
    assert told[0] is not None
    torch.cuda.set_device(told[0][ranks.rank])
    return torch.device("cuda", told[0][ranks.rank])


def start_ranks(gpus: int, device: str) -> None:
    """Become torchrun with this program on `gpus` ranks, where so many GPUs are visible; else return, and one process trains.

    Args:
        gpus: as `train.gpus`. device: as of the command line.
    """
    if gpus == 1 or _WORLD in os.environ:
        return
    visible = torch.cuda.device_count() if device in ("auto", "cuda") and torch.cuda.is_available() else 0
    if visible < gpus:
        get_logger().warning("train.gpus=%d, but %d GPUs may be used; training in one process", gpus, visible)
        return
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(gpus), "--"]
    # One thread is what torchrun sets, too, with a warning where nobody has said a number; `--threads` sets torch's.
    os.execve(sys.executable, [*launcher, *sys.argv], {"OMP_NUM_THREADS": "1", **os.environ})  # noqa: S606 (this very program, no shell)
