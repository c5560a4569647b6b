"""Extract the surface of a trained model as a triangle mesh in the scene's world frame.

Marching cubes on the signed distance, culling of what lies outside the masks or is seen by no camera, largest
components, vertex colours. Writes OUT (PLY) and the JSON of the same name with facts and settings.
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
    from nsr.mesh.stage import mesh_stage

    mesh_stage(args.model, args.scene, args.out, settings(args), device=args.device, threads=threads(args))


if __name__ == "__main__":
    main_exit(build_parser(), main)
