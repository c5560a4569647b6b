"""Turn photographs with known cameras into one prepared scene, the form that every later stage reads.

Reads a COLMAP model, a NeuS/IDR/DTU folder, Blender or nerfstudio transforms, or photos with the model that sfm.py made
of them. Undistorts, brings masks to one form, marks held-out views, finds the region of interest. Whole or not at all.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from nsr.cli import main_exit, settings, stage_parser, threads


def build_parser() -> argparse.ArgumentParser:
    """The program's options."""
    parser = stage_parser(__doc__)
    parser.add_argument(
        "--format", required=True, choices=["photos", "colmap", "neus", "blender", "nerfstudio"], help="of the source"
    )
    parser.add_argument("--source", required=True, type=Path, metavar="PATH", help="folder of the source")
    parser.add_argument("--model", type=Path, metavar="DIR", help="what sfm.py wrote; needed for photos")
    parser.add_argument("--masks", type=Path, metavar="DIR", help="masks, white object on black, named like the photos")
    parser.add_argument("--region", metavar="SPEC", help="x,y,z,radius in world units, or auto, format, masks, points, cameras")
    parser.add_argument("--name", required=True, metavar="DATASET/SCENE", help="the scene's name in reports")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="scene folder to make")
    return parser


def main(args: argparse.Namespace) -> None:
    """Read the source and build the scene folder."""
    from nsr.scene.prepare import prepare, read_source

    config = settings(args).prepare
    raw = read_source(args.format, args.source, masks=args.masks, model=args.model)
    prepare(raw, args.out, name=args.name, settings=config, region=args.region, threads=threads(args))


if __name__ == "__main__":
    main_exit(build_parser(), main)
