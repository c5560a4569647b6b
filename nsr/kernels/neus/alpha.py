"""NeuS opacity: the one place where a signed distance becomes an opacity."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


def annealed_cosine(cosine: Tensor, ratio: float | Tensor) -> Tensor:
    """Cosine used while the surface forms (Wang et al. 2021, NeuS, released code; not in the paper).

    Args:
        cosine: (S,) direction . unit normal. ratio: 0 at the start, 1 from the end of annealing on.

    Returns:
        (S,) in [-1, 0]: `-relu(0.5 - 0.5 c)` blended into `-relu(-c)`, so that at first back faces count too.
    """
    return -((1 - ratio) * torch.relu(0.5 - 0.5 * cosine) + ratio * torch.relu(-cosine))


def neus_alpha(sdf: Tensor, cosine: Tensor, delta: Tensor | float, sharpness: Tensor) -> Tensor:
    """Opacity of ray segments (Wang et al. 2021, NeuS, eq. 13), the SDF taken as linear along each segment.

    Evaluated as `1 - exp(log Phi(after) - log Phi(before))`: exact far outside and deep inside the surface, where the
    quotient of the logistic values Phi needs a small constant that fogs empty space.

    Args:
        sdf: (S,) at segment midpoints. cosine: (S,) in [-1, 0], see `annealed_cosine`.
        delta: segment length, unit frame. sharpness: scalar 1/s.

    Returns:
        (S,) in [0, 1]. Differentiable in all arguments.
    """
    half = cosine * (delta * 0.5)
    change = logsigmoid((sdf + half) * sharpness) - logsigmoid((sdf - half) * sharpness)
    return -torch.expm1(change.clamp(max=0))


def cell_visibility(sdf: Tensor, sharpness: Tensor, step: float, reach: float, threshold: float) -> Tensor:
    """The most that a sample within `reach` of a point can matter to any ray; 0 where it cannot.

    Outside the surface that is the opacity of a head-on step at the nearest distance. Inside, the opacity of a step stays
    high, but what is left of a ray falls with the logistic function of depth: beyond the depth where that is under
    `threshold`, samples are invisible behind the surface.

    Args:
        sdf: (P,) unit frame. reach: largest distance of the samples that the point stands for.

    Returns:
        (P,) in [0, 1].
    """
    nearest = sdf.sign() * (sdf.abs() - reach).clamp(min=0)
    alpha = neus_alpha(nearest, torch.full_like(sdf, -1.0), step, sharpness)
    remaining = torch.sigmoid(nearest * sharpness)
    return torch.where(nearest >= 0, alpha, torch.where(remaining > threshold, alpha, torch.zeros_like(alpha)))
