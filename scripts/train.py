"""Train the field of one prepared scene.

Reads a scene folder (see prepare), writes model.pt, train.json and metrics.jsonl into the output folder, and keeps a
checkpoint there from which a killed run continues. Needs a GPU for real use; small settings run on a CPU. With
train.gpus=N, or under `torchrun --nproc-per-node N`, N processes train one scene together.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from nsr import cli


def build_parser() -> argparse.ArgumentParser:
    """The program's options."""
    parser = cli.stage_parser(__doc__)
    parser.add_argument("--scene", type=Path, required=True, help="prepared scene folder")
    parser.add_argument("--points", type=Path, metavar="FILE", help="points.npz of triangulate.py, for train.loss.points")
    parser.add_argument("--out", type=Path, required=True, help="output folder")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    return parser


def main(args: argparse.Namespace) -> None:
    """Run the stage."""
    import torch

    from nsr.scene.scene import load_scene, with_points
    from nsr.train.members import train_members
    from nsr.train.ranks import joined, start_ranks

    config = cli.settings(args)
    start_ranks(config.train.gpus, args.device)
    with joined(args.device) as (ranks, device):
        torch.set_num_threads(max(1, cli.threads(args) // ranks.count))
        scene = load_scene(args.scene)
        train_members(with_points(scene, args.points) if args.points else scene, config, args.out, device, ranks)


if __name__ == "__main__":
    cli.main_exit(build_parser(), main)
