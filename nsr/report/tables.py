"""The summary: one row per scene, method and surface, as TSV for machines and as aligned text for a terminal."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from nsr.report.collect import Failure, Run, Surface

NOT_MEASURED = "not measured"
Row = dict[str, Any]


@dataclass(frozen=True)
class Column:
    """How a column is shown. Attributes: key of the row; title; digits after the point; unit, "" if none; better, -1 where less
    is better, 1 where more is, 0 where neither; scale, factor from the row's number to the shown one."""

    key: str
    title: str
    digits: int = 0
    unit: str = ""
    better: int = 0
    scale: float = 1.0


_FIRST = ("dataset", "scene", "method", "surface", "status")
_SURFACE_METRICS = ("chamfer", "accuracy", "completeness")
WITHIN = ("protocol", "unit", "alignment", "cull")  # numbers of surfaces compare only where all of these agree
_SHORT = (
    Column("chamfer", "Chamfer", 3, better=-1),
    Column("accuracy", "accuracy", 3, better=-1),
    Column("completeness", "completeness", 3, better=-1),
)
_SHARES = (Column("precision", "precision", 3, better=1), Column("recall", "recall", 3, better=1))
_NORMALS = Column("normal_error", "normal error", 1, "°", -1)
_SHORT_VIEWS = (
    Column("psnr", "PSNR", 2, "dB", 1),
    Column("psnr_corrected", "PSNR corrected", 2, "dB", 1),
    Column("ssim", "SSIM", 4, better=1),
    Column("lpips", "LPIPS", 4, better=-1),
    Column("depth_error", "depth error", 3, "%", -1),
    Column("train_seconds", "training", 0, "s", -1),
    Column("total_seconds", "all stages", 0, "s", -1),
    Column("peak_memory_mb", "GPU memory", 2, "GB", -1, 1e-3),
    Column("cost", "cost", 3, better=-1),
)
VIEW_METRICS = ("psnr", "psnr_corrected", "ssim", "lpips", "depth_error")
_OPTIONAL = ("lpips", "depth_error", "total_seconds", "peak_memory_mb", "cost")  # shown where at least one row has them
_OF_DEVICE = ("train_seconds", "total_seconds", "peak_memory_mb")
GPU_STAGES = ("train", "mesh", "tsdf", "render")
MORE_IS_BETTER = ("psnr", "ssim", "precision", "recall", "f_", "fscore", "f_score", "samples_per_second")
LESS_IS_BETTER = ("chamfer", "accuracy", "completeness", "missed", "surplus", "lpips", "seconds", "peak_memory", "cost", "error")


def summary_rows(runs: Iterable[Run], gpu_price: float = 0.0) -> list[Row]:
    """One flat row per run and surface; what was not measured has no key.

    Args:
        runs: of `collect`. gpu_price: of one GPU for an hour, any currency; 0: no `cost`.

    Keys of the evaluations' `metrics` are kept as they are: lengths in the row's `unit` (percent of the object radius, mm, m),
    `*_world` in world units, F-scores in the evaluation's own range, PSNR in dB, depth errors in percent of the radius.
    """
    return [_row(run, surface, gpu_price) for run in runs for surface in run.surfaces]


def _row(run: Run, surface: Surface, gpu_price: float) -> Row:
    status, reason = _status(run, surface)
    row: Row = {"dataset": run.dataset, "scene": run.scene, "method": run.method, "surface": surface.kind, "status": status}
    evaluation, views, train = surface.evaluation, run.views, run.train
    row |= {key: value for key, value in evaluation.get("metrics", {}).items() if _is_number(value)}
    row |= {key: value for key, value in views.get("metrics", {}).items() if _is_number(value)}
    manifest = train.get("manifest", {})
    row |= _present(
        {
            "protocol": protocol(evaluation),
            "alignment": evaluation.get("alignment", {}).get("kind"),
            "unit": length_unit(evaluation),
            "cull": unit_fact(evaluation, "cull"),
            "tau": unit_fact(evaluation, "tau"),
            "world_unit": run.prepared.unit if run.prepared else None,
            "views_protocol": protocol(views),
            "views": trained_on(run)[0] if views else None,
            "views_count": len(views["per_view"]) if views.get("per_view") else None,
            "psnr_train": train.get("psnr_train"),
            "train_views": len(train["train_views"]) if "train_views" in train else None,
            "steps": train.get("steps"),
            "exposure": exposure(run),
            "train_seconds": train.get("seconds"),
            "samples_per_second": train.get("samples_per_second"),
            "peak_memory_mb": train.get("peak_memory_mb") or None,  # 0 on a CPU
            "device": train.get("device"),
            "total_seconds": sum(run.seconds.values()) or None,
            "cost": cost(run, gpu_price),
            "seed": seed(run),
            "triangles": surface.info.get("triangles"),
            "nsr": manifest.get("versions", {}).get("nsr"),
            "date": manifest.get("date"),
            "reason": reason,
        }
    )
    return row


def cost(run: Run, gpu_price: float) -> float | None:
    """Price of the GPU time of a run: wall-clock time of `GPU_STAGES` times price per hour; None without GPU, price or times."""
    seconds = sum(time for stage, time in run.seconds.items() if stage in GPU_STAGES)
    if not gpu_price or not seconds or run.train.get("device", "cpu") == "cpu":
        return None
    return seconds / 3600.0 * gpu_price


def length_unit(evaluation: Row) -> str | None:
    """Unit of an evaluation's lengths: "%" for percent of the object radius, else as it names it; None if it names none."""
    unit = evaluation.get("unit")
    name = unit.get("name") if isinstance(unit, dict) else unit
    return "%" if str(name).startswith("percent") else str(name) if name else None


def unit_fact(evaluation: Row, name: str) -> Any:
    """What a protocol says beside the name of its unit: `cull` (DTU), `tau` (Tanks and Temples); None if it says nothing."""
    unit = evaluation.get("unit")
    return unit.get(name) if isinstance(unit, dict) else None


def better(key: str) -> int:
    """Whether more (1) or less (-1) of a metric is better, 0 if that is not known."""
    if key.startswith(MORE_IS_BETTER):
        return 1
    return -1 if any(word in key for word in LESS_IS_BETTER) else 0


def trained_on(run: Run) -> tuple[str, int]:
    """What the view metrics were measured on, in words, and how many of those views were trained on.

    The evaluation's own statement is not taken on trust: its views are compared with what training and rendering wrote.
    """
    views = set(run.views.get("per_view", {}))
    rendered = run.render.get("views")
    marked = rendered.items() if isinstance(rendered, dict) else ()
    seen = {name for name, view in marked if isinstance(view, dict) and view.get("seen_in_training")}
    shared = len(views & seen.union(run.train.get("train_views", [])))
    if run.views.get("views") == "training" or (views and shared == len(views)):
        return "training", shared or len(views)
    return ("partly training" if shared else "held_out"), shared


def seed(run: Run) -> Any:
    """Seed of the training, None if unknown."""
    settings = run.train.get("settings", {})
    return settings.get("train", settings).get("seed")


def exposure(run: Run) -> str | None:
    """What a method learns of each photograph's colours: `model.exposure`, else "codes" for `model.appearance`; None: nothing."""
    model = run.train.get("settings", {}).get("model", {})
    kind = model.get("exposure", "none")
    return kind if kind != "none" else "codes" if model.get("appearance", 0) else None


def protocol(evaluation: Row) -> str | None:
    """ "name version" of an evaluation, None if it names none."""
    return f"{evaluation['protocol']} {evaluation.get('version', '?')}" if "protocol" in evaluation else None


def failures_of(run: Run, surface: Surface) -> list[Failure]:
    """The run's failures that concern a surface: those of its own stages and of the stages both surfaces need."""
    others = {"mesh": ("tsdf",), "tsdf": ("mesh",)}[surface.kind]
    own = [failure for failure in run.failures if surface.kind in failure.stage.split("_")]
    return own or [failure for failure in run.failures if not any(other in failure.stage.split("_") for other in others)]


def _status(run: Run, surface: Surface) -> tuple[str, str | None]:
    failures = failures_of(run, surface)
    if failures:
        return "failed", "; ".join(f"{failure.stage}: {failure.reason}" for failure in failures)
    if surface.file is None:
        return "missing", f"no {surface.kind}.ply"
    return "ok", None


def _present(values: Row) -> Row:
    return {key: value for key, value in values.items() if value is not None}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def column_keys(rows: Sequence[Row]) -> list[str]:
    """Keys of all rows in one order: place, surface metrics, everything else as met."""
    keys = dict.fromkeys((*_FIRST, *_SURFACE_METRICS))
    for row in rows:
        keys |= dict.fromkeys(row)
    return [key for key in keys if any(key in row for row in rows)]


def to_tsv(rows: Sequence[Row]) -> str:
    """Tab-separated table with a header; numbers in full precision, empty where not measured."""
    keys = column_keys(rows)
    return tab_separated(
        keys, ([" ".join(v.split()) if isinstance(v := row.get(key, ""), str) else repr(v) for key in keys] for row in rows)
    )


def tab_separated(head: Sequence[str], lines: Iterable[Sequence[Any]]) -> str:
    """A header and lines of cells as tab-separated text."""
    out = io.StringIO()
    writer = csv.writer(out, delimiter="\t", lineterminator="\n")
    writer.writerow(head)
    writer.writerows(lines)
    return out.getvalue()


def short_columns(rows: Sequence[Row]) -> list[Column]:
    """The columns a person compares, in the one unit of the rows that have lengths; what no row has is left out, unless it
    belongs to every report."""

    def some(key: str) -> bool:
        return any(row.get(key) is not None for row in rows)

    units = {row["unit"] for row in rows if "unit" in row and "chamfer" in row}
    unit = units.pop() if len(units) == 1 else "" if units else "%"
    scores = [Column(key, score_title(key), 3, better=1) for key in column_keys(rows) if is_score(key)]
    lengths = [replace(c, unit=unit) for c in _SHORT] if any(some(c.key) for c in _SHORT) or not scores else []
    # What a view's exposure hides matters only where a method knows of exposure.
    needed = {key: some(key) for key in _OPTIONAL} | {"psnr_corrected": some("psnr_corrected") and some("exposure")}
    rest = [c for c in _SHORT_VIEWS if needed.get(c.key, True)]
    return [*lengths, *scores, *(c for c in (*_SHARES, _NORMALS) if some(c.key)), *rest]


def score_title(key: str) -> str:
    """Title of an F-score's column."""
    return "F-score" if key == "f_score" else f"F@{key.removeprefix('f_')}%"


def best_cells(rows: Sequence[Row], columns: Sequence[Column]) -> set[tuple[int, str]]:
    """Row indices and keys of the best numbers among rows that may be compared.

    Rows compare within a scene and under the same protocol, unit, alignment and cull; times and memory on the same device, views only
    where held out, failed rows not at all. A column in which all rows agree has no best one.
    """
    found: set[tuple[int, str]] = set()
    for column in (c for c in columns if c.better):
        groups: dict[tuple[Any, ...], list[tuple[float, int]]] = {}
        for index, row in enumerate(rows):
            value = row.get(column.key, math.nan)
            if not _is_number(value) or not math.isfinite(value) or mark(row, column) or row["status"] == "failed":
                continue
            place = (row["dataset"], row["scene"], *(row.get(key) for key in _within(column)))
            groups.setdefault(place, []).append((column.better * value, index))
        for pairs in groups.values():
            top = max(pairs)[0]
            if min(pairs)[0] < top:
                found |= {(index, column.key) for value, index in pairs if value == top}
    return found


def _within(column: Column) -> tuple[str, ...]:
    """Keys in which rows must agree for a column's numbers to compare."""
    return ("device",) if column.key in _OF_DEVICE else WITHIN


def mean_rows(rows: Sequence[Row], columns: Sequence[Column]) -> list[Row]:
    """One row per method and surface with the means over the scenes, where there are several.

    A mean is given only if every scene has the number, in one unit or on one device, no stage failed and no view was trained on.
    """
    found = []
    for method, surface in dict.fromkeys((row["method"], row["surface"]) for row in rows):
        mine = [row for row in rows if (row["method"], row["surface"]) == (method, surface)]
        if len(mine) < 2 or any(row["status"] == "failed" for row in mine):
            continue
        mean: Row = {"method": method, "surface": surface, "scenes": len(mine)}
        for column in columns:
            numbers = [row[column.key] for row in mine if _is_number(row.get(column.key)) and not mark(row, column)]
            lengths_differ = column.key in _SURFACE_METRICS and not column.unit
            devices_differ = column.key in _OF_DEVICE and len({row.get("device") for row in mine}) > 1
            if len(numbers) == len(mine) and not lengths_differ and not devices_differ:
                mean[column.key] = sum(numbers) / len(numbers)
        found.append(mean)
    return found


def cell(row: Row, column: Column) -> str:
    """A row's number as it is shown in a column, with its unit where the column has none because rows differ."""
    value = row[column.key]
    text = number(value * column.scale if _is_number(value) else value, column.digits)
    return f"{text} {row['unit']}" if column.key in _SURFACE_METRICS and not column.unit and "unit" in row else text


def is_score(key: str) -> bool:
    """Whether a key is an F-score: `f_score`, or `f_<threshold>` in percent of the radius."""
    if key == "f_score":
        return True
    try:
        return key.startswith("f_") and math.isfinite(float(key.removeprefix("f_")))
    except ValueError:
        return False


def number(value: Any, digits: int) -> str:
    """A value as text: numbers with `digits` after the point, None as "not measured"."""
    if value is None:
        return NOT_MEASURED
    return f"{value:.{digits}f}" if _is_number(value) else str(value)


def to_text(rows: Sequence[Row]) -> str:
    """The short table in plain text, columns aligned; a reason stands once, under the row or the rows of a run that it belongs to.

    Args:
        rows: of `summary_rows`, or of the TSV read back.
    """
    columns = short_columns(rows)
    head = ["scene", "method", "surface", "status", *(f"{c.title} {c.unit}".strip() for c in columns)]
    body = [
        [f"{_name(row['dataset'])}/{_name(row['scene'])}", *(_name(row[key]) for key in ("method", "surface", "status"))]
        + [cell(row, c) + mark(row, c) if c.key in row else "-" for c in columns]
        for row in rows
    ]
    widths = [max(len(line[i]) for line in [head, *body]) for i in range(len(head))]
    lines = []
    for line, row, below in zip([head, *body], [{}, *rows], [*rows, {}], strict=True):
        cells = [c.ljust(w) if i < 4 else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True))]
        lines.append("  ".join(cells).rstrip())
        if "reason" in row and any(row[key] != below.get(key) for key in ("dataset", "scene", "method", "reason")):
            lines.append(f"    {' '.join(row['reason'].split())}")
    if any(mark(row, c) for row in rows for c in columns):
        lines.append("* measured on training views")
    return "\n".join(lines) + "\n"


def _name(value: Any) -> str:
    """A name on one line; a number that was a name (a table read back) without its decimal point."""
    return f"{value:g}" if _is_number(value) else " ".join(str(value).split())


def mark(row: Row, column: Column) -> str:
    """A star behind a view metric that saw training views."""
    return "*" if column.key in VIEW_METRICS and row.get("views", "held_out") != "held_out" else ""
