"""Ray marching through a shell-shaped occupancy grid, and NeuS compositing of the samples with its backward pass.

Rays look at the ball from all sides; cells within the shell's thickness of a sphere of radius 1/2 are occupied, as in a
half-trained scene. Back ends: the reference in torch, Triton, and nerfacc where it is installed: it marches, and sums up with
opacities that the reference computes from SDF and gradient. `march` returns as many samples as there are, for which every
back end waits for the GPU; `march_padded` fills arrays of fixed length and waits only in the reference.

Floor, with the copy rate measured in the same run: bytes / copy,
  march     24 of a ray, 16 of a sample; march_padded 20 of a sample
  composite 36 of a sample and 48 of a ray forward; backward the same read again, 28 of a sample written
Some thousand rays do not fill a GPU with this work: expect small shares.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from benchmarks.timing import Case, Ceilings, benchmark_parser, calibrate, compare, require_gpu, timing_options
from nsr.cli import main_exit
from nsr.kernels.march import Samples, march, march_padded, pack_occupancy
from nsr.kernels.march.nerfacc_adapter import require_nerfacc
from nsr.kernels.neus import RaySums, neus_composite
from nsr.kernels.neus.alpha import annealed_cosine, neus_alpha

_DISTANCE, _AIM = 2.5, 0.6  # of the cameras from the centre; radius of the sphere that rays aim into
_RADIUS, _SHARPNESS = 0.5, 64.0


def build_parser() -> argparse.ArgumentParser:
    """The program's options."""
    parser = timing_options(benchmark_parser(__doc__))
    parser.add_argument("--rays", type=int, default=8192, metavar="N", help="default 8192")
    parser.add_argument("--steps", type=int, default=1024, metavar="N", help="marching steps on the diagonal, default 1024")
    parser.add_argument("--resolution", type=int, default=128, metavar="N", help="cells along an axis, default 128")
    parser.add_argument("--thickness", type=float, default=0.05, metavar="R", help="of the shell to each side, default 0.05")
    return parser


def _shell(resolution: int, thickness: float, device: torch.device) -> Tensor:
    axis = (torch.arange(resolution, device=device) + 0.5) * (2 / resolution) - 1
    radius = (axis[:, None, None] ** 2 + axis[None, :, None] ** 2 + axis[None, None, :] ** 2).sqrt()
    return (radius - _RADIUS).abs() < thickness


def _rays(rays: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Origins, directions and jitter."""
    generator = torch.Generator(device).manual_seed(1)
    random = partial(torch.randn, rays, 3, generator=generator, device=device)
    origin = normalize(random(), dim=1) * _DISTANCE
    direction = normalize(normalize(random(), dim=1) * _AIM - origin, dim=1)
    return origin, direction, torch.rand(rays, generator=generator, device=device)


def _march_cases(args: argparse.Namespace, device: torch.device, ceilings: Ceilings) -> Iterator[Case]:
    origin, direction, jitter = _rays(args.rays, device)
    occupied, step = _shell(args.resolution, args.thickness, device), 2 * 3**0.5 / args.steps
    number = len(march(origin, direction, occupied, step=step, jitter=jitter).t)
    print(f"\n{args.rays} rays, {number} samples, {float(occupied.float().mean()):.1%} of the cells occupied")
    floor = (24 * args.rays + 16 * number) / ceilings.copy
    for backend in ("reference", "triton", "nerfacc"):
        run = partial(march, origin, direction, occupied, step=step, jitter=jitter, backend=backend)
        yield Case("march", backend, args.rays, floor, run)
    live = torch.tensor([args.rays], dtype=torch.int32, device=device)
    floor = (24 * args.rays + 20 * number) / ceilings.copy
    for backend in ("reference", "triton"):
        bits = pack_occupancy(occupied)
        options = {"step": step, "jitter": jitter, "live": live, "budget": number, "backend": backend}
        yield Case("march_padded", backend, args.rays, floor, partial(march_padded, origin, direction, bits, **options),
                   graph=backend == "triton")  # fmt: skip


def _nerfacc_sums(sdf: Tensor, gradient: Tensor, colour: Tensor, direction: Tensor, samples: Samples, **options: Any) -> RaySums:
    """What `neus_composite` computes, with nerfacc's transmittance and sums."""
    package = require_nerfacc(sdf.device)
    ray, rays = samples.packed.ray, len(direction)
    norm = gradient.norm(dim=1, keepdim=True)
    normal = gradient / norm.clamp(min=1e-6)
    cosine = annealed_cosine((direction[ray] * normal).sum(1), options["cosine_ratio"])
    alpha = neus_alpha(sdf, cosine, options["step"], options["sharpness"])
    weights, _ = package.render_weight_from_alpha(alpha, ray_indices=ray, n_rays=rays)
    values = torch.cat([colour, normal, samples.t[:, None], torch.ones_like(norm)], dim=1)
    sums = package.accumulate_along_rays(weights, values, ray_indices=ray, n_rays=rays)
    errors = (norm - 1).square()
    eikonal = package.accumulate_along_rays(torch.ones_like(weights), errors, ray_indices=ray, n_rays=rays)[:, 0]
    spread = torch.zeros_like(eikonal)  # left out
    return RaySums(sums[:, :3], sums[:, 3:6], sums[:, 6], sums[:, 7], eikonal, spread, weights)


def _forward_backward(sums: Callable[[], RaySums], leaves: list[Tensor]) -> None:
    for leaf in leaves:
        leaf.grad = None
    out = sums()
    (out.colour.sum() + out.normal.sum() + out.depth.sum() + out.opacity.sum() + out.eikonal.sum()).backward()


def _composite_cases(args: argparse.Namespace, device: torch.device, ceilings: Ceilings) -> Iterator[Case]:
    origin, direction, jitter = _rays(args.rays, device)
    step = 2 * 3**0.5 / args.steps
    samples = march(origin, direction, _shell(args.resolution, args.thickness, device), step=step, jitter=jitter)
    position = origin[samples.packed.ray] + direction[samples.packed.ray] * samples.t[:, None]
    sharpness = torch.tensor(_SHARPNESS, device=device, requires_grad=True)
    sdf = (position.norm(dim=1) - _RADIUS).requires_grad_()
    gradient = (normalize(position, dim=1) * 1.1).requires_grad_()
    colour = torch.rand_like(position).requires_grad_()
    leaves = [sdf, gradient, colour, sharpness]
    options = {"sharpness": sharpness, "cosine_ratio": torch.ones(1, device=device), "step": step}
    forward_bytes = 36 * len(samples.t) + 48 * args.rays
    for backward in (False, True):
        floor = (forward_bytes * (2 if backward else 1) + (28 * len(samples.t) if backward else 0)) / ceilings.copy
        for backend in ("reference", "triton", "nerfacc"):
            if backend == "nerfacc":
                sums = partial(_nerfacc_sums, sdf, gradient, colour, direction, samples, **options)
            else:
                sums = partial(
                    neus_composite, sdf, gradient, colour, samples.t, direction, samples.packed, **options, backend=backend
                )
            run = partial(_forward_backward, sums, leaves) if backward else torch.no_grad()(sums)
            operation = f"composite forward{' + backward' if backward else ''}"
            yield Case(operation, backend, len(samples.t), floor, run, graph=backend == "triton")


def main(args: argparse.Namespace) -> None:
    """Print the tables."""
    device = require_gpu()
    ceilings = calibrate()
    compare(_march_cases(args, device, ceilings), "rays", rounds=args.rounds, calls=args.calls)
    compare(_composite_cases(args, device, ceilings), "samples", rounds=args.rounds, calls=args.calls)


if __name__ == "__main__":
    main_exit(build_parser(), main)
