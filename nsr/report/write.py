"""Write the report: the page, and the summary as TSV, Markdown and LaTeX, each whole or not at all."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from nsr.provenance import write_text
from nsr.report.collect import collect
from nsr.report.compare import changes, changes_tsv, read_summary
from nsr.report.formats import to_latex, to_markdown
from nsr.report.page import Extras, render_page
from nsr.report.published import matrices
from nsr.report.spent import spent
from nsr.report.spent import to_tsv as costs_tsv
from nsr.report.tables import Row, summary_rows, to_tsv

TABLE, PAGE, CHANGES, COSTS = "summary.tsv", "index.html", "changes.tsv", "costs.tsv"
MARKDOWN, LATEX = "summary.md", "summary.tex"


@dataclass(frozen=True)
class Options:
    """What else goes into a report.

    Attributes:
        compare: `summary.tsv` of another report, None: no comparison. published: folder of published numbers, None: without.
        gpu_price: of one GPU for an hour; 0: no cost.
    """

    compare: Path | None = None
    published: Path | None = None
    gpu_price: float = 0.0


class Written(NamedTuple):
    """What a report says. Attributes: rows, of its table; damaged, files of results that cannot be read."""

    rows: list[Row]
    damaged: list[Path]


def write_report(results: Path, runs: Path, out: Path, logs: Path | None = None, options: Options | None = None) -> Written:
    """Collect every run of the runs file and write tables and page into `out` (made if missing).

    Args:
        results, runs, logs: as in `nsr.report.collect.collect`. out: folder of the report. options: further tables.

    Raises:
        DataError: the runs file, the other summary or a file of published numbers cannot be used.
    """
    options = options or Options()
    earlier = read_summary(options.compare) if options.compare else None
    found = collect(results, runs, logs)
    rows = summary_rows(found, options.gpu_price)
    changed = None if earlier is None else changes(rows, earlier)
    costs = spent(found)
    page = render_page(found, rows, Extras(matrices(rows, options.published), changed, str(options.compare or ""), out, costs))
    files = {TABLE: to_tsv(rows), MARKDOWN: to_markdown(rows), LATEX: to_latex(rows), PAGE: page, COSTS: costs_tsv(costs)}
    files |= {} if changed is None else {CHANGES: changes_tsv(changed)}
    for name, text in files.items():
        write_text(out / name, text)
    return Written(rows, [failure.damaged for run in found for failure in run.failures if failure.damaged is not None])
