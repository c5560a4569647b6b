"""Bodies of GPU work that are run as they are a few times, then captured as CUDA graphs, then replayed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import torch

_EAGER_RUNS = 3  # compile the kernels and make the optimiser's state before a graph is captured


class Replays:
    """Graphs by name. On a CPU every body is run as it is.

    Args:
        before: called before each capture.
    """

    def __init__(self, device: torch.device, before: Callable[[], None]):
        self.device, self.before = device, before
        self.runs: Counter[str] = Counter()
        self.graphs: dict[str, torch.cuda.CUDAGraph] = {}

    def __call__(self, name: str, body: Callable[[], None]) -> None:
        """Do what `body` does; it must launch the same work on the same memory every time."""
        self.runs[name] += 1
        if self.device.type != "cuda" or self.runs[name] <= _EAGER_RUNS:
            body()
            return
        if name not in self.graphs:
            self.before()
            graph = torch.cuda.CUDAGraph()
            # Other threads, such as the one that watches NCCL's work, may ask the driver meanwhile.
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                body()
            self.graphs[name] = graph
        self.graphs[name].replay()

    def forget(self) -> None:
        """Begin anew, with bodies that run as they are: their memory has other sizes now."""
        self.graphs.clear()
        self.runs.clear()
