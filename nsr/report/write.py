"""Write the report: `summary.tsv` and `index.html`, each whole or not at all."""

from __future__ import annotations

from pathlib import Path

from nsr.provenance import whole_file
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
    for name, text in ((TABLE, to_tsv(rows)), (PAGE, page)):
        with whole_file(out / name) as partial:
            partial.write_text(text, encoding="utf-8")
    return rows
