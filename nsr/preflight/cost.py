"""What training a scene takes: memory from the sizes of its photographs, time from rates measured before.

The rates are those of docs/performance.md (one H100, the object `drill`; one thread of a CPU): a measured milliseconds-per-step for
each kind of model, scaled by samples a step. They are guides within a factor of two on other machines.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nsr.scene.scene import View

SOURCE = "docs/performance.md: one H100 80 GB, torch 2.11; one thread of a CPU"
GPU_START = 16.6  # s, import to the end of the first step with an empty kernel cache
_GPU_STEP = {  # ms a step, samples a step
    "nsr": (1.81, 1 << 18),
    "instant-nsr-pl": (2.07, 1 << 18),
    "instant-nsr": (5.85, 1 << 18),
    "neuralangelo": (33.9, 1 << 17),
}
_LEAST = 0.25  # of a step's time is left, however few its samples are
_GPU_GB = {"nsr": 0.8, "instant-nsr": 1.4, "instant-nsr-pl": 1.5}  # of a run without its photographs, at most
_CPU_STEP = {"nsr": (1250.0, 1 << 16), "nsr-demo": (41.0, 1 << 13)}  # ms a step, samples a step
_PIXEL_BYTES = 4  # sRGB and mask
_GREY_BYTES = 2  # for methods that compare patches


@dataclass(frozen=True)
class Cost:
    """Of one method. Attributes: method; steps; gpu_s, cpu_s: seconds of training; gpu_gb: memory of the GPU, photographs included.
    None: this kind of model was not measured there."""

    method: str
    steps: int
    gpu_s: float
    cpu_s: float | None
    gpu_gb: float | None


def photographs_gb(views: Sequence[View]) -> float:
    """What the photographs and masks of the views take in memory, GB."""
    return sum(view.width * view.height for view in views) * _PIXEL_BYTES / 1e9


def costs(views: Sequence[View], methods: Mapping[str, Mapping[str, Any]]) -> list[Cost]:
    """The cost of each method.

    Args:
        methods: by name their `steps` and `samples`, and whether they have `patches`. A name that is none of the presets is taken for the preset nsr.
    """
    gigabytes = photographs_gb(views)
    found = []
    for name, settings in methods.items():
        steps, samples = int(settings["steps"]), int(settings["samples"])
        kind = name if name in _GPU_STEP or name in _CPU_STEP else "nsr"
        step, measured = _GPU_STEP.get(kind, _GPU_STEP["nsr"])
        gpu = GPU_START + steps * step / 1e3 * max(_LEAST, samples / measured)
        cpu = None
        if kind in _CPU_STEP:
            step, measured = _CPU_STEP[kind]
            cpu = steps * step / 1e3 * samples / measured
        # The demo's model is a small one of the same kind.
        base = _GPU_GB.get(kind if kind in _GPU_STEP else "nsr")
        held = gigabytes * (1 + _GREY_BYTES / _PIXEL_BYTES * bool(settings.get("patches")))
        found.append(Cost(name, steps, gpu, cpu, None if base is None else base + held))
    return found
