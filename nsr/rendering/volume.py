"""NeuS volume rendering of rays (Wang et al. 2021): march, query the field, opacity, composite, background."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from nsr.fields.model import SurfaceModel
from nsr.kernels.composite import composite, transmittance_weights
from nsr.kernels.march import Samples, march
from nsr.kernels.neus.alpha import annealed_cosine, neus_alpha
from nsr.kernels.packed import Packed


class Rendered(NamedTuple):
    """R rays and the S samples behind them.

    Attributes:
        colour: (R, 3), background included. opacity: (R,) of the unit ball. depth: (R,) weighted distance along the
        unit-length direction, unit frame (0 where nothing). normal: (R, 3) weighted sum of unit normals.
        sdf, t, weights: (S,). gradient: (S, 3). position: (S, 3). packed: rays of the samples.
    """

    colour: Tensor
    opacity: Tensor
    depth: Tensor
    normal: Tensor
    sdf: Tensor
    gradient: Tensor
    position: Tensor
    t: Tensor
    weights: Tensor
    packed: Packed


def step_length(steps: int) -> float:
    """Length of one of `steps` marching steps along the diagonal of the cube [-1, 1]^3, unit frame."""
    return 2.0 * math.sqrt(3.0) / steps


def draw_samples(
    origin: Tensor,
    direction: Tensor,
    occupied: Tensor,
    step: float,
    generator: torch.Generator | None,
    *,
    backend: str = "reference",
) -> Samples:
    """Samples of rays (R, 3), (R, 3); jittered per ray if a generator is given, centred otherwise."""
    rays = origin.shape[0]
    if generator is None:
        jitter = torch.full((rays,), 0.5, device=origin.device)
    else:
        jitter = torch.rand(rays, generator=generator, device=origin.device)
    return march(origin, direction, occupied, step=step, jitter=jitter, backend=backend)


def render_samples(
    model: SurfaceModel,
    origin: Tensor,
    direction: Tensor,
    samples: Samples,
    *,
    step: float,
    cosine_ratio: float,
    background: Tensor | None,
    view: Tensor | None = None,
) -> Rendered:
    """Render rays from their samples.

    Args:
        origin, direction: (R, 3) unit frame. samples: from `draw_samples` with step length `step`.
        cosine_ratio: see `annealed_cosine`; 1 when not training.
        background: (R, 3) colours behind the ball, or None for none (black).
        view: (R,) training photographs, whose appearance codes are used; None: the mean code.
    """
    packed = samples.packed
    rays = direction[packed.ray]
    position = (origin[packed.ray] + rays * samples.t[:, None]).clamp(-1, 1)
    sdf, features, gradient = model.sdf(position)
    normal = torch.nn.functional.normalize(gradient, dim=1, eps=1e-6)
    cosine = annealed_cosine((rays * normal).sum(1), cosine_ratio)
    alpha = neus_alpha(sdf, cosine, step, model.sharpness())
    weights = transmittance_weights(alpha, packed)
    colour = model.radiance.shade(
        position, features, gradient, direction, packed, codes=model.codes(len(direction), view)
    )  # fmt: skip
    ones = torch.ones_like(weights)
    sums = composite(weights, torch.cat([colour, normal, samples.t[:, None], ones[:, None]], dim=1), packed)
    opacity = sums[:, 7]
    front = sums[:, :3]
    if background is not None:
        front = front + (1 - opacity)[:, None] * background
    depth = sums[:, 6] / opacity.clamp(min=1e-6)
    return Rendered(front, opacity, depth, sums[:, 3:6], sdf, gradient, position, samples.t, weights, packed)


def background_colour(
    model: SurfaceModel, origin: Tensor, direction: Tensor, generator: torch.Generator | None, view: Tensor | None = None
) -> Tensor | None:
    """Colours (R, 3) behind the unit ball as the configuration says; None for `none`.

    `random` draws one colour for each ray, and is black without a generator. `view`: as in `render_samples`.
    """
    kind = model.config.background.kind
    if kind == "none":
        return None
    if kind == "learned":
        assert model.background is not None
        shift = torch.full_like(origin[:, 0], 0.5)
        if generator is not None:
            shift = torch.rand(len(origin), generator=generator, device=origin.device)
        behind: Tensor = model.background(origin, direction, shift, codes=model.codes(len(origin), view))
        return behind
    if kind == "random" and generator is not None:
        return torch.rand(origin.shape[0], 3, generator=generator, device=origin.device)
    return torch.full_like(origin, plain_background(kind))


def background_where(
    model: SurfaceModel, origin: Tensor, direction: Tensor, shift: Tensor, wanted: Tensor, codes: Tensor | None
) -> Tensor:
    """Colours (R, 3) of the learned background on the rays (R,) that are wanted, 0 on others, which cost nothing.

    Args:
        origin, direction: (R, 3) unit frame. shift: (R,), see `BackgroundField`. wanted: (R,) bool, on the device, not
            waited for. codes: (R, A), see `SurfaceModel.codes`.
    """
    assert model.background is not None
    # Wanted rays to the front; place R takes all others. The bounds matter in a rehearsal, where `wanted` is garbage.
    number = len(wanted)
    place = torch.cumsum(wanted, 0)
    mine = (place - 1).clamp(0, number - 1)
    order = torch.zeros(number + 1, dtype=torch.long, device=wanted.device)
    order.scatter_(0, torch.where(wanted, mine, number), torch.arange(number, device=wanted.device))
    first = order[:-1]
    origin, direction, shift = (part.index_select(0, first) for part in (origin, direction, shift))
    own = None if codes is None else codes.index_select(0, first)
    packed = model.background(origin, direction, shift, place[-1:].int(), own)
    return torch.where(wanted[:, None], packed.index_select(0, mine), 0.0)


def as_photographed(
    model: SurfaceModel, colour: Tensor, view: Tensor, *, opacity: Tensor | None = None, backdrop: Tensor | None = None
) -> Tensor:
    """Rendered colours (R, 3) with the exposure of photographs `view` (R,); themselves if the model has none.

    Args:
        opacity: (R,) of an object that was cut out of its photographs and put before a `backdrop` (R, 3), None for black,
            which no camera has seen and no exposure changes; None: the photographs are whole.
    """
    if model.exposure is None:
        return colour
    rest = None if opacity is None or backdrop is None else (1 - opacity)[:, None] * backdrop
    own: Tensor = model.exposure(colour if rest is None else colour - rest, view, opacity)
    return own if rest is None else own + rest


def plain_background(kind: str) -> float:
    """Grey level in [0, 1] behind the unit ball for every kind that is not learned, as it is rendered without a generator."""
    return 1.0 if kind == "white" else 0.0
