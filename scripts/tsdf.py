"""Fuse the depth that a trained model renders into a triangle mesh in the scene's world frame.

The second way to a surface: what the cameras see of the rendered opacity, not the zero level of the signed distance.
Cleaned like the first. Writes OUT (PLY) and the JSON of the same name with facts and settings.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from nsr.cli import main_exit, settings, stage_parser, threads


def build_parser() -> argparse.ArgumentParser:
    """The program's options."""
    parser = stage_parser(__doc__)
    parser.add_argument("--model", type=Path, required=True, help="model.pt of the training stage")
    parser.add_argument("--scene", type=Path, required=True, help="scene folder of the prepare stage")
    parser.add_argument("--out", type=Path, required=True, help="mesh file to write, .ply")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    return parser


def main(args: argparse.Namespace) -> None:
    """Run the stage."""
    from nsr.mesh.stage import tsdf_stage

    tsdf_stage(args.model, args.scene, args.out, settings(args), device=args.device, threads=threads(args))


if __name__ == "__main__":
    main_exit(build_parser(), main)
