"""Compare the variants of an ablation: mean and spread over the seeds, change against the first variant.

Reads what the stages left under --results for each entry of --runs and writes ablation.tsv and ablation.md into OUT.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from nsr.cli import main_exit, stage_parser


def build_parser() -> argparse.ArgumentParser:
    """The program's options."""
    parser = stage_parser(__doc__)
    parser.add_argument("--results", type=Path, required=True, help="folder of all results")
    parser.add_argument("--runs", type=Path, required=True, help="JSON list of the runs: dataset, scene, method, folder")
    parser.add_argument("--out", type=Path, required=True, help="folder to write into")
    return parser


def main(args: argparse.Namespace) -> None:
    """Run the stage."""
    from nsr.report.ablation import write_ablation

    write_ablation(args.results, args.runs, args.out)


if __name__ == "__main__":
    main_exit(build_parser(), main)
