"""Give a mesh a texture from the photographs of its scene.

The mesh is simplified to `texture.faces` triangles, unwrapped, and every texel blended from the photographs that see it
best. Writes into OUT: textured.glb (one file, for viewers), textured.obj with .mtl and .jpg, textured.ply with vertex
colours, and texture.json with facts, among them the PSNR of the textured mesh against each photograph.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from nsr.cli import main_exit, settings, stage_parser, threads


def build_parser() -> argparse.ArgumentParser:
    """The program's options."""
    parser = stage_parser(__doc__)
    parser.add_argument(
        "--mesh", type=Path, required=True, help="mesh in the scene's world frame, or a PLY that names its metric frame"
    )
    parser.add_argument("--scene", type=Path, required=True, help="scene folder of the prepare stage")
    parser.add_argument("--out", type=Path, required=True, help="output folder; its files of the same names are replaced")
    return parser


def main(args: argparse.Namespace) -> None:
    """Run the stage."""
    from nsr.mesh.texture.stage import texture_stage

    texture_stage(args.mesh, args.scene, args.out, settings(args), threads=threads(args))


if __name__ == "__main__":
    main_exit(build_parser(), main)
