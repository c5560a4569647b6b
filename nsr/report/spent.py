"""What the results of each data set cost: time of GPUs and processors, and energy, summed over the stages' own records."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nsr.provenance import parse_json
from nsr.report.collect import Run
from nsr.report.tables import NOT_MEASURED, number, tab_separated

_OF_SCENE = ("sfm/sfm.json", "scene/prepare.json", "points/points.json")
_OF_RUN = ("train.json", "mesh.json", "tsdf.json", "texture/texture.json", "render/render.json")
_EVALUATIONS = ("evaluate/mesh.json", "evaluate/tsdf.json", "evaluate/views.json")
HEAD = ("data set", "jobs", "GPU h", "processor h", "wall-clock h", "energy of GPUs, kWh")
KEYS = ("dataset", "jobs", "gpu_hours", "cpu_hours", "wall_hours", "energy_kwh", "without_record", "without_energy")


@dataclass(frozen=True)
class Spent:
    """Sums over the jobs of one data set whose results are there.

    Attributes:
        dataset: its name. jobs: that say what they cost. gpu_hours, cpu_hours, wall_hours: a shared GPU counts by its share.
        energy_kwh: of the GPUs, None if no job knows it. without_record: results without a record of their cost.
        without_energy: jobs that held a GPU whose energy is not known; the sum lacks them.
    """

    dataset: str
    jobs: int
    gpu_hours: float
    cpu_hours: float
    wall_hours: float
    energy_kwh: float | None
    without_record: int
    without_energy: int

    @property
    def cells(self) -> tuple[str, ...]:
        """Texts under `HEAD`."""
        hours = (number(value, 3) for value in (self.gpu_hours, self.cpu_hours, self.wall_hours))
        energy = number(self.energy_kwh, 4) if self.gpu_hours else "0"
        return (self.dataset, str(self.jobs), *hours, f"{energy}{'*' if self.without_energy and energy != NOT_MEASURED else ''}")


def spent(runs: Iterable[Run]) -> list[Spent]:
    """What each data set cost, in the order of the runs; what scenes share counts once."""
    files: dict[str, dict[Path, None]] = {}
    for run in runs:
        scene = [run.folder.parent / name for name in _OF_SCENE]
        mine = [run.folder / name for name in (*_OF_RUN, *_EVALUATIONS)]
        files.setdefault(run.dataset, {}).update(dict.fromkeys([*scene, *mine]))
    return [_sum(dataset, [_cost(path) for path in paths if path.is_file()]) for dataset, paths in files.items()]


def to_tsv(sums: Sequence[Spent]) -> str:
    """Tab-separated table with a header; empty where not measured."""
    return tab_separated(KEYS, (["" if (value := getattr(row, key)) is None else value for key in KEYS] for row in sums))


def _cost(path: Path) -> Mapping[str, Any] | None:
    """The record of cost in a stage's result; None where it has none or cannot be read."""
    try:
        cost = parse_json(path.read_text(encoding="utf-8"))["manifest"]["cost"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return cost if isinstance(cost, Mapping) else None


def _sum(dataset: str, costs: list[Mapping[str, Any] | None]) -> Spent:
    known = [cost for cost in costs if cost is not None]
    hours = [sum(float(cost.get(key) or 0.0) for cost in known) / 3600 for key in ("gpu_seconds", "cpu_seconds", "wall_seconds")]
    energies = [float(cost["energy_j"]) for cost in known if cost.get("energy_j") is not None]
    silent = sum(bool(cost.get("gpu_seconds")) and cost.get("energy_j") is None for cost in known)
    energy = sum(energies) / 3.6e6 if energies else None
    return Spent(dataset, len(known), hours[0], hours[1], hours[2], energy, len(costs) - len(known), silent)
