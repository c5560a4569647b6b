"""The stage: measure a prepared scene, judge it, and leave `preflight.json` and a page; and the index over all scenes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from nsr.conventions import Array
from nsr.errors import DataError
from nsr.log import get_logger
from nsr.preflight.cost import SOURCE, costs, photographs_gb
from nsr.preflight.finding import Finding, worst
from nsr.preflight.geometry import ball_outline, sphere_directions, times_seen
from nsr.preflight.judge import judge_cameras, judge_region, judge_silhouettes
from nsr.preflight.judge_photos import judge_coverage, judge_masks, judge_photos
from nsr.preflight.page import Material, index_page, scene_page
from nsr.preflight.photos import measure_photos
from nsr.provenance import parse_json, write_json, write_text
from nsr.report.collect import read_logs
from nsr.runs import list_runs
from nsr.scene.scene import Scene, load_scene

FACTS, PAGE, FOLDER = "preflight.json", "index.html", "preflight"
_DIRECTIONS = 2000
_WITHIN = ("coverage", "photographs", "blur", "exposure", "size", "silhouettes")  # checks that look at the region only


def preflight_stage(
    root: Path, out: Path, *, methods: Mapping[str, Mapping[str, Any]], sfm: Path | None = None, threads: int = 1
) -> dict[str, Any]:
    """Judge a scene and write `preflight.json` and `index.html` into `out`.

    Args:
        root: scene folder. methods: by name what `costs` asks for. sfm: `sfm.json` of scenes that are
            photographs. threads: photographs read at the same time.

    Returns:
        The content of `preflight.json`.

    Raises:
        DataError: no scene there, or one of its files cannot be read.
    """
    scene = load_scene(root)
    material = judge_scene(scene, methods=methods, health=None if sfm is None else _read(sfm), threads=threads)
    for finding in material.findings:
        if finding.level != "ok":
            get_logger().warning("%s: %s: %s (%s)", scene.name, finding.level, finding.text, finding.change)
    facts = {
        "scene": scene.name,
        "verdict": worst(material.findings),
        "findings": [asdict(finding) for finding in material.findings],
        "views": len(scene.views),
        "photographs_gb": photographs_gb(scene.views),
        "region_px": _number(np.nanmedian(diameters)) if np.isfinite(diameters := material.diameters).any() else None,
        "coverage": {"directions": len(material.seen), "cameras": np.bincount(material.seen).tolist()},
        "costs": [asdict(cost) for cost in material.costs],
        "costs_source": SOURCE,
        "per_view": {
            view.name: {key: _number(value) for key, value in vars(item).items() if key != "thumb"}
            for view, item in zip(scene.views, material.photos, strict=True)
        },
    }
    write_text(out / PAGE, scene_page(material))
    write_json(out / FACTS, facts)
    return facts


def judge_scene(
    scene: Scene, *, methods: Mapping[str, Mapping[str, Any]], health: Mapping[str, Any] | None = None, threads: int = 1
) -> Material:
    """Measure a scene and judge it.

    Args:
        methods, threads: as in `preflight_stage`. health: content of `sfm.json`, None for scenes with known cameras.

    Raises:
        DataError: a photograph or mask cannot be read.
    """
    photos, masks = measure_photos(scene, threads)
    seen = times_seen(sphere_directions(_DIRECTIONS), scene.views, scene.unit_w2c(scene.views))
    diameters = region_diameters(scene)
    findings = [
        *judge_cameras(scene, health),
        *judge_region(scene),
        judge_coverage(seen),
        *judge_photos(scene, photos, diameters),
        *judge_masks(scene, photos, diameters),
        *(judge_silhouettes(scene, masks) if any(mask is not None for mask in masks) else []),
    ]
    return Material(scene, _meaningful(findings), photos, seen, costs(scene.views, methods), diameters)


def preflight_index(runs: Path, out: Path, logs: Path | None = None) -> dict[str, int]:
    """Write the page over all scenes of a runs file (`nsr.runs`), the worst first.

    Args:
        logs: folder of the logs. A scene that was not judged is then listed as stopped, with the errors of its stages.

    Returns:
        Number of scenes of each verdict.

    Raises:
        DataError: the runs file or, without `logs`, a scene's `preflight.json` is missing or broken.
    """
    listed = _read(runs)
    try:
        folders = {f"{run['dataset']}/{run['scene']}": Path(run["folder"]).parent / FOLDER for run in list_runs(listed)}
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{runs}: no list of runs ({error}); let snakemake write it") from error
    found: list[tuple[Path | None, dict[str, Any]]] = []
    for name, folder in folders.items():
        if logs is not None and not (folder / FACTS).is_file():
            found.append((None, _unjudged(name, logs)))
        else:
            found.append((folder / PAGE, _read(folder / FACTS)))
    write_text(out, index_page(found, out.parent))
    verdicts = [facts["verdict"] for _, facts in found]
    return {level: verdicts.count(level) for level in ("stop", "warning", "ok")}


def _unjudged(name: str, logs: Path) -> dict[str, Any]:
    """What the page over all says of a scene that no result of this stage is there of."""
    failures, _ = read_logs([logs / name])
    findings = [Finding("stop", failure.stage, failure.reason) for failure in failures]
    findings = findings or [Finding("stop", "not judged", "its preparation was not reached", "run snakemake preflight again")]
    return {"scene": name, "verdict": "stop", "findings": [asdict(finding) for finding in findings], "views": None, "costs": []}


def _meaningful(findings: Sequence[Finding]) -> list[Finding]:
    """Without the verdicts on what was measured within the region, where that is not where the object is."""
    stopped = any(finding.level == "stop" and finding.check == "region" for finding in findings)
    return [finding for finding in findings if not (stopped and finding.check in _WITHIN)]


def region_diameters(scene: Scene) -> Array:
    """Diameter in pixels of the unit ball in each photograph, the mean of its two sides; NaN from inside it, (V,)."""
    outlines = [ball_outline(view.K, matrix) for view, matrix in zip(scene.views, scene.unit_w2c(scene.views), strict=True)]
    return np.array([np.nan if line is None else np.ptp(line, axis=0).mean() for line in outlines])


def _number(value: float) -> float | None:
    return round(float(value), 6) if np.isfinite(value) else None


def _read(path: Path) -> Any:
    try:
        return parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error}); run the stage that writes it again") from error
