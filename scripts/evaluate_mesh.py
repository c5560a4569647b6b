"""Compare a mesh with the ground truth of its scene: Chamfer distance and F-score in percent of the object radius.

A scene that went through structure from motion has a frame of its own; give the true cameras (--gt-cameras) and the
mesh is aligned by the similarity between both sets of cameras, which the result states. Writes OUT (JSON) and the
.npz of the same name with sampled points, their distances and the error of every vertex.
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
    parser.add_argument("--ground-truth", type=Path, help="true mesh; without it only facts about the mesh are written")
    parser.add_argument("--gt-cameras", type=Path, help="true cameras: NeuS cameras_sphere.npz or a prepared scene")
    parser.add_argument("--aligned", type=Path, help="also write the mesh in the ground truth's frame to this PLY")
    parser.add_argument("--out", type=Path, required=True, help="result to write, .json")
    return parser


def main(args: argparse.Namespace) -> None:
    """Run the stage."""
    from nsr.evaluate.stage import MeshEvaluation, evaluate_mesh_stage

    job = MeshEvaluation(args.mesh, args.scene, args.out, args.ground_truth, args.gt_cameras, args.aligned)
    evaluate_mesh_stage(job, settings(args), threads(args))


if __name__ == "__main__":
    main_exit(build_parser(), main)
