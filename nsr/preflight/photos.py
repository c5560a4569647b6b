"""Photographs and masks of a prepared scene, reduced and measured: sharpness, brightness, doubles, masks against the region, colours of
the sparse points against the photographs that see them."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nsr.conventions import MASK_IGNORE, MASK_OBJECT, Array, project
from nsr.preflight.geometry import in_ball
from nsr.scene.images import load_image, load_mask
from nsr.scene.scene import Scene, View

_THUMB = 48  # px per side of what doubles are found with
_MASK_SIZE = 256  # px, longest side of the reduced masks
_DARK, _BRIGHT = 5, 250  # grey values up to and from which detail is lost
_LIMIT_SIZE = 400  # px, longest side on which dark and bright parts are followed to the border
_FEW_POINTS = 30  # sparse points of a photograph under which their colours say nothing
_GREY = np.array([0.299, 0.587, 0.114])  # of red, green and blue, as in Pillow's conversion


@dataclass(frozen=True)
class PhotoFacts:
    """Measures of one view.

    Attributes:
        sharpness: mean squared Laplacian over the variance of grey, within the unit ball's outline. brightness: mean grey
            there, 0 to 1. clipped: share of pixels there that are black or white; without a mask such a backdrop, which reaches
            the photograph's border, does not count. thumb: (48 * 48,) grey, mean 0 and length 1.
        points_agree: correlation of grey between the sparse points that the view sees and the photograph where they project, times
            the share of them that projects into it; about 1 for a right pose, about 0 for a wrong one, NaN for few points.
        object_share: of the photograph, NaN without a mask. object_in_ball, object_outside: shares of the pixels within and
            outside the outline that are object. mask_in_ball: share of the object within the outline. empty where undefined: NaN.
    """

    sharpness: float
    brightness: float
    clipped: float
    thumb: NDArray[np.float32]
    points_agree: float = float("nan")
    object_share: float = float("nan")
    object_in_ball: float = float("nan")
    object_outside: float = float("nan")
    mask_in_ball: float = float("nan")

    @property
    def inverted(self) -> bool:
        """Whether the mask looks inverted: background within the outline and object outside of it."""
        return self.object_outside > 0.5 and self.object_outside > self.object_in_ball


def measure_photos(scene: Scene, threads: int = 1) -> tuple[list[PhotoFacts], list[NDArray[np.uint8] | None]]:
    """Measures of every view, and its reduced mask (h, w) or None.

    Raises:
        DataError: a photograph or mask cannot be read.
    """
    unit_w2c = scene.unit_w2c(scene.views)
    with ThreadPoolExecutor(threads) as pool:
        found = list(pool.map(_measure, scene.views, unit_w2c, _own_points(scene)))
    return [facts for facts, _ in found], [mask for _, mask in found]


def doubles(facts: Sequence[PhotoFacts], tolerance: float = 5e-4) -> list[tuple[int, int]]:
    """Pairs of views whose photographs show the same: 1 - correlation of their thumbnails under the tolerance."""
    thumbs = np.stack([item.thumb for item in facts])
    first, second = np.nonzero(np.triu(thumbs @ thumbs.T, k=1) > 1.0 - tolerance)
    return list(zip(first.tolist(), second.tolist(), strict=True))


def similarity(first: PhotoFacts, second: PhotoFacts) -> float:
    """Correlation of two photographs, reduced."""
    return float(first.thumb @ second.thumb)


def _own_points(scene: Scene) -> list[tuple[Array, Array]]:
    """Of every view the sparse points that it sees: xyz (P, 3) in the world and grey (P,)."""
    if scene.points is None:
        return [(np.zeros((0, 3)), np.zeros(0))] * len(scene.views)
    grey = scene.points.rgb @ _GREY
    rows, seer = scene.sightings(scene.views)
    own = [rows[seer == index] for index in range(len(scene.views))]
    return [(scene.points.xyz[part], grey[part]) for part in own]


def _measure(view: View, unit_w2c: Array, points: tuple[Array, Array]) -> tuple[PhotoFacts, NDArray[np.uint8] | None]:
    from PIL import Image

    image = Image.fromarray(load_image(view.image)).convert("L")
    thumb = np.asarray(image.resize((_THUMB, _THUMB), Image.Resampling.BOX), np.float32).ravel()
    thumb = thumb - thumb.mean()
    grey = np.asarray(image, np.float32)
    where = in_ball(view, unit_w2c, (view.height, view.width))
    where = where if where.sum() >= 100 else np.ones_like(where)
    mask = None if view.mask is None else load_mask(view.mask)
    shares = {} if mask is None else _mask_shares(mask, where)
    # The object alone, where a mask says what that is: a sharp backdrop behind a blurred object must not pass.
    body = where if mask is None or not (where & (mask == MASK_OBJECT)).any() else where & (mask == MASK_OBJECT)
    values = grey[body]
    # np.float32 arrays of the photograph's size are the peak: four of them.
    laplacian = grey[1:-1, :-2] + grey[1:-1, 2:] + grey[:-2, 1:-1] + grey[2:, 1:-1] - 4 * grey[1:-1, 1:-1]
    inner = body[1:-1, 1:-1]
    detail = float((laplacian[inner] ** 2).mean()) if inner.any() else 0.0
    facts = PhotoFacts(
        sharpness=detail / max(float(values.var()), 1.0),
        brightness=float(values.mean()) / 255,
        clipped=_clipped(grey, body, backdrop=mask is None),
        thumb=thumb / max(float(np.linalg.norm(thumb)), 1e-6),
        points_agree=_points_agree(view, grey, *points),
        **shares,
    )
    return facts, None if mask is None else _reduced(mask)


def _clipped(grey: NDArray[np.float32], body: NDArray[np.bool_], backdrop: bool) -> float:
    """Share of the pixels of `body` (h, w) without detail, reduced; `backdrop`: those that reach the border are left out."""
    from scipy import ndimage

    step = max(1, max(grey.shape) // _LIMIT_SIZE)
    grey, body = grey[::step, ::step], body[::step, ::step]
    lost = (grey <= _DARK) | (grey >= _BRIGHT)
    if backdrop:
        parts, _ = ndimage.label(lost)
        behind = np.isin(parts, np.setdiff1d(parts[_border(parts)], [0]))
        if (body & ~behind).sum() > 0.05 * body.sum():  # else nothing but backdrop is left: all of it is black or white
            body = body & ~behind
    return float(lost[body].mean()) if body.any() else 0.0


def _points_agree(view: View, grey: NDArray[np.float32], xyz: Array, expected: Array) -> float:
    if len(xyz) < _FEW_POINTS:
        return float("nan")
    pixels, depth = project(view.K, view.w2c, xyz)
    with np.errstate(invalid="ignore"):
        inside = (depth > 0) & (pixels >= 0).all(axis=1) & (pixels < (view.width, view.height)).all(axis=1)
    column, row = pixels[inside].astype(np.int64).T
    found, expected = grey[row, column], expected[inside]
    if inside.sum() < 3 or found.std() == 0:
        return 0.0
    if expected.std() == 0:  # the model has no colours
        return float("nan")
    return float(np.corrcoef(found, expected)[0, 1] * inside.mean())


def _mask_shares(mask: NDArray[np.uint8], where: NDArray[np.bool_]) -> dict[str, float]:
    known, body = mask != MASK_IGNORE, mask == MASK_OBJECT
    inside, outside = known & where, known & ~where
    return {
        "object_share": _share(body, known),
        "object_in_ball": _share(body, inside),
        # A region that fills the photograph leaves no outside: the border says the most then.
        "object_outside": _share(body, outside if outside.sum() > 0.02 * mask.size else _border(mask) & known),
        "mask_in_ball": _share(where, body),
    }


def _share(what: NDArray[np.bool_], of: NDArray[np.bool_]) -> float:
    count = int(of.sum())
    return float((what & of).sum() / count) if count else float("nan")


def _border(mask: NDArray[Any]) -> NDArray[np.bool_]:
    border = np.ones(mask.shape, dtype=bool)
    border[1:-1, 1:-1] = False
    return border


def _reduced(mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    step = max(1, -(-max(mask.shape) // _MASK_SIZE))
    return mask[step // 2 :: step, step // 2 :: step].copy()
