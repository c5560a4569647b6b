"""Fuse the depth that a trained model renders into a triangle mesh in the scene's world frame.

The second way to a surface: what the cameras see of the rendered opacity, not the zero level of the signed distance.
Cleaned like the first. Writes OUT (PLY) and the JSON of the same name with facts and settings.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from nsr.cli import main_exit, model_parser, settings, threads


def build_parser() -> argparse.ArgumentParser:
    """The program's options."""
    parser = model_parser(__doc__)
    parser.add_argument("--out", type=Path, required=True, help="mesh file to write, .ply")
    return parser


def main(args: argparse.Namespace) -> None:
    """Run the stage."""
    from nsr.mesh.stage import tsdf_stage

    tsdf_stage(args.model, args.scene, args.out, settings(args), device=args.device, threads=threads(args))


if __name__ == "__main__":
    main_exit(build_parser(), main)
