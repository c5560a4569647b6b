"""Verdicts on photographs and masks, and on how many cameras see which side of the object."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from nsr.conventions import Array, camera_centres
from nsr.preflight.finding import Finding, Level, named
from nsr.preflight.geometry import distances_apart, same_places
from nsr.preflight.photos import PhotoFacts, doubles, similarity
from nsr.scene.scene import Scene

_BLUR = 0.12  # share of the neighbours' median sharpness under which a photograph is blurred
_STOPS = 1.5  # f-stops of brightness from the neighbours' median
_NEIGHBOURS = 6
_CLIPPED = 0.4  # share of the region's pixels
_SMALL = 120.0  # px, median diameter of the region in the photographs
_MOVED = 0.01  # of the distance to the object from which on two photographs were taken from different places
_ALIKE = 0.95  # correlation of reduced photographs from which on they may be of one pose
_AGREES = 0.6  # correlation of sparse points and photograph: 0.8 to 1 for right poses, under 0.55 for poses wrong by a degree
_FILLS = 0.25  # diameter of a disc of the object's area in parts of the region's: an object in its own ball has 0.4 to 0.8
ENOUGH = 3  # cameras that a surface needs
_COVERED = 0.45  # share of directions; cameras at one place see 0.37


def judge_photos(scene: Scene, facts: Sequence[PhotoFacts], diameters: Array) -> list[Finding]:
    """Blur and exposure against the neighbouring views, doubles, sparse points against photographs, sizes.

    Args:
        facts: of the views. diameters: of the region in the photographs, (V,) pixels.
    """
    usual = np.nanmedian(diameters) if np.isfinite(diameters).any() else np.inf
    found = [*_sharp_and_bright(scene, facts), *_doubles(scene, facts), *_agreement(scene, facts)]
    if usual < _SMALL:
        text = f"the region is {usual:.0f} px across in the median photograph"
        change = "use larger photographs or raise prepare.max_size; if the region cuts the object off, give a larger one"
        found.append(Finding("warning", "size", text, change))
    return found


def _sharp_and_bright(scene: Scene, facts: Sequence[PhotoFacts]) -> list[Finding]:
    """Blur and exposure; of a photograph whose mask is inverted the wrong pixels were measured."""
    names = [view.name for view in scene.views]
    near, right = _neighbours(scene), [not item.inverted for item in facts]
    # Linear light, roughly: sRGB to the power of 2.2.
    stops = 2.2 * np.log2(np.maximum([item.brightness for item in facts], 1e-3))
    sharp = np.array([item.sharpness for item in facts])
    rows = list(zip(names, sharp, stops, near, right, strict=True))
    blurred = [name for name, own, _, others, known in rows if known and own < _BLUR * np.median(sharp[others])]
    uneven = [name for name, _, own, others, known in rows if known and abs(own - np.median(stops[others])) > _STOPS]
    clipped = [name for name, item in zip(names, facts, strict=True) if item.clipped > _CLIPPED]
    found = []
    if blurred:
        found.append(Finding("warning", "blur", f"blurred against their neighbours: {named(blurred)}", "leave them out"))
    if uneven:
        text = f"{named(uneven)}: more than {_STOPS:g} f-stops brighter or darker than their neighbours"
        found.append(
            Finding("warning", "exposure", text, "leave them out, or fix exposure and white balance when taking photographs")
        )
    if 2 * len(clipped) > len(names):
        text = f"in {len(clipped)} of {len(names)} photographs over {_CLIPPED:.0%} of the region is black or white"
        found.append(Finding("warning", "exposure", text, "expose so that the object has detail"))
    return found or [Finding("ok", "photographs", f"{len(names)} photographs, none blurred or badly exposed")]


def judge_masks(scene: Scene, facts: Sequence[PhotoFacts], diameters: Array) -> list[Finding]:
    """Polarity and coverage of the masks, whether the object lies in the region, and how much of it it fills.

    Args:
        facts: of the views. diameters: of the region in the photographs, (V,) pixels.
    """
    pairs = [(view.name, item) for view, item in zip(scene.views, facts, strict=True) if view.mask is not None]
    if not pairs:
        return [Finding("ok", "masks", "none; training separates object and background by itself (train.use_masks)")]
    found = []
    inverted = [name for name, item in pairs if item.inverted]
    if inverted:
        text = f"inverted, background is object: {named(inverted)} ({len(inverted)} of {len(pairs)} masks)"
        change = "the object must be white on black: invert these masks"
        found.append(Finding("stop" if 4 * len(inverted) > len(pairs) else "warning", "masks", text, change))
    upright = [(name, item) for name, item in pairs if not item.inverted]
    empty = [name for name, item in upright if not item.object_share > 1e-4]
    if empty:
        text = f"without an object: {named(empty)} ({len(empty)} of {len(pairs)} masks)"
        level: Level = "stop" if 2 * len(empty) > len(pairs) else "warning"
        found.append(Finding(level, "masks", text, "make these masks again, or leave the photographs out"))
    shown = np.array([item.mask_in_ball for name, item in upright if item.object_share > 1e-4])
    if len(shown) and np.median(shown) < 0.8:
        text = f"in the median photograph {np.median(shown):.0%} of the object lies within the region"
        change = "region=masks in the list of scenes fits the region to the object"
        found.append(Finding("stop" if np.median(shown) < 0.3 else "warning", "region", text, change))
    found += _filled(scene, facts, diameters)
    if len(pairs) < len(facts):
        text = f"{len(facts) - len(pairs)} of {len(facts)} photographs have no mask"
        found.append(Finding("warning", "masks", text, "give all of them one; training with masks needs all"))
    if not found:
        share = np.median([item.object_share for _, item in pairs])
        found.append(Finding("ok", "masks", f"{len(pairs)} masks, the object covers {share:.0%} of the median photograph"))
    return found


def _filled(scene: Scene, facts: Sequence[PhotoFacts], diameters: Array) -> list[Finding]:
    """A region that is large for the object wastes the grids' resolution."""
    area = [
        item.object_share * view.width * view.height for view, item in zip(scene.views, facts, strict=True) if not item.inverted
    ]
    across = diameters[[not item.inverted for item in facts]]
    share = 2 * np.sqrt(np.array(area) / np.pi) / across
    share = share[np.isfinite(share) & (share > 0)]
    if not len(share) or np.median(share) > _FILLS:
        return []
    text = f"in the median photograph the object is {np.median(share):.0%} of the region across"
    return [Finding("warning", "region", text, "region=masks in the list of scenes fits the region to the object")]


def judge_coverage(seen: NDArray[np.int64]) -> Finding:
    """How much of the object's directions enough cameras see.

    Args:
        seen: cameras that see each direction, (P,).
    """
    share = float((seen >= ENOUGH).mean())
    never = float((seen == 0).mean())
    text = f"{share:.0%} of all surface directions are seen by {ENOUGH} cameras or more, {never:.0%} by none"
    if share < _COVERED:
        return Finding("warning", "coverage", text, "add photographs around the object; what no camera sees is invented")
    return Finding("ok", "coverage", text)


def _neighbours(scene: Scene) -> NDArray[np.int64]:
    """The nearest other cameras of each, (V, N) indices."""
    centres = camera_centres(scene.unit_w2c(scene.views))
    distance = np.linalg.norm(centres[:, None] - centres[None], axis=-1)
    np.fill_diagonal(distance, np.inf)
    return np.argsort(distance, axis=1, kind="stable")[:, : min(_NEIGHBOURS, max(1, len(centres) - 1))]


def _doubles(scene: Scene, facts: Sequence[PhotoFacts]) -> list[Finding]:
    """The same photograph twice, and photographs at one pose that show different things."""
    unit_w2c, names = scene.unit_w2c(scene.views), [view.name for view in scene.views]
    apart, alike, together = distances_apart(unit_w2c), doubles(facts), same_places(unit_w2c)
    moved = [pair for pair in alike if apart[pair] > _MOVED]
    twice = sorted({*alike, *(pair for pair in together if similarity(facts[pair[0]], facts[pair[1]]) > _ALIKE)} - set(moved))
    wrong = sorted(set(together) - set(twice) - set(moved))
    found = []
    if moved:
        text = f"the same photograph twice: {_pairs(names, moved)}, but their poses differ: one of them is wrong"
        found.append(Finding("warning", "doubles", text, "remove one of each pair"))
    if twice:
        text = f"the same photograph twice: {_pairs(names, twice)}"
        found.append(Finding("warning", "doubles", text, "remove one of each pair, they count twice"))
    if wrong:
        text = f"same camera pose, but the photographs differ: {_pairs(names, wrong)}"
        found.append(Finding("warning", "poses", text, "one pose of each pair is wrong: fix it or leave the view out"))
    return found


def _agreement(scene: Scene, facts: Sequence[PhotoFacts]) -> list[Finding]:
    """Views whose photograph does not show the sparse points that it is said to show where its pose puts them."""
    pairs = [(view.name, item.points_agree) for view, item in zip(scene.views, facts, strict=True)]
    known = [(name, value) for name, value in pairs if np.isfinite(value)]
    wrong = [name for name, value in known if value < _AGREES]
    if not wrong:
        return []
    text = (
        f"{named(wrong)}: the sparse points do not match the photograph where the pose puts them ({len(wrong)} of {len(known)})"
    )
    if 2 * len(wrong) > len(known):
        change = "check that model and photographs belong together, and the camera convention of the source"
        return [Finding("stop", "poses", text, change)]
    change = "the pose is wrong, or the photograph is another one: fix it or leave the view out"
    return [Finding("warning", "poses", text, change)]


def _pairs(names: Sequence[str], pairs: Sequence[tuple[int, int]]) -> str:
    return named([f"{names[a]} and {names[b]}" for a, b in pairs])
