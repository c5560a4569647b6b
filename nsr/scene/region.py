"""The region of interest: which ball of the world becomes the unit ball."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nsr.config import PrepareConfig
from nsr.conventions import Array, Similarity, project
from nsr.data.raw import Points
from nsr.errors import DataError
from nsr.log import get_logger
from nsr.scene.hull import hull_ball
from nsr.scene.rays import nearest_point, optical_axes
from nsr.scene.scene import View

SOURCES = ("format", "masks", "points", "cameras")
_MIN_POINTS = 10
_OUTLIER = 3.0  # points further than this many scaled median deviations from the median distance are rejected
_HELD = 0.98  # share of the remaining weight that the ball must hold
_CAMERA_GAP = 0.9  # a ball of sparse points ends at this share of the distance to the nearest cameras


@dataclass(frozen=True)
class Region:
    """A region of interest: `similarity` maps its unit ball to the world, `source` says how it was found."""

    similarity: Similarity
    source: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Evidence:
    """What a region can be found from.

    Attributes:
        views: cameras. masks: per view (H, W) uint8 or None. points: sparse points or None.
        stated: region that the source itself states, or None.
    """

    views: Sequence[View]
    masks: Sequence[NDArray[np.uint8] | None] = ()
    points: Points | None = None
    stated: Similarity | None = None


def find_region(evidence: Evidence, settings: PrepareConfig, override: str | None = None) -> Region:
    """The region of interest of a scene.

    Args:
        evidence: cameras and what else is known.
        settings: `region` and `region_margin`. A region that the source states is taken as it is, without margin.
        override: "x,y,z,radius" in world units, one of the names of `PrepareConfig.region`, or None.

    Returns:
        The region with source "manifest" if it was given in numbers, else the name of what it was fitted to. "auto"
        takes the first of the source's own statement, masks, points and cameras that is there and makes sense.

    Raises:
        DataError: the override is wrong, the named evidence is absent or contradicts itself.
    """
    wanted = (override or settings.region).strip()
    if "," in wanted:
        return Region(parse_ball(wanted), "manifest")
    if wanted != "auto":
        if wanted not in SOURCES:
            raise DataError(f"region '{wanted}': must be x,y,z,radius or one of auto, {', '.join(SOURCES)}")
        return _from(wanted, evidence, settings.region_margin)
    notes: tuple[str, ...] = ()
    for source in SOURCES:
        if not _available(source, evidence):
            continue
        try:
            region = _from(source, evidence, settings.region_margin)
        except DataError as error:
            if source == "cameras":
                raise
            get_logger().warning("region not found from %s: %s", source, error)
            notes += (f"region not found from {source}: {error}",)
            continue
        return Region(region.similarity, region.source, notes + region.notes)
    raise DataError("no camera to find the region from; give region as x,y,z,radius")


def parse_ball(text: str) -> Similarity:
    """Similarity of a ball given as "x,y,z,radius" in world units.

    Raises:
        DataError: not four finite numbers with radius > 0.
    """
    try:
        x, y, z, radius = (float(part) for part in text.split(","))
    except ValueError as error:
        raise DataError(f"region '{text}': must be four numbers x,y,z,radius in world units") from error
    if not np.isfinite([x, y, z, radius]).all() or radius <= 0:
        raise DataError(f"region '{text}': must be finite with radius > 0")
    return Similarity(radius, np.eye(3), np.array([x, y, z]))


def ball_of_points(points: Points, views: Sequence[View]) -> tuple[Array, float]:
    """Ball (centre (3,), radius) of the sparse points that the cameras look at.

    Each point is weighted by how near to the image centre it is on average over all cameras, which favours what every
    photo shows over what lies behind it; the centre is the weighted median, points much further away than usual are
    rejected, and the radius holds 98 % of the remaining weight but stops short of the nearest cameras.

    Raises:
        DataError: fewer than ten points.
    """
    if len(points.xyz) < _MIN_POINTS:
        raise DataError(f"{len(points.xyz)} sparse points are too few to find the region; give region as x,y,z,radius")
    attention = _attention(points.xyz, views)
    weight = np.where(attention >= 0.5 * np.quantile(attention, 0.95), attention, 0.0)
    for _ in range(5):
        centre = np.array([_weighted_quantile(points.xyz[:, axis], weight, 0.5) for axis in range(3)])
        distance = np.linalg.norm(points.xyz - centre, axis=1)
        middle = _weighted_quantile(distance, weight, 0.5)
        spread = 1.4826 * _weighted_quantile(np.abs(distance - middle), weight, 0.5)
        weight = np.where(distance <= middle + _OUTLIER * spread, weight, 0.0)
    radius = _weighted_quantile(distance, weight, _HELD)
    cameras = np.linalg.norm(optical_axes(np.stack([view.w2c for view in views]))[0] - centre, axis=1)
    return centre, float(min(radius, _CAMERA_GAP * np.quantile(cameras, 0.05)))


def ball_of_cameras(views: Sequence[View]) -> tuple[Array, float]:
    """Ball (centre (3,), radius): the point nearest to all optical axes, and half the distance to the nearest camera.

    Raises:
        DataError: parallel optical axes, or most cameras look away from that point.
    """
    origins, directions = optical_axes(np.stack([view.w2c for view in views]))
    centre = nearest_point(origins, directions)
    if ((centre - origins) * directions).sum(axis=1).mean() <= 0 or _behind(centre, views) > 0.5:
        raise DataError(
            "the cameras look away from each other's targets; check the camera convention of the source (axes, or camera to world for "
            "world to camera)"
        )
    return centre, 0.5 * float(np.linalg.norm(origins - centre, axis=1).min())


def _available(source: str, evidence: Evidence) -> bool:
    return {
        "format": evidence.stated is not None,
        "masks": any(mask is not None for mask in evidence.masks),
        "points": evidence.points is not None and len(evidence.points.xyz) > 0,
        "cameras": len(evidence.views) > 0,
    }[source]


def _from(source: str, evidence: Evidence, margin: float) -> Region:
    """The region from one named source."""
    if not _available(source, evidence):
        raise DataError(
            f"region '{source}': the source has no {source if source != 'format' else 'region of its own'}; choose another region"
        )
    if source == "format":
        assert evidence.stated is not None
        return Region(evidence.stated, source)
    notes: tuple[str, ...] = ()
    if source == "masks":
        pairs = [(view, mask) for view, mask in zip(evidence.views, evidence.masks, strict=True) if mask is not None]
        centre, radius, notes = hull_ball([view for view, _ in pairs], [mask for _, mask in pairs])
    elif source == "points":
        assert evidence.points is not None
        centre, radius = ball_of_points(evidence.points, evidence.views)
    else:
        centre, radius = ball_of_cameras(evidence.views)
    if not radius > 0:
        raise DataError(f"region '{source}': comes out with radius {radius:g}; give region as x,y,z,radius")
    return Region(Similarity(radius * margin, np.eye(3), centre), source, notes)


def _attention(xyz: Array, views: Sequence[View]) -> Array:
    """Mean over the cameras (P,) of a bell-shaped weight: 1 at the image centre, 0.61 at half way to the border, 0 outside."""
    total = np.zeros(len(xyz))
    for view in views:
        pixels, depth = project(view.K, view.w2c, xyz)
        size = np.array([view.width, view.height])
        with np.errstate(invalid="ignore"):
            offset = np.abs(2 * pixels / size - 1)
            inside = (depth > 0) & (offset < 1).all(axis=1)
        total[inside] += np.exp(-2 * (offset[inside] ** 2).max(axis=1))
    return total / len(views)


def _weighted_quantile(values: Array, weights: Array, share: float) -> float:
    """Smallest value (of (P,)) that at least `share` of the weight does not exceed."""
    order = np.argsort(values)
    summed = np.cumsum(weights[order])
    return float(values[order][min(len(values) - 1, np.searchsorted(summed, share * summed[-1]))])


def _behind(centre: Array, views: Sequence[View]) -> float:
    """Share of the cameras that have a point (3,) behind them."""
    return float(np.mean([project(view.K, view.w2c, centre[None])[1][0] <= 0 for view in views]))
