"""Terms that compare rendered rays with photographs."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import huber_loss

_EDGE = 1e-3  # opacities are kept this far from 0 and 1, so that one wrong ray cannot dominate a batch


def colour_l1(rendered: Tensor, observed: Tensor) -> Tensor:
    """Mean absolute difference of the channels: (R, 3), (R, 3) -> (R,)."""
    return (rendered - observed).abs().mean(1)


def colour_mse(rendered: Tensor, observed: Tensor) -> Tensor:
    """Mean squared difference of the channels: (R, 3), (R, 3) -> (R,)."""
    return (rendered - observed).square().mean(1)


def colour_huber(rendered: Tensor, observed: Tensor) -> Tensor:
    """Mean Huber loss of the channels with delta 1 (Huber 1964): (R, 3), (R, 3) -> (R,); `d^2 / 2` up to a difference d of 1."""
    return huber_loss(rendered, observed, reduction="none", delta=1.0).mean(1)


def mask_entropy(opacity: Tensor, mask: Tensor) -> Tensor:
    """Binary cross entropy of opacity (R,) with the mask (R,) in {0, 1} -> (R,)."""
    opacity = opacity.clamp(_EDGE, 1 - _EDGE)
    return -(mask * opacity.log() + (1 - mask) * (1 - opacity).log())


def opaque_entropy(opacity: Tensor) -> Tensor:
    """Binary entropy of opacity: (R,) -> (R,); smallest where a ray is fully opaque or fully clear."""
    opacity = opacity.clamp(_EDGE, 1 - _EDGE)
    return mask_entropy(opacity, opacity)
