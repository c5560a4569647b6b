"""What changed between two runs: the summary of one against the `summary.tsv` of another."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nsr.errors import DataError
from nsr.report.tables import VIEW_METRICS, WITHIN, Row, better, number, short_columns, tab_separated

PLACE = ("dataset", "scene", "method", "surface")
SAME = 1e-9  # relative difference up to which two numbers are the same
COSTS = ("train_seconds", "total_seconds", "peak_memory_mb", "cost")
_WORDS = {1: "better", -1: "worse", 0: "changed"}


@dataclass(frozen=True)
class Change:
    """One number, or one row, that is not what it was.

    Attributes:
        place: dataset, scene, method, surface. metric: key of the row, or "row". before, after: as shown.
        relative: share of the number before, None if it has none. verdict: "better", "worse", "changed", "new", "gone".
    """

    place: tuple[str, ...]
    metric: str
    before: str
    after: str
    relative: float | None
    verdict: str


def read_summary(path: Path) -> list[Row]:
    """The rows of a `summary.tsv`; numbers as numbers, names as text, cells that are empty have no key.

    Raises:
        DataError: not readable, or no summary.
    """
    try:
        with path.open(encoding="utf-8", newline="") as handle:
            rows = [_summary_row(row) for row in csv.DictReader(handle, delimiter="\t")]
    except (OSError, ValueError, AttributeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as a summary ({error}); name the summary.tsv of another report") from error
    if not rows or any(key not in row for row in rows for key in PLACE):
        raise DataError(f"{path}: no summary; it needs the columns {', '.join(PLACE)} and at least one row")
    return rows


def _summary_row(row: dict[str, str]) -> Row:
    if None in row:  # where the reader puts cells without a column
        raise ValueError("a row has more cells than there are columns")
    return {key: _value(key, text) for key, text in row.items() if text}


def _value(key: str, text: str) -> float | str:
    if key in PLACE:
        return text
    try:
        return float(text)
    except ValueError:
        return text


def changes(rows: Sequence[Row], before: Sequence[Row]) -> list[Change]:
    """Differences of the numbers that people compare, in the order of `rows`, then rows that are gone.

    Args:
        rows: now. before: of `read_summary`. Rows belong together by dataset, scene, method and surface.
    """
    old = {_place(row): row for row in before}
    keys = [column.key for column in short_columns([*rows, *before])]
    found: list[Change] = []
    for row in rows:
        place = _place(row)
        earlier = old.pop(place, None)
        if earlier is None:
            found.append(Change(place, "row", "", str(row.get("status", "")), None, "new"))
        else:
            found += _row_changes(place, row, earlier, keys)
    return found + [Change(place, "row", str(row.get("status", "")), "", None, "gone") for place, row in old.items()]


def _place(row: Row) -> tuple[str, ...]:
    """As it stands in a summary: one line each, whatever the name holds."""
    return tuple(" ".join(str(row[key]).split()) for key in PLACE)


def _row_changes(place: tuple[str, ...], row: Row, earlier: Row, keys: Sequence[str]) -> list[Change]:
    found = []
    for key in ("status", *WITHIN):
        if row.get(key) != earlier.get(key):
            found.append(Change(place, key, str(earlier.get(key, "")), str(row.get(key, "")), None, "changed"))
    lengths_differ = any(row.get(key) != earlier.get(key) for key in WITHIN)
    of_surface = {key for key in keys if key not in (*VIEW_METRICS, *COSTS)}
    for key in keys:
        if not (lengths_differ and key in of_surface):
            change = _change(place, key, row.get(key), earlier.get(key))
            found += [change] if change else []
    return found


def _change(place: tuple[str, ...], key: str, now: object, then: object) -> Change | None:
    if not isinstance(now, (int, float)) or not isinstance(then, (int, float)):
        if now is None and then is None:
            return None
        verdict = "gone" if now is None else "new" if then is None else "changed"
        return None if now == then else Change(place, key, _shown(then), _shown(now), None, verdict)
    if now == then or (math.isnan(now) and math.isnan(then)):
        return None
    relative = (now - then) / abs(then) if then and math.isfinite(then) and math.isfinite(now) else None
    if relative is not None and abs(relative) <= SAME:
        return None
    rises = 1 if now > then else -1 if now < then else 0
    return Change(place, key, _shown(then), _shown(now), relative, _WORDS[better(key) * rises])


def _shown(value: object) -> str:
    return "" if value is None else number(value, 4) if isinstance(value, float) else str(value)


def changes_tsv(found: Sequence[Change]) -> str:
    """Tab-separated table of changes; `relative` in full precision, empty where there is none."""
    lines = []
    for change in found:
        relative = "" if change.relative is None else repr(change.relative)
        lines.append([*change.place, change.metric, change.before, change.after, relative, change.verdict])
    return tab_separated([*PLACE, "metric", "before", "after", "relative", "verdict"], lines)
