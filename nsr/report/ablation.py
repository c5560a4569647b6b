"""The table of an ablation: every variant on every scene, mean and spread over the seeds, and what changed against the first."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from nsr.ablation import split_name
from nsr.errors import DataError
from nsr.provenance import write_text
from nsr.report.collect import collect
from nsr.report.tables import Column, Row, summary_rows, tab_separated

METRICS = (
    Column("chamfer", "Chamfer", 3),
    Column("psnr", "PSNR", 2, "dB"),
    Column("train_seconds", "training", 0, "s"),
    Column("peak_memory_mb", "GPU memory", 2, "GB", scale=1e-3),
)
_HEAD = ("scene", "variant", "metric", "unit", "seeds", "mean", "spread", "lowest", "highest", "change")


@dataclass(frozen=True)
class Statistic:
    """A metric of a variant on a scene.

    Attributes:
        values: one per seed that has it. reference: mean of the first variant there, None if it has none.
    """

    scene: str
    variant: str
    column: Column
    unit: str
    values: tuple[float, ...]
    reference: float | None

    @property
    def mean(self) -> float:
        """Mean over the seeds."""
        return statistics.fmean(self.values)

    @property
    def spread(self) -> float:
        """Highest less lowest, over the mean; 0 for a single seed."""
        return (max(self.values) - min(self.values)) / abs(self.mean) if self.mean else 0.0

    @property
    def change(self) -> float | None:
        """Mean over that of the first variant, less 1."""
        return self.mean / self.reference - 1 if self.reference else None


def write_ablation(results: Path, runs: Path, out: Path) -> list[Statistic]:
    """Write `ablation.tsv` and `ablation.md` into a folder.

    Args:
        results: folder of all results. runs: list of `nsr.runs`, whose methods are runs of an ablation.

    Raises:
        DataError: no run has a result.
    """
    rows = [row for row in summary_rows(collect(results, runs)) if row["surface"] == "mesh"]
    found = statistics_of(rows)
    if not found:
        raise DataError(f"{runs}: no run of the ablation has a result")
    for name, text in (("ablation.tsv", to_tsv(found)), ("ablation.md", to_markdown(found))):
        write_text(out / name, text)
    return found


def statistics_of(rows: Iterable[Row], metrics: Sequence[Column] = METRICS) -> list[Statistic]:
    """Metrics of all variants, scene by scene, in the order of the rows; numbers of different units are kept apart by scene."""
    grouped: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        grouped.setdefault((f"{row['dataset']}/{row['scene']}", split_name(row["method"])[0]), []).append(row)
    first: dict[tuple[str, str], float] = {}
    found = []
    for (scene, variant), members in grouped.items():
        for column in metrics:
            values = tuple(row[column.key] * column.scale for row in members if column.key in row)
            if values:
                unit = column.unit or (members[0].get("unit", "") if column.key == "chamfer" else "")
                reference = first.setdefault((scene, column.key), statistics.fmean(values))
                found.append(Statistic(scene, variant, column, unit, values, reference))
    return found


def to_tsv(found: Sequence[Statistic]) -> str:
    """One line per scene, variant and metric, in full precision; spread and change as shares."""
    lines = []
    for one in found:
        numbers = (len(one.values), one.mean, one.spread, min(one.values), max(one.values))
        lines.append([one.scene, one.variant, one.column.key, one.unit, *numbers, "" if one.change is None else one.change])
    return tab_separated(_HEAD, lines)


def to_markdown(found: Sequence[Statistic]) -> str:
    """Variants as rows, a column for each scene and metric: mean and, with several seeds, half the range."""
    columns = list(dict.fromkeys((one.scene, one.column, one.unit) for one in found))
    cells = {(one.variant, one.scene, one.column): one for one in found}
    heads = [f"{scene.split('/')[1]} {column.title}{', ' + unit if unit else ''}" for scene, column, unit in columns]
    lines = [["variant", *heads], ["---", *["---:"] * len(heads)]]
    for variant in dict.fromkeys(one.variant for one in found):
        lines.append([variant, *(_cell(cells.get((variant, scene, column))) for scene, column, _ in columns)])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cell(one: Statistic | None) -> str:
    if one is None:
        return "–"
    digits = one.column.digits
    half = f" ± {(max(one.values) - min(one.values)) / 2:.{digits}f}" if len(one.values) > 1 else ""
    return f"{one.mean:.{digits}f}{half}"
