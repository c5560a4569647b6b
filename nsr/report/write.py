"""Write the report: `summary.tsv` and `index.html`, each whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from nsr.report.collect import collect
from nsr.report.page import render_page
from nsr.report.tables import Row, summary_rows, to_tsv

TABLE, PAGE = "summary.tsv", "index.html"


def write_report(results: Path, runs: Path, out: Path, logs: Path | None = None) -> list[Row]:
    """Collect every run of the runs file and write table and page into `out` (made if missing).

    Args:
        results, runs, logs: as in `nsr.report.collect.collect`. out: folder of the report.

    Returns:
        the rows of the table.

    Raises:
        DataError: the runs file cannot be used.
    """
    found = collect(results, runs, logs)
    rows = summary_rows(found)
    page = render_page(found)
    out.mkdir(parents=True, exist_ok=True)
    for name, text in ((TABLE, to_tsv(rows)), (PAGE, page)):
        partial = out / f"{name}.partial"
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, out / name)
    return rows
