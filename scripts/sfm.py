"""Structure from motion: photos -> cameras and sparse points.

Finds features in the photos of a folder, matches them and reconstructs cameras and points with COLMAP. The result is
judged by a health gate (share of registered photos, reprojection error, spread of the cameras; thresholds in the `sfm`
settings). A model that fails is kept in OUT.failed and the program says what to change.

Reads   --photos DIR   .jpg and .png files
Writes  --out DIR      sparse/0 (COLMAP model) and sfm.json (health, gate, times)

Example: python scripts/sfm.py --photos photos/ --out results/my/scene/sfm sfm.matcher=sequential
"""

from __future__ import annotations

import argparse
from pathlib import Path

from nsr.cli import main_exit, settings, stage_parser, threads


def build_parser() -> argparse.ArgumentParser:
    """The program's options."""
    parser = stage_parser(__doc__)
    parser.add_argument("--photos", type=Path, required=True, help="folder of photographs")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    return parser


def main(args: argparse.Namespace) -> None:
    """Run the stage."""
    from nsr.data.sfm import run_sfm

    config = settings(args)
    run_sfm(args.photos, args.out, config.sfm, threads=threads(args), seed=config.train.seed)


if __name__ == "__main__":
    main_exit(build_parser(), main)
