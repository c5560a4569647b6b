"""Patches where rays cross the zero level: loss alone, and with its backward pass, in the reference and in Triton.

Cameras on a sphere look at a ball of radius 1/2 through photographs of smooth noise; rays aim into the ball, their samples lie in
a shell around its surface. All rays have patches, every view is compared with its nearest ones.

Floor, with the copy rate measured in the same run: bytes / copy,
  forward   2 of a pixel of a patch, in the ray's view and in each source; 4 of a sample; 100 of a ray
  backward  4 of a sample written beside
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import interpolate, normalize

from benchmarks.timing import Case, Ceilings, benchmark_parser, calibrate, compare, require_gpu, timing_options
from nsr.cli import main_exit
from nsr.conventions import PIXEL_CENTRE
from nsr.kernels.packed import Packed
from nsr.kernels.patch import PatchLoss, PatchRays, PatchShape, PatchTables, patch_loss

_DISTANCE, _RADIUS, _AIM = 2.5, 0.5, 0.4  # of the cameras; of the ball; of the part of it that rays aim into
_GRAIN = 8  # pixels between independent grey levels


class Workload(NamedTuple):
    """Arguments of `patch_loss`; distances require a gradient."""

    sdf: Tensor
    gradient: Tensor
    t: Tensor
    packed: Packed
    rays: PatchRays
    tables: PatchTables


def build_parser() -> argparse.ArgumentParser:
    """The program's options."""
    parser = timing_options(benchmark_parser(__doc__))
    parser.add_argument("--rays", type=int, default=1024, metavar="N", help="default 1024")
    parser.add_argument("--size", type=int, default=11, metavar="PX", help="of a patch's side, default 11")
    parser.add_argument("--sources", type=int, default=8, metavar="N", help="views compared with, default 8")
    parser.add_argument("--best", type=int, default=4, metavar="N", help="of them count, default 4")
    parser.add_argument("--views", type=int, default=49, metavar="N", help="photographs, default 49")
    parser.add_argument("--photo", type=int, nargs=2, default=[1600, 1200], metavar=("W", "H"), help="default 1600 1200")
    parser.add_argument("--samples", type=int, default=64, metavar="N", help="of a ray, default 64")
    parser.add_argument("--rows", type=int, default=1 << 18, metavar="N", help="samples of a step, default 262144")
    return parser


def _cameras(args: argparse.Namespace, device: torch.device) -> PatchTables:
    generator = torch.Generator().manual_seed(0)
    width, height = args.photo
    # Even directions: a Fibonacci lattice, which leaves out the poles.
    number = torch.arange(args.views) + 0.5
    z, angle = 1 - 2 * number / args.views, number * (torch.pi * (3 - 5**0.5))
    centre = _DISTANCE * torch.stack([(1 - z * z).sqrt() * angle.cos(), (1 - z * z).sqrt() * angle.sin(), z], dim=1)
    forward = normalize(-centre, dim=1)
    right = normalize(torch.linalg.cross(forward, torch.tensor([[0.0, 0.0, 1.0]]).expand_as(forward)), dim=1)
    to_camera = torch.stack([right, torch.linalg.cross(forward, right), forward], dim=1)
    K = torch.tensor([[2.0 * width, 0, width / 2], [0, 2.0 * width, height / 2], [0, 0, 1]])
    nearest = (centre @ centre.T).argsort(dim=1, descending=True)[:, 1 : 1 + args.sources]
    coarse = torch.rand(args.views, 1, height // _GRAIN + 2, width // _GRAIN + 2, generator=generator)
    grey = torch.cat([interpolate(part[None], (height, width), mode="bilinear").half().reshape(-1) * 255 for part in coarse])
    parts = (
        grey, torch.arange(args.views) * (width * height), torch.tensor([args.photo] * args.views, dtype=torch.int32),
        to_camera.transpose(1, 2) @ torch.linalg.inv(K), K @ to_camera, centre, nearest.int(),
    )  # fmt: skip
    return PatchTables(*(part.contiguous().to(device) for part in parts))


def _workload(args: argparse.Namespace, device: torch.device) -> Workload:
    generator = torch.Generator(device).manual_seed(1)
    tables = _cameras(args, device)
    view = torch.randint(args.views, (args.rays,), generator=generator, device=device)
    aim = normalize(torch.randn(args.rays, 3, generator=generator, device=device), dim=1) * _AIM
    image = torch.einsum("rij,rj->ri", tables.projection[view], aim - tables.centre[view])
    pixel = (image[:, :2] / image[:, 2:]).long()
    place = torch.cat([pixel + PIXEL_CENTRE, torch.ones_like(image[:, :1])], dim=1)
    direction = normalize(torch.einsum("rij,rj->ri", tables.towards[view], place), dim=1)
    middle = -(tables.centre[view] * direction).sum(1)
    half = (middle**2 - _DISTANCE**2 + _RADIUS**2).clamp(min=0).sqrt()
    step = 2 * 3**0.5 / 1024
    t = (middle - half)[:, None] + (torch.arange(args.samples, device=device) - args.samples / 2 + 0.3) * step
    position = tables.centre[view][:, None] + direction[:, None] * t[..., None]
    rest = max(0, args.rows - t.numel())
    sdf = torch.cat([position.norm(dim=2).reshape(-1) - _RADIUS, torch.ones(rest, device=device)]).requires_grad_()
    gradient = torch.cat([position.reshape(-1, 3), torch.ones(rest, 3, device=device)]).T.contiguous().T
    starts = torch.arange(args.rays, dtype=torch.int32, device=device) * args.samples
    packed = Packed(torch.zeros_like(sdf, dtype=torch.int32), starts, torch.full_like(starts, args.samples))
    rays = PatchRays(direction, view.int(), pixel[:, 0].int(), pixel[:, 1].int())
    return Workload(sdf, gradient, torch.cat([t.reshape(-1), torch.zeros(rest, device=device)]), packed, rays, tables)


def _forward_backward(loss: Callable[[], PatchLoss], sdf: Tensor) -> None:
    sdf.grad = None
    loss().loss.sum().backward()


def _cases(args: argparse.Namespace, device: torch.device, ceilings: Ceilings) -> Iterator[Case]:
    work = _workload(args, device)
    options: dict[str, Any] = {"shape": PatchShape(args.size, 1, args.best), "step": 2 * 3**0.5 / 1024}
    used = int(patch_loss(*work, **options).used.sum())
    print(
        f"\n{args.rays} rays, {used} with patches of {args.size} x {args.size} px, {args.sources} sources, {args.views} photographs"
    )
    bytes_read = args.rays * (2 * args.size**2 * (args.sources + 1) + 4 * args.samples + 100)
    for backward in (False, True):
        floor = (bytes_read + (4 * len(work.sdf) if backward else 0)) / ceilings.copy
        for backend in ("reference", "triton"):
            loss = partial(patch_loss, *work, **options, backend=backend)
            run = partial(_forward_backward, loss, work.sdf) if backward else torch.no_grad()(loss)
            operation = f"patches forward{' + backward' if backward else ''}"
            yield Case(operation, backend, args.rays, floor, run, graph=backend == "triton")


def main(args: argparse.Namespace) -> None:
    """Print the table."""
    device = require_gpu()
    ceilings = calibrate()
    compare(_cases(args, device, ceilings), "rays", rounds=args.rounds, calls=args.calls)


if __name__ == "__main__":
    main_exit(build_parser(), main)
