"""Hash encoding: forward, and forward with the gradient to the table.

Points are random in the unit cube, or evenly spaced along random chords of the unit ball, ray after ray. Back ends: the
reference in torch; Triton with the table in float32 and in float16 (gradients in float32 in both; clearing them is timed);
tiny-cuda-nn, which computes in float16, where it is installed.

Floor, with the ceilings measured in the same run:
  forward   sectors / gathers + bytes of positions and results / copy
  backward  + sectors of the float32 gradient / atomics + bytes of the result's gradient and of clearing the table's / copy
where sectors are the different 32-byte pieces of the table that 32 neighbouring points touch, summed over levels and points:
what caches and coalescing within a warp cannot spare. Coarse levels that stay in the L1 cache can do better than that.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from benchmarks.timing import Case, Ceilings, benchmark_parser, calibrate, compare, require_gpu, timing_options
from nsr.cli import main_exit
from nsr.kernels.hashgrid import HashGridSpec, TableStorage, hash_encode
from nsr.kernels.hashgrid.reference import find_corners

_WARP, _SECTOR_BYTES = 32, 32
_POINTS_PER_RAY = 512


def build_parser() -> argparse.ArgumentParser:
    """The program's options."""
    parser = timing_options(benchmark_parser(__doc__))
    grid_options(parser)
    parser.add_argument("--points", type=int, default=1 << 20, metavar="N", help="points, a multiple of 512; default 2^20")
    return parser


def grid_options(parser: argparse.ArgumentParser) -> None:
    """Options of the hash grid and of the points in it; defaults are those of the preset `nsr`."""
    parser.add_argument("--order", nargs="+", choices=["random", "rays"], default=["random", "rays"], help="default: both")
    for name, value in (("levels", 16), ("features", 2), ("log2-table", 19), ("base", 32), ("finest", 2048)):
        parser.add_argument(f"--{name}", type=int, default=value, metavar="N", help=f"hash grid, default {value}")


def grid_of(args: argparse.Namespace) -> HashGridSpec:
    """The hash grid that the options name."""
    return HashGridSpec(args.levels, args.features, args.log2_table, args.base, args.finest)


def unit_ball_points(kind: str, points: int, device: torch.device) -> Tensor:
    """Points (points, 3) in [-1, 1]^3: `random` in the cube, or `rays`, evenly spaced along chords of the ball."""
    generator = torch.Generator(device).manual_seed(1)
    if kind == "random":
        return torch.rand(points, 3, generator=generator, device=device) * 2 - 1
    ends = torch.randn(points // _POINTS_PER_RAY, 2, 3, generator=generator, device=device)
    first, last = torch.nn.functional.normalize(ends, dim=2).unbind(1)
    t = (torch.arange(_POINTS_PER_RAY, device=device) + 0.5)[:, None] / _POINTS_PER_RAY
    return torch.lerp(first[:, None], last[:, None], t).reshape(-1, 3)


def sectors(x: Tensor, spec: HashGridSpec, entry_bytes: int) -> int:
    """Different 32-byte sectors of the table that warps of neighbouring points x (S, 3), in [0, 1], touch on each level."""
    whole = x[: len(x) // _WARP * _WARP]
    total = 0
    for part in whole.split(1 << 16):
        index = find_corners(part, spec, spec.levels).index.reshape(8, spec.levels, -1, _WARP)
        touched = (index.long() * entry_bytes // _SECTOR_BYTES).permute(1, 2, 0, 3).reshape(-1, 8 * _WARP).sort(dim=1).values
        total += len(touched) + int((touched.diff(dim=1) != 0).sum())
    return total


def grid_floor(x: Tensor, spec: HashGridSpec, entry_bytes: int, ceilings: Ceilings, *, backward: bool) -> float:
    """Seconds; the formula is in the program's description."""
    results = 4 * len(x) * spec.levels * spec.features
    floor = sectors(x, spec, entry_bytes) / ceilings.gathers + (results + 12 * len(x)) / ceilings.copy
    if backward:
        entry = 4 * spec.features
        floor += sectors(x, spec, entry) / ceilings.atomics + (results + entry * spec.entries) / ceilings.copy
    return floor


def _cases(x: Tensor, kind: str, spec: HashGridSpec, ceilings: Ceilings) -> Iterator[Case]:
    table = (torch.randn(spec.entries, spec.features, device=x.device) * 0.1).requires_grad_()
    across = torch.randn(len(x), spec.levels * spec.features, device=x.device)
    # A back end's networks give gradients in the layout of its own result; that of `triton` is feature-major.
    gradients = {"triton": across.T.contiguous().T}
    floats = TableStorage(table.detach(), torch.zeros_like(table, requires_grad=False))
    halves = TableStorage(table.detach().half(), floats.gradient)
    variants = (
        ("reference", "reference", None, 4),
        ("triton float32", "triton", floats, 4),
        ("triton float16", "triton", halves, 2),
        ("tcnn", "tcnn", None, 2),
    )
    for backward in (False, True):
        for label, backend, storage, size in variants:
            floor = grid_floor(x, spec, size * spec.features, ceilings, backward=backward)
            encode = partial(hash_encode, x, table, spec, storage=storage, backend=backend)
            run = (
                partial(_forward_backward, encode, table, gradients.get(backend, across), storage)
                if backward
                else torch.no_grad()(encode)
            )
            name = f"forward{' + backward' if backward else ''}, {kind}"
            yield Case(name, label, len(x), floor, run, graph=backend == "triton")


def _forward_backward(encode: partial[Tensor], table: Tensor, gradient: Tensor, storage: TableStorage | None) -> None:
    table.grad = None
    if storage is not None:
        storage.gradient.zero_()
    encode().backward(gradient)


def main(args: argparse.Namespace) -> None:
    """Print the table."""
    device = require_gpu()
    spec, ceilings = grid_of(args), calibrate()
    for kind in args.order:
        x = (unit_ball_points(kind, args.points, device) + 1) / 2
        compare(_cases(x, kind, spec, ceilings), "points", rounds=args.rounds, calls=args.calls)


if __name__ == "__main__":
    main_exit(build_parser(), main)
