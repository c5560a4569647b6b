"""Sparse points of a prepared scene, for the loss term train.loss.points.

Matches the photographs where the scene's cameras allow it and triangulates with these cameras as they are (COLMAP). A scene
that came with points (from COLMAP or structure from motion) keeps them. Only points in the region of interest that pass the
thresholds of the `triangulate` settings are written.

Reads   --scene DIR    what prepare.py wrote
Writes  --out DIR      points.npz (positions, errors, tracks) and points.json (numbers, times)

Example: python scripts/triangulate.py --scene results/my/scene/scene --out results/my/scene/points
"""

from __future__ import annotations

import argparse
from pathlib import Path

from nsr.cli import main_exit, settings, stage_parser, threads


def build_parser() -> argparse.ArgumentParser:
    """The program's options."""
    parser = stage_parser(__doc__)
    parser.add_argument("--scene", type=Path, required=True, help="prepared scene folder")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    return parser


def main(args: argparse.Namespace) -> None:
    """Run the stage."""
    from nsr.scene.scene import load_scene
    from nsr.scene.triangulate import triangulate_scene

    config = settings(args)
    triangulate_scene(load_scene(args.scene), args.out, config.triangulate, threads=threads(args), seed=config.train.seed)


if __name__ == "__main__":
    main_exit(build_parser(), main)
