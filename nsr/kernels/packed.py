"""Samples of many rays in one flat list, ray after ray."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Packed(NamedTuple):
    """Which of S packed samples belong to which of R rays.

    Attributes:
        ray: (S,) int64 ray of each sample, non-decreasing.
        starts: (R,) int64 first sample of each ray. counts: (R,) int64 samples of each ray; may be 0.
    """

    ray: Tensor
    starts: Tensor
    counts: Tensor

    @classmethod
    def from_counts(cls, counts: Tensor) -> Packed:
        """Build from the (R,) number of samples of each ray."""
        ends = counts.cumsum(0)
        ray = torch.repeat_interleave(torch.arange(counts.numel(), device=counts.device), counts)
        return cls(ray, ends - counts, counts)
