"""Small ReLU network, 32-64-64-3 without biases: forward, and forward with the gradients to input and weights.

Back ends: the reference in torch, in float32 and under bf16 autocast; Triton; tiny-cuda-nn where it is installed.

Floor, with the ceilings measured in the same run: the larger of
  flops / matrix   2 per weight and sample forward, 4 more backward
  bytes / copy     input and output once forward; input, its gradient and the output's gradient once more backward, float32
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from benchmarks.timing import Case, Ceilings, benchmark_parser, calibrate, compare, require_gpu, timing_options
from nsr.cli import main_exit
from nsr.kernels.mlp import mlp


def build_parser() -> argparse.ArgumentParser:
    """The program's options."""
    parser = timing_options(benchmark_parser(__doc__))
    parser.add_argument("--samples", type=int, default=1 << 20, metavar="N", help="rows, default 2^20")
    parser.add_argument("--widths", type=int, nargs="+", default=[32, 64, 64, 3], metavar="N", help="default 32 64 64 3")
    return parser


def _floor(samples: int, widths: Sequence[int], ceilings: Ceilings, *, backward: bool) -> float:
    weights = sum(first * second for first, second in pairwise(widths))
    flops = (6 if backward else 2) * weights * samples
    numbers = widths[0] + widths[-1] + (2 * widths[0] + widths[-1] if backward else 0)
    return max(flops / ceilings.matrix, 4 * numbers * samples / ceilings.copy)


def _bf16(forward: Callable[[], Tensor]) -> Tensor:
    with torch.autocast("cuda", torch.bfloat16, cache_enabled=False):
        return forward()


def _forward_backward(forward: Callable[[], Tensor], leaves: Sequence[Tensor], gradient: Tensor) -> None:
    for leaf in leaves:
        leaf.grad = None
    out = forward()
    out.backward(gradient.to(out.dtype))


def _cases(samples: int, widths: Sequence[int], device: torch.device, ceilings: Ceilings) -> Iterator[Case]:
    x = torch.randn(samples, widths[0], device=device, requires_grad=True)
    weights = [(torch.randn(out, into, device=device) * into**-0.5).requires_grad_() for into, out in pairwise(widths)]
    gradient = torch.randn(samples, widths[-1], device=device)
    biases = [None] * len(weights)
    plain = partial(mlp, x, weights, biases)
    variants: list[tuple[str, Callable[[], Tensor]]] = [
        ("reference float32", plain),
        ("reference bf16", partial(_bf16, plain)),
        ("triton", partial(plain, backend="triton")),
        ("tcnn", partial(plain, backend="tcnn")),
    ]
    name = "-".join(map(str, widths))
    for backward in (False, True):
        for label, forward in variants:
            run = partial(_forward_backward, forward, [x, *weights], gradient) if backward else torch.no_grad()(forward)
            floor = _floor(samples, widths, ceilings, backward=backward)
            operation = f"{name} forward{' + backward' if backward else ''}"
            yield Case(operation, label, samples, floor, run, graph=label != "tcnn")


def main(args: argparse.Namespace) -> None:
    """Print the table."""
    device = require_gpu()
    ceilings = calibrate()
    compare(_cases(args.samples, args.widths, device, ceilings), "samples", rounds=args.rounds, calls=args.calls)


if __name__ == "__main__":
    main_exit(build_parser(), main)
