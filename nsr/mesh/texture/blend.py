"""One colour per surface point out of the best few photographs that see it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from nsr.mesh.texture.photo import Floats, Photo, look

POINTS_AT_ONCE = 1 << 17
_GAIN_POINTS = 100_000
_GAIN_LEVELS = (12.0, 243.0)  # darker and brighter pixels are noise or clipped and say nothing about exposure
_GAIN_QUALITY = 0.25  # of the best one's, from which on a photograph says something about exposure
_GAIN_PRIOR = 0.02  # share of an observation that draws a logarithmic gain towards 0
_GAIN_SPREAD = 0.1  # difference of logarithms at which two observations begin to count as of different things
_GAIN_ROUNDS = 5


class Best:
    """The photographs that see each of P points best, at most K of them, unordered.

    Attributes:
        quality: (P, K) float32, 0 where a place is free. view: (P, K) uint16, number of the photograph.
        colour: (P, K, 3) uint8.
    """

    def __init__(self, points: int, views: int) -> None:
        self.quality = np.zeros((points, views), dtype=np.float32)
        self.view = np.zeros((points, views), dtype=np.uint16)
        self.colour = np.zeros((points, views, 3), dtype=np.uint8)

    def add(self, number: int, photo: Photo, points: Floats, normals: Floats, *, max_angle: float, threads: int = 1) -> int:
        """Take in one photograph for all points (P, 3) with normals (P, 3); how many points it sees."""

        def part(chunk: slice) -> int:
            sight = look(photo, points[chunk], normals[chunk], max_angle)
            self._enter(chunk, number, sight.index, sight.quality, np.rint(sight.colour).astype(np.uint8))
            return len(sight.index)

        return int(sum(in_chunks(part, len(points), threads)))

    def _enter(self, chunk: slice, number: int, index: NDArray[np.int64], quality: Floats, colour: NDArray[np.uint8]) -> None:
        have = self.quality[chunk]
        place = have[index].argmin(axis=1)
        better = quality > have[index, place]
        index, place = index[better], place[better]
        have[index, place] = quality[better]
        self.view[chunk][index, place] = number
        self.colour[chunk][index, place] = colour[better]

    @property
    def seen(self) -> NDArray[np.bool_]:
        """Which points (P,) any photograph sees."""
        return np.asarray(self.quality.max(axis=1) > 0)


def in_chunks(work: Callable[[slice], int], count: int, threads: int) -> list[int]:
    """Results of `work` on consecutive slices of `count` points, on several threads."""
    chunks = [slice(start, min(start + POINTS_AT_ONCE, count)) for start in range(0, count, POINTS_AT_ONCE)]
    with ThreadPoolExecutor(max(1, threads)) as pool:
        return list(pool.map(work, chunks))


def exposure_gains(best: Best, views: int) -> Floats:
    """Factors (V, 3) on the photographs' sRGB values that make what several of them see agree; 1 on average.

    Least squares on the logarithms over pairs of photographs of one point, with a weak pull towards 1 and reweighting, so
    that highlights and misplaced pixels do not count (gain compensation after Brown and Lowe 2007).
    """
    several = np.flatnonzero((best.quality > 0).sum(axis=1) > 1)
    several = several[:: max(1, len(several) // _GAIN_POINTS)]
    gains = np.zeros((views, 3))
    if not len(several):
        return np.ones((views, 3), dtype=np.float32)
    quality, view, colour = best.quality[several], best.view[several].astype(np.int64), best.colour[several]
    one, other = np.triu_indices(quality.shape[1], k=1)
    usable = ((colour >= _GAIN_LEVELS[0]) & (colour <= _GAIN_LEVELS[1])).all(axis=2)
    usable &= quality > _GAIN_QUALITY * quality.max(axis=1, keepdims=True)
    point, pair = np.nonzero(usable[:, one] & usable[:, other])
    a, b = view[point, one[pair]], view[point, other[pair]]
    logs = np.log(np.maximum(colour, 1).astype(np.float64))
    for channel in range(3):
        excess = logs[point, one[pair], channel] - logs[point, other[pair], channel]
        for _ in range(_GAIN_ROUNDS):
            left = excess + gains[a, channel] - gains[b, channel]
            weight = 1.0 / (1.0 + (left / _GAIN_SPREAD) ** 2)
            gains[:, channel] = _solve_gains(a, b, excess, weight, views)
    return np.exp(gains).astype(np.float32)


def _solve_gains(a: NDArray[np.int64], b: NDArray[np.int64], excess: Floats, weight: Floats, views: int) -> Floats:
    """Minimum of `sum weight (excess + g_a - g_b)^2` with a pull towards 0 on every g (V,)."""
    matrix = np.zeros((views, views))
    np.add.at(matrix, (a, b), -weight)
    matrix += matrix.T
    total = np.bincount(a, weight, views) + np.bincount(b, weight, views)
    matrix[np.diag_indices(views)] = total * (1.0 + _GAIN_PRIOR) + 1e-9
    right = np.bincount(b, weight * excess, views) - np.bincount(a, weight * excess, views)
    return np.asarray(np.linalg.solve(matrix, right))


def blended(best: Best, gains: Floats, sharpness: float, outlier: float, threads: int = 1) -> Floats:
    """Colours (P, 3) in 0..255; 0 where no photograph sees the point.

    A photograph's weight is its quality over the best one's to the power `sharpness`: continuous over the surface, so that
    neither charts nor faces get borders. With `outlier` > 0 it falls with the distance d from the median colour (weighted
    with the quality) as exp(-d^2 / (2 s^2)), s = 255 * outlier.
    """
    out = np.zeros((len(best.quality), 3), dtype=np.float32)

    def part(chunk: slice) -> int:
        quality = best.quality[chunk]
        top = quality.max(axis=1, keepdims=True)
        share = np.asarray(quality / np.where(top > 0, top, 1.0), dtype=np.float32)
        weight = np.asarray(share ** np.float32(sharpness), dtype=np.float32)
        colour = best.colour[chunk].astype(np.float32) * gains[best.view[chunk]]
        if outlier > 0:
            # The median is of gentler weights: the best photograph alone must not be able to outvote the others.
            away = ((colour - weighted_median(colour, share)[:, None]) ** 2).mean(axis=2)
            weight *= np.maximum(np.exp(-away / (2.0 * (255.0 * outlier) ** 2)), 1e-6)
        total = weight.sum(axis=1, keepdims=True)
        mean = np.einsum("pk,pkc->pc", weight, colour) / np.where(total > 0, total, 1.0)
        out[chunk] = np.clip(mean, 0.0, 255.0)
        return len(mean)

    in_chunks(part, len(out), threads)
    return out


def weighted_median(values: Floats, weight: Floats) -> Floats:
    """Median (P, C) of values (P, K, C) with weights (P, K), per channel."""
    order = np.argsort(values, axis=1)
    heap = np.cumsum(np.take_along_axis(np.broadcast_to(weight[..., None], values.shape), order, axis=1), axis=1)
    middle = (heap >= 0.5 * heap[:, -1:]).argmax(axis=1)
    rank = np.take_along_axis(order, middle[:, None], axis=1)
    return np.asarray(np.take_along_axis(values, rank, axis=1)[:, 0])
