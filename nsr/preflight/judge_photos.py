"""Verdicts on photographs and masks, and on how many cameras see which side of the object."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from nsr.conventions import Array, camera_centres
from nsr.preflight.finding import Finding, Level, named
from nsr.preflight.photos import PhotoFacts, doubles
from nsr.scene.scene import Scene

_BLUR = 0.12  # share of the neighbours' median sharpness under which a photograph is blurred
_STOPS = 1.5  # f-stops of brightness from the neighbours' median
_NEIGHBOURS = 6
_CLIPPED = 0.4  # share of the region's pixels
_SMALL = 120.0  # px, median diameter of the region in the photographs
ENOUGH = 3  # cameras that a surface needs
_COVERED = 0.45  # share of directions; cameras at one place see 0.37


def judge_photos(scene: Scene, facts: Sequence[PhotoFacts], diameters: Array) -> list[Finding]:
    """Blur and exposure against the neighbouring views, doubles, sizes.

    Args:
        facts: of the views. diameters: of the region in the photographs, (V,) pixels.
    """
    names = [view.name for view in scene.views]
    near = _neighbours(scene)
    # Linear light, roughly: sRGB to the power of 2.2.
    stops = 2.2 * np.log2(np.maximum([item.brightness for item in facts], 1e-3))
    sharp = np.array([item.sharpness for item in facts])
    blurred = [name for name, own, others in zip(names, sharp, near, strict=True) if own < _BLUR * np.median(sharp[others])]
    uneven = [name for name, own, others in zip(names, stops, near, strict=True) if abs(own - np.median(stops[others])) > _STOPS]
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
    found += _doubles(scene, facts)
    if np.nanmedian(diameters) < _SMALL:
        text = f"the region is {np.nanmedian(diameters):.0f} px across in the median photograph"
        found.append(Finding("warning", "size", text, "use larger photographs, raise prepare.max_size, or give a smaller region"))
    if not any(finding.check in ("blur", "exposure") for finding in found):
        found.insert(0, Finding("ok", "photographs", f"{len(names)} photographs, none blurred or badly exposed"))
    return found


def judge_masks(scene: Scene, facts: Sequence[PhotoFacts]) -> list[Finding]:
    """Polarity and coverage of the masks, and whether the object lies in the region."""
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
    if len(pairs) < len(facts):
        text = f"{len(facts) - len(pairs)} of {len(facts)} photographs have no mask"
        found.append(Finding("warning", "masks", text, "give all of them one; training with masks needs all"))
    if not found:
        share = np.median([item.object_share for _, item in pairs])
        found.append(Finding("ok", "masks", f"{len(pairs)} masks, the object covers {share:.0%} of the median photograph"))
    return found


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
    pairs = doubles(facts)
    if not pairs:
        return []
    centres = camera_centres(scene.unit_w2c(scene.views))
    moved = [pair for pair in pairs if np.linalg.norm(centres[pair[0]] - centres[pair[1]]) > 0.02]
    words = named([f"{scene.views[a].name} and {scene.views[b].name}" for a, b in moved or pairs])
    extra = ", but their poses differ: one of them is wrong" if moved else ""
    return [Finding("warning", "doubles", f"the same photograph twice: {words}{extra}", "remove one of each pair")]
