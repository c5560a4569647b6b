"""Progress for people (bar or log lines) and for programs (`metrics.jsonl`)."""

from __future__ import annotations

import json
import math
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from nsr.log import first_speaks, get_logger
from nsr.provenance import write_text

_SECONDS_BETWEEN_LINES = 10.0


def psnr(mse: float) -> float:
    """Peak signal-to-noise ratio in dB of a mean squared error of colours in [0, 1]."""
    return -10.0 * math.log10(max(mse, 1e-12))


def truncate_metrics(path: Path, step: int) -> None:
    """Drop the records after `step`: a killed run may have logged further than its last checkpoint."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except (ValueError, KeyError):
            continue  # the line that the kill cut off
    write_text(path, "".join(line + "\n" for line in kept))  # a second kill here must not lose the records of the first run


class MetricsLog:
    """Appends one JSON object a line, and shows a bar on a terminal or a line every few seconds elsewhere."""

    def __init__(self, path: Path, steps: int, start: int):
        self.path, self.steps, self.start = path, steps, start
        self.began = self.last_line = time.monotonic()
        self.bar: Progress | None = None
        if sys.stderr.isatty() and first_speaks():
            columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
            self.bar = Progress(*columns, console=Console(stderr=True))
            self.task = self.bar.add_task("training", total=steps, completed=start)

    def __enter__(self) -> MetricsLog:
        self.handle = self.path.open("a")
        if self.bar:
            self.bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.handle.close()
        if self.bar:
            self.bar.stop()

    def record(self, metrics: dict[str, Any]) -> None:
        """Write one record; it must hold `step`, `psnr` and `rays_per_second`."""
        self.handle.write(json.dumps(metrics) + "\n")
        self.handle.flush()
        step = metrics["step"]
        text = f"PSNR {metrics['psnr']:.2f} dB, {metrics['rays_per_second']:.0f} rays/s"
        if self.bar:
            self.bar.update(self.task, completed=step, description=text)
            return
        now = time.monotonic()
        if now - self.last_line >= _SECONDS_BETWEEN_LINES or step == self.steps:
            self.last_line = now
            left = (now - self.began) / max(1, step - self.start) * (self.steps - step)
            get_logger().info("step %d of %d, %s, %.0f s left", step, self.steps, text, left)
