"""Samples along rays inside the unit ball, empty cells skipped."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from nsr.kernels.backend import choose
from nsr.kernels.gpu import require_triton
from nsr.kernels.march import reference
from nsr.kernels.march.layout import MOST_CELLS_PER_AXIS, OccupancyBits, PaddedSamples, blocks, words
from nsr.kernels.packed import Packed

__all__ = ["OccupancyBits", "PaddedSamples", "Samples", "march", "march_padded", "pack_occupancy"]


def _nerfacc(origin: Tensor, direction: Tensor, occupied: Tensor, step: float, jitter: Tensor) -> tuple[Tensor, Tensor]:
    from nsr.kernels.march import nerfacc_adapter

    return nerfacc_adapter.march(origin, direction, occupied, step, jitter)


def _triton(origin: Tensor, direction: Tensor, occupied: Tensor, step: float, jitter: Tensor) -> tuple[Tensor, Tensor]:
    require_triton(origin.device)
    from nsr.kernels.march import triton

    return triton.march(origin, direction, occupied, step, jitter)


def _triton_pack(occupied: Tensor, out: OccupancyBits | None) -> OccupancyBits:
    require_triton(occupied.device)
    from nsr.kernels.march import triton

    return triton.pack_occupancy(occupied, out)


def _triton_padded(
    origin: Tensor, direction: Tensor, bits: OccupancyBits, *, step: float, jitter: Tensor, live: Tensor, budget: int, first: int
) -> PaddedSamples:
    require_triton(origin.device)
    from nsr.kernels.march import triton

    return triton.march_padded(origin, direction, bits, step=step, jitter=jitter, live=live, budget=budget, first=first)


_IMPLEMENTATIONS = {"reference": reference.march, "nerfacc": _nerfacc, "triton": _triton}
_PACK = {"reference": reference.pack_occupancy, "triton": _triton_pack}
_PADDED = {"reference": reference.march_padded, "triton": _triton_padded}


class Samples(NamedTuple):
    """S samples: midpoints `t` (S,) along unit-length directions, and which ray each belongs to."""

    t: Tensor
    packed: Packed


def march(
    origin: Tensor, direction: Tensor, occupied: Tensor, *, step: float, jitter: Tensor, backend: str = "reference"
) -> Samples:
    """Equal steps through the unit ball, keeping midpoints that lie in occupied cells.

    Args:
        origin, direction: (R, 3) unit frame, directions of length 1.
        occupied: (G, G, G) bool over [-1, 1]^3, indexed [x, y, z].
        step: step length, unit frame.
        jitter: (R,) in [0, 1), shift of a ray's samples in steps.

    Returns:
        Samples, near to far within each ray. Rays that miss the ball or meet no occupied cell have none. Not
        differentiable.
    """
    t, counts = choose("march", _IMPLEMENTATIONS, backend)(origin, direction, occupied, step, jitter)
    return Samples(t, Packed.from_counts(counts))


def pack_occupancy(occupied: Tensor, *, out: OccupancyBits | None = None, backend: str = "reference") -> OccupancyBits:
    """One bit a cell and one bit a block of cells.

    Args:
        occupied: (G, G, G) bool, indexed [x, y, z].
        out: filled in place and returned, so that whoever holds it sees the new grid (a captured graph does).

    Raises:
        ValueError: no cube, too fine for 32-bit cell indices, or `out` is of another grid. BackendUnavailable: see `choose`.
    """
    size = occupied.shape[0]
    if tuple(occupied.shape) != (size,) * 3 or not 1 <= size <= MOST_CELLS_PER_AXIS:
        raise ValueError(f"pack_occupancy: occupied {tuple(occupied.shape)}, needed is a cube of at most {MOST_CELLS_PER_AXIS}^3")
    if out is not None:
        _check_bits(out, size)
    bits: OccupancyBits = choose("pack_occupancy", _PACK, backend)(occupied, out)
    return bits


def march_padded(
    origin: Tensor,
    direction: Tensor,
    bits: OccupancyBits,
    *,
    step: float,
    jitter: Tensor,
    live: Tensor,
    budget: int,
    first: int = 0,
    backend: str = "reference",
) -> PaddedSamples:
    """The samples of `march` in arrays of fixed length; `triton` never waits for the device, so that a graph can capture it.

    Args:
        origin, direction: (R, 3) unit frame, directions of length 1.
        bits: from `pack_occupancy`.
        step: step length, unit frame.
        jitter: (R,) in [0, 1), shift of a ray's samples in steps.
        live: (1,) int32 on the device: rays from this one on have no samples and are not kept.
        budget: most samples. first: rows before the first sample.

    Returns:
        PaddedSamples. Not differentiable.

    Raises:
        ValueError: shapes do not fit. BackendUnavailable: see `choose`.
    """
    rays = len(origin)
    if tuple(origin.shape) != (rays, 3) or origin.shape != direction.shape or tuple(jitter.shape) != (rays,) or not rays:
        raise ValueError(
            f"march_padded: origin {tuple(origin.shape)}, direction {tuple(direction.shape)}, jitter {tuple(jitter.shape)}"
        )
    if tuple(live.shape) != (1,) or budget < 1 or first < 0:
        raise ValueError(f"march_padded: live {tuple(live.shape)}, budget {budget}, first {first}")
    _check_bits(bits, bits.resolution)
    run = choose("march_padded", _PADDED, backend)
    samples: PaddedSamples = run(origin, direction, bits, step=step, jitter=jitter, live=live, budget=budget, first=first)
    return samples


def _check_bits(bits: OccupancyBits, resolution: int) -> None:
    fits = bits.resolution == resolution and len(bits.fine) == words(resolution**3)
    if not fits or len(bits.coarse) != words(blocks(resolution) ** 3):
        raise ValueError(f"occupancy bits of {bits.resolution}^3 cells in {len(bits.fine)} words for {resolution}^3 cells")
