"""Compare results with the ranges they must keep (golden table); a number outside or missing ends with exit code 5.

Writes OUT (.tsv), the table of all numbers that were checked.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from nsr.cli import main_exit, stage_parser


def build_parser() -> argparse.ArgumentParser:
    """The program's options."""
    parser = stage_parser(__doc__)
    parser.add_argument("--golden", type=Path, required=True, help="table of ranges, see docs/evaluation.md")
    parser.add_argument("--runs", type=Path, required=True, help="JSON list of the runs: dataset, scene, method, folder")
    parser.add_argument("--out", type=Path, required=True, help="table to write, .tsv")
    return parser


def main(args: argparse.Namespace) -> None:
    """Run the stage."""
    from nsr.evaluate.golden import check_results, read_runs

    check_results(args.golden, read_runs(args.runs), args.out)


if __name__ == "__main__":
    main_exit(build_parser(), main)
