"""What training a scene takes: memory from the sizes of its photographs, time from rates measured before.

The rates are those of docs/performance.md (one H100, the object `drill`; CPU: one thread): a measured milliseconds-per-step for
each kind of model, scaled by samples a step. They are guides within a factor of two on other machines.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nsr.scene.scene import View

SOURCE = "docs/performance.md: one H100 80 GB, torch 2.11; CPU: preset nsr-demo, one thread"
_GPU_STEP_MS = {"nsr": 1.68, "instant-nsr-pl": 2.07, "instant-nsr": 5.85, "neuralangelo": 33.9}
_GPU_START = 20.7  # s, import to the end of the first step with an empty kernel cache
_GPU_SAMPLES = 1 << 18
_GPU_BASE_GB = 0.8  # a run of the preset nsr without its photographs
_CPU_STEP_MS, _CPU_SAMPLES = 41.0, 8192  # nsr-demo: 150 steps in 6.1 s
_PIXEL_BYTES = 4  # sRGB and mask


@dataclass(frozen=True)
class Cost:
    """Of one method. Attributes: method; steps; gpu_s, cpu_s: seconds of training; gpu_gb: memory of the GPU, photographs included."""

    method: str
    steps: int
    gpu_s: float
    cpu_s: float
    gpu_gb: float


def photographs_gb(views: Sequence[View]) -> float:
    """What the photographs and masks of the views take in memory, GB."""
    return sum(view.width * view.height for view in views) * _PIXEL_BYTES / 1e9


def costs(views: Sequence[View], methods: Mapping[str, Mapping[str, Any]]) -> list[Cost]:
    """The cost of each method.

    Args:
        methods: by name their `steps` and `samples`. A name that was not measured is taken for the preset nsr.
    """
    gigabytes = photographs_gb(views)
    found = []
    for name, settings in methods.items():
        steps, samples = int(settings["steps"]), int(settings["samples"])
        step = _GPU_STEP_MS.get(name, _GPU_STEP_MS["nsr"]) * max(0.25, samples / _GPU_SAMPLES)
        cpu = _CPU_STEP_MS * samples / _CPU_SAMPLES
        found.append(Cost(name, steps, _GPU_START + steps * step / 1e3, steps * cpu / 1e3, _GPU_BASE_GB + gigabytes))
    return found
