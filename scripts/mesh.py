"""Extract the surface of a trained model as a triangle mesh in the scene's world frame.

Marching cubes on the signed distance, culling of what lies outside the masks or is seen by no camera, largest
components, vertex colours. Writes OUT (PLY) and the JSON of the same name with facts and settings.
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
    from nsr.mesh.stage import mesh_stage

    mesh_stage(args.model, args.scene, args.out, settings(args), device=args.device, threads=threads(args))


if __name__ == "__main__":
    main_exit(build_parser(), main)
