"""Render views of a trained scene: colour, depth and normals.

Writes <view>.png, <view>_depth.npz (depth along z in world units, 0 where nothing) and <view>_normal.png for the views that
render.views names, and render.json, which says for each view whether it was trained on.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from nsr import cli


def build_parser() -> argparse.ArgumentParser:
    """The program's options."""
    parser = cli.model_parser(__doc__)
    parser.add_argument("--out", type=Path, required=True, help="output folder, replaced")
    return parser


def main(args: argparse.Namespace) -> None:
    """Run the stage."""
    import torch

    from nsr.rendering.device import pick_device
    from nsr.scene.scene import load_scene
    from nsr.train.model_file import load_model
    from nsr.train.views import render_scene

    config = cli.settings(args)
    torch.set_num_threads(cli.threads(args))
    render_scene(load_model(args.model, pick_device(args.device)), load_scene(args.scene), args.out, config.render)


if __name__ == "__main__":
    cli.main_exit(build_parser(), main)
