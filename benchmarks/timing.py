"""What all benchmarks share: options, timing with CUDA events, measured ceilings of the GPU, and the table they print.

A case is timed warm (the same inputs again and again, as far as the L2 cache holds them) and cold (the cache overwritten
before every call). Each number is the median of single calls, over several rounds. Rates and shares of the roofline are those
of the cold calls.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from nsr.config import ever_positive
from nsr.errors import BackendUnavailable, ConfigError, DeviceUnavailable

if TYPE_CHECKING:
    import torch

    from nsr.config import Config
    from nsr.scene.scene import Scene

_METHODS = Path(__file__).resolve().parents[1] / "config" / "methods"
_FLUSH_BYTES = 1 << 28  # several times the largest L2 cache
_WARM_UP_CALLS = 3
_ROUND_MS = 100.0  # slow calls are repeated less
_LEAST_CALLS = 2
_COPY_BYTES = 1 << 30
_MATRIX_SIDE = 8192


class Ceilings(NamedTuple):
    """What the GPU reaches on work of one kind, a second.

    Attributes:
        copy: bytes read and written by a device copy. gathers: random 4-byte reads, atomics: random float32 additions, both in
            a table of 28 MB. matrix: floating-point operations of a bf16 product of square matrices.
    """

    copy: float
    gathers: float
    atomics: float
    matrix: float


@dataclass(frozen=True)
class Case:
    """One row of a table.

    Attributes:
        operation, backend: what the row is called.
        amount: points, samples or rays of one call. floor: seconds below which the roofline lets no call be.
        run: the call; whatever it allocates it also drops. graph: time replays of a CUDA graph of it, which have no launch
            cost; not possible where it waits for the device.
    """

    operation: str
    backend: str
    amount: int
    floor: float
    run: Callable[[], Any]
    graph: bool = False


def benchmark_parser(doc: str | None) -> argparse.ArgumentParser:
    """A parser with the options of all benchmarks; `doc` is the program's module docstring."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--log", type=Path, help="also write messages to this file")
    return parser


def preset(name: str) -> Path:
    """The file of a preset.

    Raises:
        ConfigError: there is none of that name.
    """
    path = _METHODS / f"{name}.yaml"
    if not path.is_file():
        raise ConfigError(f"no preset '{name}'; there are {', '.join(sorted(path.stem for path in _METHODS.glob('*.yaml')))}")
    return path


def triangulated_points(scene: Path) -> Path | None:
    """The sparse points that the workflow left beside a prepared scene's folder."""
    from nsr.scene.scene import POINTS_FILE

    path = scene.parent / "points" / POINTS_FILE
    return path if path.is_file() else None


def training_scene(folder: Path, config: Config) -> Scene:
    """A prepared scene as the workflow gives it to training: with the triangulated points where the settings want some."""
    from nsr.scene.scene import load_scene, with_points

    scene, points = load_scene(folder), triangulated_points(folder)
    return with_points(scene, points) if points is not None and ever_positive(config.train.loss.points) else scene


def timing_options(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add the options of the programs that time single operations."""
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="rounds of calls, default 5")
    parser.add_argument("--calls", type=int, default=20, metavar="N", help="most calls of a round, default 20")
    return parser


def require_gpu() -> torch.device:
    """The GPU to measure.

    Raises:
        DeviceUnavailable: there is none.
    """
    import torch

    if not torch.cuda.is_available():
        raise DeviceUnavailable(f"benchmarks need a CUDA GPU and torch {torch.__version__} sees none; run them on a GPU machine")
    return torch.device("cuda")


def milliseconds(run: Callable[[], Any], *, cold: bool, graph: bool, rounds: int = 5, calls: int = 20) -> float:
    """Median time of a call on the GPU; `cold`: with the L2 cache overwritten before each. Slow calls are repeated less."""
    import torch

    for _ in range(_WARM_UP_CALLS):
        run()
    torch.cuda.synchronize()
    call = _captured(run) if graph else run
    flush = torch.empty(_FLUSH_BYTES if cold else 0, dtype=torch.int8, device="cuda")
    once = _timed(call, flush, 1)[0]
    number = max(_LEAST_CALLS, min(calls, int(_ROUND_MS / max(once, 1e-3))))
    return statistics.median([time for _ in range(rounds) for time in _timed(call, flush, number)])


def _timed(call: Callable[[], Any], flush: torch.Tensor, calls: int) -> list[float]:
    """Milliseconds of each of some calls, `flush` overwritten before each."""
    import torch

    marks = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(calls)]
    for start, end in marks:
        flush.zero_()
        start.record()
        call()
        end.record()
    torch.cuda.synchronize()
    return [start.elapsed_time(end) for start, end in marks]


def _captured(run: Callable[[], Any]) -> Callable[[], None]:
    """A CUDA graph of a call."""
    import torch

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(_WARM_UP_CALLS):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    replay: Callable[[], None] = graph.replay
    return replay


def calibrate() -> Ceilings:
    """Measure the GPU's ceilings, and print them with its name."""
    import torch

    from benchmarks.triton_calibration import random_atomics, random_gathers

    ceilings = Ceilings(_copy_rate(), random_gathers(_call_time), random_atomics(_call_time), _matrix_rate())
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, CUDA {torch.version.cuda}")
    print(
        f"measured ceilings: copy {ceilings.copy / 1e12:.2f} TB/s, random gathers {ceilings.gathers / 1e9:.1f} G/s, "
        f"random atomics {ceilings.atomics / 1e9:.1f} G/s, bf16 products {ceilings.matrix / 1e12:.0f} TFLOP/s"
    )
    return ceilings


def _call_time(run: Callable[[], Any]) -> float:
    """Seconds of a call that works on more than the cache holds, or is meant to find its data there."""
    return milliseconds(run, cold=False, graph=False) / 1e3


def _copy_rate() -> float:
    import torch

    source = torch.zeros(_COPY_BYTES, dtype=torch.int8, device="cuda")
    target = torch.empty_like(source)
    return 2 * _COPY_BYTES / _call_time(lambda: target.copy_(source))


def _matrix_rate() -> float:
    import torch

    side = torch.randn(_MATRIX_SIDE, _MATRIX_SIDE, device="cuda", dtype=torch.bfloat16)
    product = torch.empty_like(side)
    return 2 * _MATRIX_SIDE**3 / _call_time(lambda: torch.matmul(side, side, out=product))


def compare(cases: Iterable[Case], unit: str, *, rounds: int, calls: int) -> None:
    """Time the cases and print a row for each; a back end that is not usable here is skipped with the reason."""
    import torch

    heads = ("operation", "back end", "warm ms", "cold ms", f"M {unit}/s", "floor ms", "of roofline")
    print(f"\n{heads[0]:<34}{heads[1]:<22}" + "".join(f"{head:>16}" for head in heads[2:]))
    for case in cases:
        name = f"{case.operation:<34}{case.backend:<22}"
        try:
            warm, cold = (
                milliseconds(case.run, cold=cold, graph=case.graph, rounds=rounds, calls=calls) for cold in (False, True)
            )
        except BackendUnavailable as error:
            print(f"{name}skipped: {error}")
            continue
        except torch.cuda.OutOfMemoryError:
            print(f"{name}skipped: not enough GPU memory")
            continue
        finally:
            torch.cuda.empty_cache()
        rate, floor = case.amount / cold / 1e3, case.floor * 1e3
        print(f"{name}{warm:>16.3f}{cold:>16.3f}{rate:>16.1f}{floor:>16.3f}{floor / cold:>16.0%}", flush=True)
