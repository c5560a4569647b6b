"""SDF core: encoding, network, closed-form gradient, and the backward pass of the Eikonal loss.

Back ends: the reference in torch; Triton with the table in float32 and in float16; tiny-cuda-nn's grid with the gradient by
six finite differences, as it has no closed form, where it is installed.

Floor, with the ceilings measured in the same run: the sum of
  forward   sectors / gathers                     (sectors as in benchmarks/hashgrid.py; what the backward needs is kept)
  backward  sectors of the float32 gradient / atomics + bytes of clearing it / copy
  network   samples * flops / matrix,  flops = 2 H (6 K + 3 (1 + G)): of a network of K inputs, H units and 1 + G outputs the
            first layer takes part in six products, the second in three (docs/performance.md)
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from benchmarks.hashgrid import grid_of, grid_options, sectors, unit_ball_points
from benchmarks.timing import Case, Ceilings, benchmark_parser, calibrate, compare, require_gpu, timing_options
from nsr.cli import main_exit
from nsr.kernels.hashgrid import HashGridSpec, TableStorage
from nsr.kernels.sdf import SdfWeights, sdf_value, sdf_with_gradient

_BETA, _EIKONAL = 100.0, 0.1
_TAP = 1 / 1024  # finite differences, unit frame


def build_parser() -> argparse.ArgumentParser:
    """The program's options."""
    parser = timing_options(benchmark_parser(__doc__))
    grid_options(parser)
    parser.add_argument("--samples", type=int, default=1 << 18, metavar="N", help="a multiple of 512; default 2^18")
    parser.add_argument("--hidden", type=int, default=64, metavar="N", help="units of the hidden layer, default 64")
    parser.add_argument("--geometry", type=int, default=15, metavar="N", help="geometry features, default 15")
    return parser


def _weights(spec: HashGridSpec, hidden: int, geometry: int, device: torch.device) -> SdfWeights:
    inputs, outputs = 3 + spec.levels * spec.features, 1 + geometry
    sizes = ((hidden, inputs), (hidden,), (outputs, hidden), (outputs,))
    W1, b1, W2, b2 = ((torch.randn(size, device=device) * size[-1] ** -0.5).requires_grad_() for size in sizes)
    return SdfWeights(W1, b1, W2, b2, _BETA)


def _floor(x: Tensor, spec: HashGridSpec, net: SdfWeights, entry_bytes: int, ceilings: Ceilings) -> float:
    unit, entry = (x + 1) / 2, 4 * spec.features
    grid = sectors(unit, spec, entry_bytes) / ceilings.gathers + sectors(unit, spec, entry) / ceilings.atomics
    flops = 2 * len(x) * (6 * net.W1.numel() + 3 * net.W2.numel())
    return grid + entry * spec.entries / ceilings.copy + flops / ceilings.matrix


def _eikonal(gradient: Callable[[], Tensor], parameters: list[Tensor], sink: Tensor | None) -> None:
    for parameter in parameters:
        parameter.grad = None
    if sink is not None:
        sink.zero_()
    (_EIKONAL * (gradient().norm(dim=1) - 1).square().mean()).backward()


def _differences(x: Tensor, table: Tensor, spec: HashGridSpec, net: SdfWeights) -> Tensor:
    """Gradient (S, 3) by central differences; the value at x itself is computed too, as training needs it."""
    steps = torch.cat([torch.eye(3, device=x.device), -torch.eye(3, device=x.device)]) * _TAP
    points = torch.cat([x[None], x + steps[:, None]]).reshape(-1, 3).clamp(-1, 1)
    sdf = sdf_value(points, table, spec, net, backend="tcnn")[0].reshape(7, -1)
    return (sdf[1:4] - sdf[4:7]).T / (2 * _TAP)


def _cases(x: Tensor, kind: str, spec: HashGridSpec, net: SdfWeights, ceilings: Ceilings) -> Iterator[Case]:
    table = (torch.randn(spec.entries, spec.features, device=x.device) * 0.1).requires_grad_()
    parameters = [table, net.W1, net.b1, net.W2, net.b2]
    floats = TableStorage(table.detach(), torch.zeros_like(table, requires_grad=False))
    halves = TableStorage(table.detach().half(), floats.gradient)
    variants = (
        ("reference", "reference", None, 4),
        ("triton float32", "triton", floats, 4),
        ("triton float16", "triton", halves, 2),
    )
    name = f"SDF, gradient, Eikonal, {kind}"
    for label, backend, storage, size in variants:

        def gradient(backend: str = backend, storage: TableStorage | None = storage) -> Tensor:
            return sdf_with_gradient(x, table, spec, net, storage=storage, backend=backend).gradient

        run = partial(_eikonal, gradient, parameters, None if storage is None else storage.gradient)
        floor = _floor(x, spec, net, size * spec.features, ceilings)
        yield Case(name, label, len(x), floor, run, graph=backend == "triton")
    differences = partial(_eikonal, partial(_differences, x, table, spec, net), parameters, None)
    yield Case(name, "tcnn, 6 differences", len(x), _floor(x, spec, net, 2 * spec.features, ceilings), differences)


def main(args: argparse.Namespace) -> None:
    """Print the table."""
    device = require_gpu()
    spec, ceilings = grid_of(args), calibrate()
    net = _weights(spec, args.hidden, args.geometry, device)
    for kind in args.order:
        x = unit_ball_points(kind, args.samples, device)
        compare(_cases(x, kind, spec, net, ceilings), "samples", rounds=args.rounds, calls=args.calls)


if __name__ == "__main__":
    main_exit(build_parser(), main)
