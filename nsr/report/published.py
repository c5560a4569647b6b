"""Scenes against methods in one table, with numbers that others published beside ours."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nsr.errors import DataError
from nsr.report.tables import Row

COLUMNS = ("method", "scan", "chamfer", "source")


@dataclass(frozen=True)
class Entry:
    """One published number. Attributes: method; scan; chamfer, in the unit of the data set's protocol (mm for DTU); source."""

    method: str
    scan: str
    chamfer: float
    source: str


@dataclass(frozen=True)
class Matrix:
    """Chamfer distances of one data set, a row per scene.

    Attributes:
        dataset, unit: of the numbers. scenes: names of the rows. columns: one per method.
        note: what is left out and why, "" if nothing.
    """

    dataset: str
    unit: str
    scenes: tuple[str, ...]
    columns: tuple[MatrixColumn, ...]
    note: str = ""

    def best(self, index: int) -> float | None:
        """The smallest number of a row, ours and published ones; None if there is none."""
        return min((c.values[index] for c in self.columns if math.isfinite(c.values[index])), default=None)


@dataclass(frozen=True)
class MatrixColumn:
    """Attributes: title; source, "" for our own; values, one per scene, NaN where there is none."""

    title: str
    source: str
    values: tuple[float, ...]

    @property
    def ours(self) -> bool:
        """Whether it was measured in this run."""
        return not self.source

    @property
    def mean(self) -> float | None:
        """Mean over the rows, None if one is missing: means over different scenes do not compare."""
        return sum(self.values) / len(self.values) if all(map(math.isfinite, self.values)) else None


def read_published(path: Path) -> list[Entry]:
    """Published numbers: tab-separated, columns `COLUMNS`, lines that start with `#` do not count.

    Raises:
        DataError: not readable, a column is missing, or a number is none.
    """
    try:
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip() and not line.startswith("#")]
        rows = list(csv.DictReader(lines, delimiter="\t"))
        return [Entry(row["method"], _scan(row["scan"]), float(row["chamfer"]), row["source"]) for row in rows]
    except (OSError, KeyError, ValueError, TypeError, AttributeError, csv.Error) as error:
        raise DataError(f"{path}: no table of published numbers ({error}); it needs the columns {', '.join(COLUMNS)}") from error


def _scan(name: str) -> str:
    """ "24" of "scan24", "Scan024" and "24"; other names in lower case."""
    bare = name.strip().lower().removeprefix("scan")
    return str(int(bare)) if bare.isdecimal() else bare


def matrices(rows: Sequence[Row], folder: Path | None = None) -> list[Matrix]:
    """One table per data set that has published numbers or several methods and scenes, in the order of the rows.

    Args:
        rows: of `summary_rows`. folder: of published numbers, `<dataset>.tsv`, None if there is none.

    Raises:
        DataError: a file of published numbers cannot be read.
    """
    found = []
    for dataset in dict.fromkeys(str(row["dataset"]) for row in rows):
        path = folder / f"{dataset}.tsv" if folder else None
        published = read_published(path) if path and path.is_file() else []
        matrix = _matrix(dataset, [row for row in rows if row["dataset"] == dataset], published)
        methods = {row["method"] for row in rows if row["dataset"] == dataset}
        if matrix.columns and (published or (len(methods) > 1 and len(matrix.scenes) > 1)):
            found.append(matrix)
    return found


def _matrix(dataset: str, rows: Sequence[Row], published: Sequence[Entry]) -> Matrix:
    """Ours first. Beside published numbers stands only what was measured by the data set's own protocol. Failed runs are out."""
    official = [row for row in rows if str(row.get("protocol", "")).lower().startswith(dataset.lower())]
    ours = [row for row in (official if published else rows) if "chamfer" in row and row["status"] != "failed"]
    left_out = sorted({str(row["protocol"]) for row in rows if "chamfer" in row and row not in official and "protocol" in row})
    scenes = tuple(dict.fromkeys(str(row["scene"]) for row in rows))
    columns = []
    for title in dict.fromkeys(_title(row) for row in ours):
        mine = {row["scene"]: row.get("chamfer") for row in ours if _title(row) == title}
        values = tuple(_finite(mine.get(scene)) for scene in scenes)
        columns.append(MatrixColumn(title, "", values))
    for method, source in dict.fromkeys((entry.method, entry.source) for entry in published):
        theirs = {entry.scan: entry.chamfer for entry in published if (entry.method, entry.source) == (method, source)}
        columns.append(MatrixColumn(method, source, tuple(_finite(theirs.get(_scan(scene))) for scene in scenes)))
    units = {str(row["unit"]) for row in ours if "unit" in row}
    note = f"Measured by {', '.join(left_out)} and therefore not beside published numbers." if left_out and published else ""
    return Matrix(dataset, units.pop() if len(units) == 1 else "", scenes, tuple(columns), note)


def _title(row: Row) -> str:
    """Method and surface of a row of ours, and the mask cull where its protocol has several."""
    return ", ".join(str(row[key]) for key in ("method", "surface", "cull") if key in row)


def _finite(value: object) -> float:
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else math.nan
