"""Look at a prepared scene before any GPU time is spent, and say what to change.

With --scene, writes preflight.json and a page index.html into OUT: pose health, coverage, masks, the region of interest drawn
into photographs, blurred and badly exposed ones, expected memory and time, and verdicts (ok, warning, stop). With --runs, writes
one page over the scenes whose results are there to the file OUT.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from nsr.cli import main_exit, stage_parser, threads


def build_parser() -> argparse.ArgumentParser:
    """The program's options."""
    parser = stage_parser(__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--scene", type=Path, metavar="DIR", help="scene folder of the prepare stage")
    what.add_argument("--runs", type=Path, metavar="FILE", help="JSON list of runs; their scenes get one page")
    parser.add_argument("--sfm", type=Path, metavar="FILE", help="sfm.json of a scene that is photographs")
    parser.add_argument(
        "--logs", type=Path, metavar="DIR", help="with --runs: list scenes without a result, with the errors of their logs"
    )
    parser.add_argument(
        "--methods", default="{}", metavar="JSON", help="steps, samples and patches of each method, for the costs"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of a scene's result, or file of the page over all")
    return parser


def main(args: argparse.Namespace) -> None:
    """Judge a scene, or write the page over all, and say on stdout what came out."""
    from nsr.preflight.stage import preflight_index, preflight_stage

    if args.runs:
        counts = preflight_index(args.runs, args.out, args.logs)
        sys.stdout.write(", ".join(f"{count} {level}" for level, count in counts.items()) + f": {args.out}\n")
        return
    methods = json.loads(args.methods)
    facts = preflight_stage(args.scene, args.out, methods=methods, sfm=args.sfm, threads=threads(args))
    sys.stdout.write(f"{facts['scene']}: {facts['verdict']}\n")


if __name__ == "__main__":
    main_exit(build_parser(), main)
