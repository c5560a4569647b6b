"""GPU memory: how many samples a step the card has room for, and an error that helps where it has none."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from nsr.errors import OutOfMemory
from nsr.log import get_logger

# Under this many samples a step the gradients are too noisy to train a surface with.
SMALLEST = 8192
_MARGIN = 1.1  # the allocator rounds and leaves gaps; CUDA graphs and libraries keep some for themselves


def fitting_samples(wanted: int, free: int, need: Callable[[int], int | None]) -> int:
    """The largest of `wanted`, a half, a quarter, ... samples a step that fits; `wanted` itself where it is under `SMALLEST`.

    Args:
        free: bytes. need: bytes that a step with so many samples takes, or None where it was tried and could not have them.

    Raises:
        OutOfMemory: the smallest does not fit either.
    """
    samples = wanted
    while True:
        bytes_needed = need(samples)
        if bytes_needed is not None and bytes_needed * _MARGIN <= free:
            break
        if samples // 2 < SMALLEST:
            found = "more" if bytes_needed is None else _gigabytes(int(bytes_needed * _MARGIN))
            raise OutOfMemory(
                f"GPU memory: a step needs {found} even with train.samples={samples}, but {_gigabytes(free)} are free beside "
                "photographs and hash tables; lower model.encoding.log2_table, the networks' sizes, train.random_points or "
                "prepare.max_size, or use a GPU with more memory or without other programs on it"
            )
        samples //= 2
    if samples < wanted:
        get_logger().warning(
            "GPU memory: %s are free, too little for train.samples=%d; training with %d samples a step, which sees fewer rays",
            _gigabytes(free),
            wanted,
            samples,
        )
    return samples


def free_bytes(device: torch.device) -> int:
    """What this process can still allocate: free on the GPU or kept by torch, within torch's limit for the process."""
    free, total = torch.cuda.mem_get_info(device)
    allocated, kept = torch.cuda.memory_allocated(device), torch.cuda.memory_reserved(device)
    # Versions before 2.6 cannot say what limit was set.
    index = torch.cuda.current_device() if device.index is None else device.index
    share = getattr(torch.cuda, "get_per_process_memory_fraction", lambda _: 1.0)(index)
    return max(0, min(free + kept, int(share * total)) - allocated)


class PeakMemory:
    """Calls functions one after another and adds up the most memory each of them held beyond what was held before."""

    def __init__(self, device: torch.device):
        self.device, self.bytes = device, 0

    def __call__(self, body: Callable[[], None]) -> None:
        """Call `body`."""
        torch.cuda.reset_peak_memory_stats(self.device)
        before = torch.cuda.memory_allocated(self.device)
        body()
        self.bytes += torch.cuda.max_memory_allocated(self.device) - before


@contextmanager
def shortage_named(where: str, remedy: str) -> Iterator[None]:
    """Turn torch's error for GPU memory that ran out into `OutOfMemory`.

    Args:
        where: what was being done. remedy: what to set; other programs on the GPU are named anyway.
    """
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        raise OutOfMemory(
            f"{where}: GPU memory ran out; {remedy}, or end other programs on this GPU ({str(error).split('. ')[0]})"
        ) from error


def _gigabytes(number: int) -> str:
    return f"{number / 1e9:.2f} GB"
