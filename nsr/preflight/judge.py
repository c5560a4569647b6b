"""Verdicts on the cameras of a prepared scene and on its region of interest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nsr.conventions import MASK_IGNORE, MASK_OBJECT, Array, camera_centres, project
from nsr.data.checks import check_facing
from nsr.data.sfm_health import camera_spread
from nsr.errors import DataError
from nsr.mesh.visibility import cameras_of, in_image
from nsr.preflight.finding import Finding, named
from nsr.preflight.geometry import look_at_point, neighbour_angles, roll_angles
from nsr.scene.region import ball_of_points
from nsr.scene.scene import Scene, unit_words

_FEW, _TOO_FEW = 20, 8  # views
_SPREAD = 45.0  # degrees, largest angle between two cameras seen from the object: less is one side of it
_GAP = 40.0  # degrees from a camera to its nearest neighbour: wider and hardly any surface is seen from both
_REPROJECTION = 1.5  # px
_ROLL = 120.0  # degrees
_SIZES = 3.0  # the region's radius against that of the sparse points, either way
_CELLS = 28  # along the unit ball's diameter, for the hull of the masks
_HULL_VIEWS, _AGREES = 0.85, 0.7  # share of views that call a hull's cell object; share of the hull in a view's mask

_SET_REGION = "set the scene's region in the list of scenes: x,y,z,radius in world units, or masks, points, cameras"


def judge_cameras(scene: Scene, sfm: Mapping[str, Any] | None) -> list[Finding]:
    """Number and spread of the cameras, whether they face the region, up direction, reprojection error.

    Args:
        sfm: content of `sfm.json` for scenes that are photographs, None for others.
    """
    unit_w2c = scene.unit_w2c(scene.views)
    centres, names = camera_centres(unit_w2c), [view.name for view in scene.views]
    found = [_number(scene, sfm), _spread(centres), *_facing(scene)]
    gaps = neighbour_angles(unit_w2c)
    far = [name for name, gap in zip(names, gaps, strict=True) if gap > _GAP]
    if 4 * len(far) > len(names):
        text = f"{len(far)} of {len(names)} cameras have no neighbour within {_GAP:g} degrees (median {np.median(gaps):.0f})"
        found.append(Finding("warning", "baseline", text, "add photographs in between, 10 to 20 degrees apart"))
    rolls = roll_angles(unit_w2c)
    turned = [] if rolls is None else [name for name, roll in zip(names, rolls, strict=True) if roll > _ROLL]
    if turned and 4 * len(turned) <= len(names):
        text = f"{named(turned)}: upside down against the other cameras"
        change = "right if the camera was turned over for them; else their poses are wrong: fix them or leave these views out"
        found.append(Finding("warning", "poses", text, change))
    return found + _reprojection(scene)


def judge_region(scene: Scene) -> list[Finding]:
    """Where the unit ball lies: against what the cameras look at, the sparse points, and the photographs' frames."""
    unit_w2c = scene.unit_w2c(scene.views)
    distance = np.linalg.norm(camera_centres(unit_w2c), axis=1)
    found = [*_centred(scene, unit_w2c), *_inside(distance)]
    if np.median(distance) > 30:
        text = (
            f"the cameras stand {np.median(distance):.0f} radii from the region's centre: the region is small in the photographs"
        )
        found.append(Finding("warning", "region", text, _SET_REGION))
    if scene.points is not None and len(scene.points.xyz) >= 100:
        found += _points_in_region(scene)
    if found:
        return found
    text = f"source {scene.region_source}, radius {scene.similarity.scale:.4g} {unit_words(scene.unit)}, cameras at {distance.min():.1f} to "
    guess = scene.region_source == "cameras"
    change = (
        "half the way to the nearest camera, a guess: compare the outline with the object, or give a region or masks"
        if guess
        else ""
    )
    return [Finding("ok", "region", f"{text}{distance.max():.1f} radii", change)]


def _centred(scene: Scene, unit_w2c: Array) -> list[Finding]:
    found, target = [], look_at_point(unit_w2c)
    if target is not None and np.linalg.norm(target) > 1.5:
        away = float(np.linalg.norm(target))
        text = f"the cameras look at a point {away:.1f} radii from the centre of the region (source: {scene.region_source})"
        found.append(Finding("stop" if away > 3 else "warning", "region", text, _SET_REGION))
    outside = 0
    for camera in cameras_of(scene.views, unit_w2c):
        outside += not in_image(camera, np.zeros((1, 3)))[0][0]
    if 3 * outside > len(scene.views):
        text = f"the centre of the region lies outside {outside} of {len(scene.views)} photographs"
        found.append(Finding("stop" if 2 * outside > len(scene.views) else "warning", "region", text, _SET_REGION))
    return found


def _inside(distance: Array) -> list[Finding]:
    inside = int((distance <= 1).sum())
    if 4 * inside <= len(distance):
        return []
    change = f"give a smaller radius: the nearest camera stands {distance.min():.2g} radii from the centre, and the object in front of all of them"
    text = f"{inside} of {len(distance)} cameras stand within the region"
    return [Finding("stop" if 2 * inside > len(distance) else "warning", "region", text, change)]


def judge_silhouettes(scene: Scene, masks: Sequence[NDArray[np.uint8] | None]) -> list[Finding]:
    """Views whose mask does not hold what the other masks agree on: a wrong pose or a wrong mask.

    The hull is carved in a coarse grid of the unit ball: a cell is object if nearly all views that see it say so.

    Args:
        masks: reduced masks (h, w) of the views, None where there is none.
    """
    axis = (np.arange(_CELLS) + 0.5) * 2 / _CELLS - 1
    cells = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
    cells = cells[np.linalg.norm(cells, axis=1) < 1]
    votes = np.array(
        [
            _votes(cells, view.K, matrix, (view.width, view.height), mask)
            for view, matrix, mask in zip(scene.views, scene.unit_w2c(scene.views), masks, strict=True)
            if mask is not None
        ]
    )
    names = [view.name for view, mask in zip(scene.views, masks, strict=True) if mask is not None]
    if len(votes) < 4:
        return []
    known = ~np.isnan(votes)
    share = np.nansum(votes, axis=0) / np.maximum(known.sum(axis=0), 1)
    hull = (share >= _HULL_VIEWS) & (known.sum(axis=0) >= 0.5 * len(votes))
    if hull.sum() < 20:
        text = "the masks agree on no object within the region"
        change = "check poses, masks and region; the masks must be white on black and belong to their photographs"
        return [Finding("stop", "silhouettes", text, change)]
    agree = [float(np.nanmean(vote[hull])) if (~np.isnan(vote[hull])).any() else 0.0 for vote in votes]
    wrong = [name for name, value in zip(names, agree, strict=True) if value < _AGREES]
    if wrong:
        text = f"{named(wrong)}: the mask does not show what the other {len(names) - len(wrong)} agree on"
        change = "check the pose and the mask of these views; leave them out if they are wrong"
        return [Finding("stop" if 3 * len(wrong) > len(names) else "warning", "silhouettes", text, change)]
    return [Finding("ok", "silhouettes", f"{len(names)} masks agree; least {min(agree):.0%} of their common hull")]


def _votes(cells: Array, K: Array, w2c: Array, size: tuple[int, int], mask: NDArray[np.uint8]) -> Array:
    """What a mask says of cells (P,): 1 object, 0 not, NaN not seen."""
    pixels, depth = project(K, w2c, cells)
    with np.errstate(invalid="ignore"):
        place = np.floor(pixels * [mask.shape[1] / size[0], mask.shape[0] / size[1]])
        inside = (depth > 0) & (place >= 0).all(axis=1) & (place < mask.shape[::-1]).all(axis=1)
    out = np.full(len(cells), np.nan)
    columns, rows = place[inside].astype(int).T
    value = mask[rows, columns]
    out[inside] = np.where(value == MASK_IGNORE, np.nan, value == MASK_OBJECT)
    return out


def _number(scene: Scene, sfm: Mapping[str, Any] | None) -> Finding:
    count = len(scene.views)
    text, lost = f"{count} photographs with poses", 0
    if sfm is not None:
        lost = int(sfm["health"]["photos"]) - int(sfm["health"]["registered"])
        text = f"{sfm['health']['registered']} of {sfm['health']['photos']} photographs registered"
    if count < _FEW:
        change = f"take more photographs: {_FEW} at least, 50 are good"
        return Finding("stop" if count < _TOO_FEW else "warning", "number of views", text, change)
    if lost > 0.1 * (count + lost):
        missing = named([str(name) for name in (sfm or {}).get("unregistered", [])])
        return Finding(
            "warning", "number of views", f"{text}; without a pose: {missing}", "remove them or add photographs between"
        )
    return Finding("ok", "number of views", text)


def _spread(centres: Array) -> Finding:
    spread = camera_spread(centres, np.zeros(3))
    text = f"the cameras spread over {spread:.0f} degrees around the object"
    if spread < _SPREAD:
        return Finding("warning", "spread", f"{text}: it is seen from one side", "add photographs from the other sides")
    return Finding("ok", "spread", text)


def _facing(scene: Scene) -> list[Finding]:
    try:
        check_facing(scene.views, scene.similarity.t, scene.similarity.scale)
    except DataError as error:
        return [
            Finding("stop", "poses", str(error).partition(";")[0], "fix the poses or leave these views out; or set the region")
        ]
    return []


def _reprojection(scene: Scene) -> list[Finding]:
    if scene.points is None:
        return []
    errors = scene.points.error[np.isfinite(scene.points.error)]
    if not len(errors):
        return []
    text = f"{len(scene.points.xyz)} sparse points, median reprojection error {np.median(errors):.2f} px"
    if np.median(errors) > _REPROJECTION:
        change = "calibrate again: sfm.single_camera=false for several lenses, sfm.camera_model=OPENCV for wide angles"
        return [Finding("warning", "reprojection", text, change)]
    return [Finding("ok", "reprojection", text)]


def _points_in_region(scene: Scene) -> list[Finding]:
    """Sparse points in the region, and its size against the ball of those that the cameras look at."""
    assert scene.points is not None
    inside = np.linalg.norm(scene.similarity.inverse().apply(scene.points.xyz), axis=1) < 1
    if inside.mean() < 0.02:
        text = f"{inside.sum()} of {len(inside)} sparse points lie in the region"
        return [Finding("stop" if inside.sum() < 10 else "warning", "region", text, _SET_REGION)]
    centre, radius = ball_of_points(scene.points, scene.views)
    factor = scene.similarity.scale / radius
    if scene.has_masks or 1 / _SIZES < factor < _SIZES:  # masks say it better
        return []
    text = f"radius {scene.similarity.scale:.4g} {unit_words(scene.unit)}, {factor:.2g} times that of the sparse points that the cameras look at"
    where = ",".join(f"{value:.4g}" for value in (*centre, radius))
    return [Finding("warning", "region", text, f"right if meant so; region=points takes theirs ({where})")]
