"""The HTML page: one self-contained file over all runs, without a single request to anywhere.

Its scripts are its own (`page.js`, `viewer.js`) and three.js (`nsr/report/vendor`). The page's security policy names their
hashes, so that nothing that comes with the results can run.
"""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nsr import __version__
from nsr.report import vendor
from nsr.report.collect import Run
from nsr.report.compare import Change
from nsr.report.preview import Budget
from nsr.report.published import Matrix
from nsr.report.sections import scene_sections
from nsr.report.spent import HEAD, Spent
from nsr.report.tables import (
    NOT_MEASURED,
    VIEW_METRICS,
    Row,
    best_cells,
    cell,
    mark,
    mean_rows,
    number,
    short_columns,
    summary_rows,
)

if TYPE_CHECKING:
    from markupsafe import Markup


@dataclass(frozen=True)
class Extras:
    """What the page may show beside the runs. Attributes: matrices, scenes against methods; changes, None if not compared;
    compared, name of the other summary; home, folder of the page, from which files of the results are linked;
    costs, of each data set."""

    matrices: Sequence[Matrix] = ()
    changes: Sequence[Change] | None = None
    compared: str = ""
    home: Path | None = None
    costs: Sequence[Spent] = ()


def render_page(runs: Sequence[Run], rows: Sequence[Row] | None = None, extras: Extras | None = None) -> str:
    """The whole page as HTML text.

    Args:
        runs: of `collect`. rows: of `summary_rows` of them, None: made here. extras: further tables.
    """
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    rows = summary_rows(runs) if rows is None else rows
    columns = short_columns(rows)
    extras = extras or Extras()
    sections = scene_sections(runs, rows, Budget.for_surfaces(sum(_surfaces(run) for run in runs)), extras.home)
    anchors = {section.title: section.anchor for section in sections}
    viewers = any(section.viewer is not None for section in sections)
    scripts = [_script("page.js"), *([_script("three.bundle.min.js", vendor), _script("viewer.js")] if viewers else [])]

    def svg(text: str) -> Markup:
        return Markup(text)  # noqa: S704 (made by nsr.report.figures, which puts no text of the input into it)

    return environment.from_string(_asset("template.html")).render(
        sections=sections,
        rows=[(index, row, anchors[f"{row['dataset']}/{row['scene']}"]) for index, row in enumerate(rows)],
        columns=columns,
        best=best_cells(rows, columns),
        means=mean_rows(rows, columns),
        device=one_device(rows),
        headline=headline(rows, runs),
        extras=extras,
        costs=[cost for cost in extras.costs if cost.jobs],
        costs_head=HEAD,
        number=number,
        cell=cell,
        mark=mark,
        view_metrics=VIEW_METRICS,
        not_measured=NOT_MEASURED,
        svg=svg,
        style=Markup(_asset("page.css")),  # noqa: S704 (a file of this package)
        scripts=[Markup(text) for text in scripts],  # noqa: S704 (files of this package)
        hashes=" ".join(f"'sha256-{_hash(text)}'" for text in scripts),
        version=__version__,
        date=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
    )


def one_device(rows: Sequence[Row]) -> str:
    """The device that everything was trained on, "" if there are several."""
    devices = {str(row["device"]) for row in rows if "device" in row}
    return devices.pop() if len(devices) == 1 else ""


def _surfaces(run: Run) -> int:
    return max(1, sum(surface.file is not None for surface in run.surfaces))


def _asset(name: str, package: Any = "nsr.report") -> str:
    return resources.files(package).joinpath(name).read_text(encoding="utf-8")


def _script(name: str, package: Any = "nsr.report") -> str:
    """Text of a script as it stands between its tags; an end tag inside it would end it early."""
    return _asset(name, package).replace("</script", "<\\/script")


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def headline(rows: Sequence[Row], runs: Sequence[Run]) -> str:
    """One sentence that says how much there is and how much of it was measured."""
    scenes, methods = {run.title for run in runs}, {run.method for run in runs}
    measured = sum("chamfer" in row or "f_score" in row for row in rows)
    failed = sum(bool(run.failures) for run in runs)
    return (
        f"{_count(len(scenes), 'scene')}, {_count(len(methods), 'method')}: {measured} of {_count(len(rows), 'surface')} measured "
        f"against ground truth, {_count(failed, 'run')} with a failed stage."
    )


def _count(number_of: int, noun: str) -> str:
    return f"{number_of} {noun}{'' if number_of == 1 else 's'}"
