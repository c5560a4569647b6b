"""LPIPS (Zhang et al. 2018, version 0.1, AlexNet) from weights that the user provides.

No package ships the backbone, and nothing is downloaded here. A folder holds both files: `alexnet*.pth`, torchvision's
ImageNet weights, and `alex.pth`, the linear heads that the packages `lpips` and `torchmetrics` ship.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nsr.errors import DataError

# (parameter, stride, padding) of the convolutions, and whether a max pooling of 3, stride 2, comes before.
_LAYERS = (
    ("features.0", 4, 2, False),
    ("features.3", 1, 2, True),
    ("features.6", 1, 1, True),
    ("features.8", 1, 1, False),
    ("features.10", 1, 1, False),
)
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # of channels in [-1, 1]
_EPS = 1e-10
SMALLEST = 63  # px, image side under which a pooling has nothing to pool

Lpips = Callable[[NDArray[np.float64], NDArray[np.float64]], float]


def load_lpips(folder: Path) -> Lpips:
    """A function of two images (H, W, 3) in [0, 1], sides of at least `SMALLEST`: their LPIPS, 0 for equal ones.

    Raises:
        DataError: a file is missing, unreadable, or lacks a layer.
    """
    import torch

    backbone = _read(next(iter(sorted(folder.glob("alexnet*.pth"))), folder / "alexnet.pth"))
    heads = _read(folder / "alex.pth")
    try:
        layers = [(backbone[f"{name}.weight"], backbone[f"{name}.bias"]) for name, *_ in _LAYERS]
        weights = [heads[f"lin{k}.model.1.weight"].reshape(-1) for k in range(len(_LAYERS))]
    except KeyError as error:
        raise DataError(f"{folder}: no {error} in the LPIPS weights; see docs/evaluation.md for the two files") from error
    if any(len(bias) != len(weight) for (_, bias), weight in zip(layers, weights, strict=True)):
        raise DataError(f"{folder}: the heads of LPIPS do not fit the backbone; both must be AlexNet's, see docs/evaluation.md")

    @torch.no_grad()
    def lpips(image: NDArray[np.float64], reference: NDArray[np.float64]) -> float:
        pair = torch.from_numpy(np.stack([image, reference])).float().permute(0, 3, 1, 2) * 2.0 - 1.0
        total = 0.0
        for features, weight in zip(_features(pair, layers), weights, strict=True):
            unit = features / ((features**2).sum(dim=1, keepdim=True).sqrt() + _EPS)
            total += float((((unit[0] - unit[1]) ** 2) * weight[:, None, None]).sum(dim=0).mean())
        return total

    return lpips


def _features(images: Any, layers: list[tuple[Any, Any]]) -> list[Any]:
    """Rectified outputs (B, C, H', W') of the five convolutions for images (B, 3, H, W) in [-1, 1]."""
    import torch
    from torch.nn import functional

    x = (images - torch.tensor(_SHIFT)[:, None, None]) / torch.tensor(_SCALE)[:, None, None]
    out = []
    for (weight, bias), (_, stride, padding, pooled) in zip(layers, _LAYERS, strict=True):
        if pooled:
            x = functional.max_pool2d(x, 3, 2)
        x = functional.conv2d(x, weight, bias, stride=stride, padding=padding).relu()
        out.append(x)
    return out


def _read(path: Path) -> dict[str, Any]:
    """A state dict; nothing but tensors is unpickled."""
    import torch

    try:
        return dict(torch.load(path, map_location="cpu", weights_only=True))
    except FileNotFoundError as error:
        raise DataError(
            f"{path}: no such LPIPS weights; see docs/evaluation.md, or leave evaluate.lpips_weights empty"
        ) from error
    except Exception as error:  # torch's reader fails in many ways on a damaged file
        raise DataError(f"{path}: not readable as weights ({type(error).__name__}); copy it again") from error
