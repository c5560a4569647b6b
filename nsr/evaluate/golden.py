"""Ranges that results must keep: a regression stops the workflow and names both numbers."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nsr.errors import ConfigError, ResultOutOfRange
from nsr.log import get_logger
from nsr.provenance import parse_json, whole_file
from nsr.runs import list_runs

COLUMNS = ("dataset", "scene", "method", "result", "metric", "low", "high")
RESULTS = ("mesh", "tsdf", "views", "train")


@dataclass(frozen=True)
class Range:
    """What one number of a run must lie in.

    Attributes:
        dataset, scene, method: the run. result: "mesh", "tsdf" or "views" for the metrics of `evaluate/<result>.json`,
            "train" for a number of `train.json`. metric: its key. low, high: bounds, both included; infinite if open.
    """

    dataset: str
    scene: str
    method: str
    result: str
    metric: str
    low: float
    high: float

    def describe(self, value: float | None) -> str:
        """The measured number and the range in words."""
        bounds = " to ".join(f"{bound:g}" if math.isfinite(bound) else "any" for bound in (self.low, self.high))
        measured = "not measured" if value is None else f"{value:.6g}"
        return f"{self.dataset}/{self.scene} {self.method} {self.result} {self.metric}: {measured}, golden {bounds}"

    def holds(self, value: float | None) -> bool:
        """Whether a number was measured and lies in the range."""
        return value is not None and self.low <= value <= self.high


def read_ranges(path: Path) -> list[Range]:
    """The ranges of a tab-separated table (columns `COLUMNS`; `#` starts a comment line; an empty bound is open).

    Raises:
        ConfigError: unreadable, wrong columns, unknown result, or bounds that are no numbers or the wrong way round.
    """
    try:
        lines = [line for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip() and not line.startswith("#")]
        rows = csv.DictReader(lines, delimiter="\t")
        if tuple(rows.fieldnames or ()) != COLUMNS:
            raise ConfigError(f"{path}: the columns must be {', '.join(COLUMNS)}, separated by tabs")
        return [_range(row, path) for row in rows]
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); name the table with the config key 'golden'") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: no text ({error}); save it as a table in UTF-8") from error
    except csv.Error as error:
        raise ConfigError(f"{path}: no table ({error}); separate the columns by tabs") from error


def check_results(golden: Path, runs: Sequence[dict[str, str]], out: Path) -> None:
    """Compare the results of runs with their ranges; writes the table `out` of all that were checked.

    Args:
        golden: `read_ranges`' table; rows of other runs do not count. runs: dataset, scene, method, folder of each.

    Raises:
        ResultOutOfRange: names every number that is missing or outside, and its range.
    """
    folders = {(run["dataset"], run["scene"], run["method"]): Path(run["folder"]) for run in runs}
    checked: list[tuple[Range, float | None]] = []
    for item in read_ranges(golden):
        folder = folders.get((item.dataset, item.scene, item.method))
        if folder is not None:
            checked.append((item, measured(folder, item.result, item.metric)))
    if not checked:
        get_logger().warning("%s: has no row for any of the runs, so nothing was checked", golden)
    wrong = [item.describe(value) for item, value in checked if not item.holds(value)]
    if wrong:
        raise ResultOutOfRange(
            f"{len(wrong)} of {len(checked)} results are out of their range: {'; '.join(wrong)}; "
            f"find the cause, or change {golden} if the new numbers are right"
        )
    with whole_file(out) as partial, partial.open("w", newline="") as handle:
        table = csv.writer(handle, delimiter="\t", lineterminator="\n")
        table.writerow([*COLUMNS, "measured"])
        table.writerows([[*vars(item).values(), value] for item, value in checked])
    get_logger().info("%d results lie in their ranges", len(checked))


def read_runs(path: Path) -> list[dict[str, str]]:
    """The runs of a JSON file.

    Raises:
        ConfigError: unreadable, or not a list of objects with dataset, scene, method and folder.
    """
    try:
        runs = list_runs(parse_json(path.read_text(encoding="utf-8")))
        return [{key: str(run[key]) for key in ("dataset", "scene", "method", "folder")} for run in runs]
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); the workflow writes it") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}: not a JSON list of runs with dataset, scene, method and folder ({error!r})") from error


def measured(folder: Path, result: str, metric: str) -> float | None:
    """A number of a run's result, None where there is none."""
    path = folder / ("train.json" if result == "train" else f"evaluate/{result}.json")
    try:
        found: Any = parse_json(path.read_text())
        value = found[metric] if result == "train" else found["metrics"][metric]
        return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return None


def _range(row: dict[str, str], path: Path) -> Range:
    where = f"{path}, row {row['dataset']}/{row['scene']} {row['metric']}"
    if row["result"] not in RESULTS:
        raise ConfigError(f"{where}: result '{row['result']}' is none of {', '.join(RESULTS)}")
    try:
        low = float(row["low"] or -math.inf)
        high = float(row["high"] or math.inf)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{where}: low '{row['low']}' and high '{row['high']}' must be numbers or empty") from error
    if not low <= high:
        raise ConfigError(f"{where}: low {low:g} is over high {high:g}")
    return Range(row["dataset"], row["scene"], row["method"], row["result"], row["metric"], low, high)
