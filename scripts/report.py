"""Collect the results of all runs into one table and one self-contained HTML page.

Reads what the stages left under --results for each entry of --runs and writes into OUT: summary.tsv (one row per scene, method
and surface; full precision), summary.md and summary.tex (the short table), costs.tsv (time and energy of each data set), and index.html (pictures, curves, tables, 3D viewer;
no other file and no network is needed to look at it). What was not measured is shown as such, and a stage that failed with the
reason from its log. Results that cannot be read are named and end the program with an error. --compare adds what changed since another report, also as changes.tsv.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from nsr.cli import main_exit, stage_parser


def build_parser() -> argparse.ArgumentParser:
    """The program's options."""
    parser = stage_parser(__doc__)
    parser.add_argument("--results", type=Path, required=True, help="folder of all results")
    parser.add_argument("--runs", type=Path, required=True, help="JSON list of {dataset, scene, method[, folder]}")
    parser.add_argument("--logs", type=Path, help="folder of all logs; default: `logs` beside the results")
    parser.add_argument("--out", type=Path, required=True, help="folder of the report")
    parser.add_argument("--compare", type=Path, metavar="TSV", help="summary.tsv of another report to compare with")
    parser.add_argument("--published", type=Path, metavar="DIR", help="folder of published numbers, <dataset>.tsv")
    parser.add_argument("--gpu-price", type=float, default=0.0, help="price of a GPU for an hour; 0: no column of costs")
    return parser


def main(args: argparse.Namespace) -> None:
    """Write the report and say on stdout where it lies and what it measured."""
    from nsr.errors import DataError
    from nsr.report.tables import to_text
    from nsr.report.write import PAGE, Options, write_report

    options = Options(args.compare, args.published, args.gpu_price)
    written = write_report(args.results, args.runs, args.out, args.logs, options)
    sys.stdout.write(f"{to_text(written.rows)}\nreport: {args.out / PAGE}\n")
    if damaged := sorted({str(path) for path in written.damaged}):
        raise DataError(f"results that cannot be read: {', '.join(damaged)}; delete them and run again, they are made anew")


if __name__ == "__main__":
    main_exit(build_parser(), main)
