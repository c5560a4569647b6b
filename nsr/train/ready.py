"""Before the first step: its kernels compiled, its samples as many as the GPUs have room for."""

from __future__ import annotations

import time

import torch

from nsr.kernels.ahead import compile_ahead
from nsr.log import get_logger
from nsr.train.graph import GraphTrainer
from nsr.train.memory import PeakMemory, fitting_samples, free_bytes
from nsr.train.ranks import ALONE, Ranks


def make_ready(graph: GraphTrainer, device: torch.device, ranks: Ranks = ALONE) -> None:
    """Compile the step's kernels, and find the samples a step for which all ranks' GPUs have room."""
    if device.type != "cuda":
        return
    if not ranks.first:
        ranks.wait()  # what the first rank compiles is only read here
    start, kernels = time.monotonic(), 0

    def need(samples: int) -> int | None:
        nonlocal kernels
        graph.limit(samples)
        peak = PeakMemory(device)
        try:
            kernels += compile_ahead(lambda: graph.rehearse(peak), device)
        except torch.cuda.OutOfMemoryError:
            return None
        return peak.bytes

    fitting = fitting_samples(graph.samples, free_bytes(device), need)
    if ranks.first:
        ranks.wait()
    graph.limit(ranks.least(fitting))
    get_logger().info("%d kernels ready after %.1f s", kernels, time.monotonic() - start)
