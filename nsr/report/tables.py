"""The summary: one row per scene, method and surface, as TSV for machines and as aligned text for a terminal."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from nsr.report.collect import Failure, Run, Surface

NOT_MEASURED = "not measured"
Row = dict[str, Any]


@dataclass(frozen=True)
class Column:
    """How a column is shown. Attributes: key of the row; title; digits after the point; unit, "" if none."""

    key: str
    title: str
    digits: int = 0
    unit: str = ""


_FIRST = ("dataset", "scene", "method", "surface", "status")
_SURFACE_METRICS = ("chamfer", "accuracy", "completeness")
_SHORT = (
    Column("chamfer", "Chamfer", 3, "%"),
    Column("accuracy", "accuracy", 3, "%"),
    Column("completeness", "completeness", 3, "%"),
)
_SHORT_VIEWS = (
    Column("psnr", "PSNR", 2, "dB"),
    Column("ssim", "SSIM", 4),
    Column("train_seconds", "training", 0, "s"),
)


def summary_rows(runs: Iterable[Run]) -> list[Row]:
    """One flat row per run and surface; what was not measured has no key.

    Keys of the evaluations' `metrics` are kept as they are: lengths in percent of the object radius, `*_world` in world
    units, F-scores in the evaluation's own range, PSNR in dB.
    """
    return [_row(run, surface) for run in runs for surface in run.surfaces]


def _row(run: Run, surface: Surface) -> Row:
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
            "world_unit": run.prepared.unit if run.prepared else None,
            "views_protocol": protocol(views),
            "views": trained_on(run)[0] if views else None,
            "views_count": len(views["per_view"]) if views.get("per_view") else None,
            "psnr_train": train.get("psnr_train"),
            "train_views": len(train["train_views"]) if "train_views" in train else None,
            "steps": train.get("steps"),
            "train_seconds": train.get("seconds"),
            "samples_per_second": train.get("samples_per_second"),
            "peak_memory_mb": train.get("peak_memory_mb"),
            "device": train.get("device"),
            "seed": seed(run),
            "triangles": surface.info.get("triangles"),
            "nsr": manifest.get("versions", {}).get("nsr"),
            "date": manifest.get("date"),
            "reason": reason,
        }
    )
    return row


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
    out = io.StringIO()
    writer = csv.writer(out, delimiter="\t", lineterminator="\n")
    writer.writerow(keys)
    for row in rows:
        writer.writerow([" ".join(v.split()) if isinstance(v := row.get(key, ""), str) else repr(v) for key in keys])
    return out.getvalue()


def short_columns(rows: Sequence[Row]) -> list[Column]:
    """The columns a person compares, F-scores as the rows have them."""
    scores = [Column(key, f"F@{key.removeprefix('f_')}%", 3) for key in column_keys(rows) if is_score(key)]
    return [*_SHORT, *scores, *_SHORT_VIEWS]


def is_score(key: str) -> bool:
    """Whether a key is an F-score in percent of the radius: `f_<threshold>`."""
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
    """The short table in plain text, columns aligned; a reason stands under the row it belongs to.

    Args:
        rows: of `summary_rows`, or of the TSV read back.
    """
    columns = short_columns(rows)
    head = ["scene", "method", "surface", "status", *(f"{c.title} {c.unit}".strip() for c in columns)]
    body = [
        [f"{_name(row['dataset'])}/{_name(row['scene'])}", *(_name(row[key]) for key in ("method", "surface", "status"))]
        + [number(row[c.key], c.digits) + _mark(row, c) if c.key in row else "-" for c in columns]
        for row in rows
    ]
    widths = [max(len(line[i]) for line in [head, *body]) for i in range(len(head))]
    lines = []
    for line, row in zip([head, *body], [{}, *rows], strict=True):
        cells = [c.ljust(w) if i < 4 else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True))]
        lines.append("  ".join(cells).rstrip())
        if "reason" in row:
            lines.append(f"    {' '.join(row['reason'].split())}")
    if any(_mark(row, c) for row in rows for c in columns):
        lines.append("* measured on training views")
    return "\n".join(lines) + "\n"


def _name(value: Any) -> str:
    """A name on one line; a number that was a name (a table read back) without its decimal point."""
    return f"{value:g}" if _is_number(value) else " ".join(str(value).split())


def _mark(row: Row, column: Column) -> str:
    """A star behind a view metric that saw training views."""
    return "*" if column.key in ("psnr", "ssim") and row.get("views", "held_out") != "held_out" else ""
