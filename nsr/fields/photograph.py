"""What photographs of one scene differ in although they show the same: exposure and white balance."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn


class Exposure(nn.Module):
    """Colour transform of each of V training photographs, applied to rendered colours.

    "gain": a factor a channel, the exponential of what is learned. "affine": a 3 x 3 matrix and an offset (Rematas et al.
    2022, Urban Radiance Fields, exposure compensation), learned as what differs from the identity. Colours are sRGB: its
    transfer curve is nearly a power, so that a factor of the light is nearly a factor of the values.

    Scene and photographs could share any further transform between them. Therefore the mean over the photographs is taken
    off what is learned: the logarithms of the gains sum to 0, the affine maps have the identity as their mean, and what is
    rendered without an image has the photographs' average exposure. Where a photograph is overexposed, the transform is not
    what the camera did, which cut off at white.

    Attributes:
        table: (V, 3) logarithms of gains, or (V, 12) rows of the matrix' and offset's difference from the identity.
    """

    def __init__(self, kind: Literal["gain", "affine"], views: int):
        super().__init__()
        self.kind = kind
        self.table = nn.Parameter(torch.zeros(views, 3 if kind == "gain" else 12))

    def forward(self, colour: Tensor, view: Tensor, share: Tensor | None = None) -> Tensor:
        """Colours (R, 3) as photographs `view` (R,) have them.

        Args:
            colour: (R, 3), premultiplied by `share`. view: (R,) integers. share: (R,) in [0, 1], how much of the pixel the
                colour stands for, which the offset is multiplied with; None: all of it.
        """
        own = self._centred()
        if self.kind == "gain":
            return colour * own.exp().index_select(0, view)
        rows = own.index_select(0, view)
        offset = rows[:, 9:] if share is None else share[:, None] * rows[:, 9:]
        return colour + (rows[:, :9].reshape(-1, 3, 3) * colour[:, None]).sum(2) + offset

    def transforms(self) -> Tensor:
        """(V, 3, 4): the matrix and, as its last column, the offset of each photograph; not differentiated."""
        own = self._centred().detach()
        if self.kind == "gain":
            return torch.cat([torch.diag_embed(own.exp()), torch.zeros_like(own)[..., None]], dim=2)
        matrix = own[:, :9].reshape(-1, 3, 3) + torch.eye(3, device=own.device)
        return torch.cat([matrix, own[:, 9:, None]], dim=2)

    def _centred(self) -> Tensor:
        return self.table - self.table.mean(0)
