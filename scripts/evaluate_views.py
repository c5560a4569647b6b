"""Compare rendered views with their photographs: PSNR, SSIM and LPIPS, over whole images and over the object alone.

With a ground-truth mesh also the error of the depth. Writes OUT (JSON) with the means, every view's numbers, whether the
views were kept from training, and what was left out.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from nsr.cli import main_exit, settings, stage_parser


def build_parser() -> argparse.ArgumentParser:
    """The program's options."""
    parser = stage_parser(__doc__)
    parser.add_argument("--render", type=Path, required=True, help="folder of the render stage")
    parser.add_argument("--scene", type=Path, required=True, help="scene folder of the prepare stage")
    parser.add_argument("--ground-truth", type=Path, help="true mesh, for the depth")
    parser.add_argument("--gt-cameras", type=Path, help="true cameras, as of evaluate_mesh")
    parser.add_argument("--out", type=Path, required=True, help="result to write, .json")
    return parser


def main(args: argparse.Namespace) -> None:
    """Run the stage."""
    from nsr.evaluate.views import Truth, evaluate_views_stage

    truth = Truth(args.ground_truth, args.gt_cameras) if args.ground_truth else None
    evaluate_views_stage(args.render, args.scene, args.out, settings(args), truth)


if __name__ == "__main__":
    main_exit(build_parser(), main)
