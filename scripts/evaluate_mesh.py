"""Compare a mesh with the ground truth of its scene by a protocol of docs/evaluation.md, Chamfer distance and F-score.

Protocols: object-surface, surface-distance, dtu, tanks-and-temples. A scene that went through structure from motion has a
frame of its own; give the true cameras (--gt-cameras) and the mesh is aligned by the similarity between both sets of
cameras, which the result states. Writes OUT (JSON) and the .npz of the same name with points, distances and vertex errors.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from nsr.cli import main_exit, settings, stage_parser, threads


def build_parser() -> argparse.ArgumentParser:
    """The program's options."""
    parser = stage_parser(__doc__)
    parser.add_argument("--mesh", type=Path, required=True, help="mesh in the scene's world frame")
    parser.add_argument("--scene", type=Path, required=True, help="scene folder of the prepare stage")
    parser.add_argument(
        "--ground-truth", type=Path, help="file of the protocol; without it only facts about the mesh are written"
    )
    parser.add_argument("--gt-cameras", type=Path, help="true cameras: cameras_sphere.npz, *_COLMAP_SfM.log or a prepared scene")
    parser.add_argument("--protocol", default="object-surface", help="how to measure (object-surface)")
    parser.add_argument("--aligned", type=Path, help="also write the mesh in the ground truth's frame to this PLY")
    parser.add_argument("--out", type=Path, required=True, help="result to write, .json")
    return parser


def main(args: argparse.Namespace) -> None:
    """Run the stage."""
    from nsr.evaluate.stage import MeshEvaluation, evaluate_mesh_stage

    truth = args.ground_truth, args.gt_cameras
    job = MeshEvaluation(args.mesh, args.scene, args.out, *truth, args.aligned, args.protocol)
    evaluate_mesh_stage(job, settings(args), threads(args))


if __name__ == "__main__":
    main_exit(build_parser(), main)
