"""Everything the json files of a run say, arranged for reading: labels, units, and nested data as flat lines."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from nsr.report.collect import Run, Surface
from nsr.report.tables import NOT_MEASURED, Row, is_score, length_unit, protocol, seed, trained_on, unit_fact

_LABELS = {
    "chamfer": "Chamfer distance",
    "accuracy": "accuracy: mean distance mesh → truth",
    "missed": "missed: share of the truth beyond the largest distance",
    "surplus": "surplus: share of the mesh beyond the largest distance",
    "completeness": "completeness: mean distance truth → mesh",
}
_ANGLES = {
    "normal_error": "normal error: mean angle at nearest points",
    "normal_accuracy": "normal error, mesh → truth",
    "normal_completeness": "normal error, truth → mesh",
}
_VIEW_LABELS = {
    "metrics.psnr": "PSNR, dB",
    "metrics.psnr_masked": "PSNR over the object, dB",
    "metrics.psnr_corrected": "PSNR with the best exposure, dB",
    "metrics.psnr_masked_corrected": "PSNR over the object with the best exposure, dB",
    "metrics.psnr_affine": "PSNR with the best affine map of colours, dB",
    "metrics.ssim": "SSIM",
    "metrics.ssim_masked": "SSIM over the object",
    "metrics.lpips": "LPIPS",
    "metrics.lpips_masked": "LPIPS over the object",
    "metrics.depth_error": "depth error: mean, % of the object radius",
    "metrics.depth_median": "depth error: median, % of the object radius",
    "metrics.depth_missing": "depth missing: share of the true depth",
    "left_out.lpips": "LPIPS left out",
    "left_out.depth": "depth error left out",
}
_GROUPS = {
    "metrics": "Measured",
    "alignment": "Alignment",
    "unit": "Unit",
    "counts": "Sample counts",
    "settings": "Evaluation settings",
}
_HIDDEN = ("manifest", "notes", "protocol", "version", "variants")
_NOT_OF_EXTRACTION = ("settings", "similarity", "train", "steps", "scene", "frame")
_TEXTURE_FILES = ("textured.glb", "textured.obj", "textured.mtl", "textured.jpg", "textured.ply")
_LONG = 12  # list entries above which only the number of entries is shown


@dataclass(frozen=True)
class Line:
    """One line of a table. Attributes: label; one text per column, with the exact number beside it where there is one."""

    label: str
    texts: tuple[str, ...]
    values: tuple[Any, ...]


@dataclass(frozen=True)
class Group:
    """Lines under one heading."""

    title: str
    lines: tuple[Line, ...]


def flatten(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one level with dotted keys; lists stay as they are."""
    flat: dict[str, Any] = {}
    for key, value in data.items():
        name = f"{prefix}{key}"
        flat |= flatten(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
    return flat


def show(value: Any) -> str:
    """A json value as short text; None as "not measured"."""
    if value is None:
        return NOT_MEASURED
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
    if isinstance(value, int):
        return str(value) if abs(value) < 1e4 else f"{value:,}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {show(entry)}" for key, entry in value.items())
    if isinstance(value, list):
        return f"{len(value)} entries" if len(value) > _LONG else ", ".join(show(entry) for entry in value)
    return str(value)


def surface_groups(surfaces: tuple[Surface, ...], world_unit: str) -> list[Group]:
    """What was measured on each surface and how, one column per surface.

    Args:
        surfaces: of one run. world_unit: name of the world unit, for metrics in world lengths.
    """
    groups = [Group("Protocol", (_line("protocol and version", [protocol(s.evaluation) for s in surfaces]),))]
    words = _Words(world_unit, next((s.evaluation for s in surfaces if "unit" in s.evaluation), {}))
    sections = dict.fromkeys(_GROUPS)
    for surface in surfaces:
        sections |= dict.fromkeys(key for key in surface.evaluation if key not in _HIDDEN)
    for key in sections:
        parts = [s.evaluation.get(key) for s in surfaces]
        flats = [flatten(part if isinstance(part, Mapping) else {key: part}) if part is not None else {} for part in parts]
        groups.append(_group(_GROUPS.get(key, key.replace("_", " ")), flats, words if key == "metrics" else None))
        if key == "metrics":
            groups.append(Group("Variants of the protocol", tuple(_variants([s.evaluation for s in surfaces], words))))
        if key == "counts":
            groups.append(
                Group("Culling", (_line("share of the predicted samples left out", [left_out(s.evaluation) for s in surfaces]),))
            )
    groups.append(_group("Extraction and culling", [_extraction(surface.info) for surface in surfaces]))
    return [group for group in groups if group.lines]


def _extraction(info: Mapping[str, Any]) -> dict[str, Any]:
    """Facts of an extraction as flat lines; its steps as triangle counts and the share that culling and cleaning removed."""
    facts = flatten({key: value for key, value in info.items() if key not in (*_HIDDEN, *_NOT_OF_EXTRACTION)})
    steps = [step for step in info.get("steps", []) if isinstance(step, Mapping) and "triangles" in step]
    facts |= {f"triangles after: {step.get('step')}": step["triangles"] for step in steps}
    if steps and steps[0]["triangles"]:
        facts["removed share of the extracted triangles"] = 1.0 - steps[-1]["triangles"] / steps[0]["triangles"]
    return facts


@dataclass(frozen=True)
class _Words:
    """How the metrics of a protocol are called. Attributes: world_unit; evaluation, whose unit and tau count."""

    world_unit: str
    evaluation: Mapping[str, Any]

    @property
    def unit(self) -> str:
        """Unit of the lengths in words."""
        unit = length_unit(dict(self.evaluation))
        return "% of the object radius" if unit in (None, "%") else str(unit)

    def label(self, key: str) -> str:
        """What stands before a metric's numbers."""
        base, tau = key.removesuffix("_world"), unit_fact(dict(self.evaluation), "tau")
        if key in ("f_score", "precision", "recall"):
            name = "F-score" if key == "f_score" else key
            return f"{name} within {tau:g} {self.unit}" if isinstance(tau, (int, float)) else name
        if is_score(key):
            return f"F-score within {key.removeprefix('f_')} {self.unit}"
        for share in ("precision", "recall"):
            if key.startswith(f"{share}_"):
                return f"{share} within {key.removeprefix(f'{share}_')} {self.unit}"
        if base in ("missed", "surplus"):
            return _LABELS[base]
        if key in _ANGLES:
            return f"{_ANGLES[key]}, °"
        unit = f"world units ({self.world_unit})" if key.endswith("_world") else self.unit
        return f"{_LABELS[base]}, {unit}" if base in _LABELS else key.replace("_", " ")


def _group(title: str, flats: list[dict[str, Any]], words: _Words | None = None) -> Group:
    keys = dict.fromkeys(key for flat in flats for key in flat)
    lines = (_line(words.label(key) if words else key, [flat.get(key) for flat in flats]) for key in keys)
    return Group(title, tuple(lines))


def _variants(evaluations: Sequence[Row], words: _Words, only: tuple[str, ...] = ()) -> list[Line]:
    """Metrics of every variant of a protocol, such as DTU's mask culls, one column per evaluation; `only` these metrics if named."""
    flats = [{(name, key): value for name, of in e.get("variants", {}).items() for key, value in of.items()} for e in evaluations]
    keys = dict.fromkeys(key for flat in flats for key in flat)
    return [
        _line(f"{name}: {words.label(metric)}", [flat.get((name, metric)) for flat in flats])
        for name, metric in keys
        if not only or metric in only
    ]


def variant_lines(surfaces: Sequence[Surface]) -> list[Line]:
    """Chamfer distance under every variant of the protocol, one column per surface; none where it has no variants."""
    evaluations = [surface.evaluation for surface in surfaces]
    stated = next((evaluation for evaluation in evaluations if "unit" in evaluation), {})
    return _variants(evaluations, _Words("", stated), ("chamfer",))


def _line(label: str, values: list[Any]) -> Line:
    return Line(label, tuple(show(value) for value in values), tuple(values))


def left_out(evaluation: Mapping[str, Any]) -> float | None:
    """Share of the predicted samples that floor, silhouettes and visibility took out of an evaluation; None if unknown."""
    counts = evaluation.get("counts") or {}
    sampled, kept = counts.get("prediction_sampled"), counts.get("prediction")
    return 1.0 - kept / sampled if sampled and kept is not None else None


def training_facts(run: Run) -> list[Line]:
    """Device, time, seed, versions and views of the training, for the head of a run."""
    train = run.train
    manifest = train.get("manifest", {})
    names = train.get("train_views")
    total = len(run.prepared.views) if run.prepared else None
    views = None if names is None else f"{len(names)} of {total}" if total else str(len(names))
    versions = ", ".join(f"{name} {version}" for name, version in manifest.get("versions", {}).items()) or None
    facts = {
        "device": train.get("device"),
        "training time, s": train.get("seconds"),
        "steps": train.get("steps"),
        "samples per second": train.get("samples_per_second"),
        "peak memory, MB": train.get("peak_memory_mb"),
        "seed": seed(run),
        "PSNR of training rays, dB (training views)": train.get("psnr_train"),
        "views trained on": views,
        "date (UTC)": manifest.get("date"),
        "versions": versions,
        "world unit": run.prepared.unit if run.prepared else None,
        "region of interest from": run.prepared.region_source if run.prepared else None,
    }
    stages = {f"time of {stage}, s": seconds for stage, seconds in run.seconds.items()}
    return [_line(key, [value]) for key, value in (facts | stages).items()]


def view_facts(run: Run) -> list[Line]:
    """Mean metrics of the compared views, the protocol, and what the views are."""
    if not run.views:
        return [_line("held-out views", [None])]
    kind, shared = trained_on(run)
    words = {
        "held_out": "held out: none of them was trained on",
        "training": "TRAINING VIEWS: not a measure of novel views",
        "partly training": f"PARTLY TRAINED ON: {shared} of them are training views",
    }
    facts = {"compared views": words[kind], "number": len(run.views.get("per_view", {})) or None}
    rest = {k: v for k, v in run.views.items() if k not in ("per_view", "views", "manifest", "notes")}
    return [_line(_VIEW_LABELS.get(key) or key, [value]) for key, value in (facts | flatten(rest)).items()]


def texture_facts(run: Run) -> list[Line]:
    """How well the texture reproduces the photographs, how visible its seams are, and its size; [] without a texture."""
    if not run.texture:
        return []
    texture = run.texture
    seams, loss = texture.get("seams") or {}, texture.get("simplified") or {}
    size = (texture.get("settings") or {}).get("texture", {}).get("size")
    facts = {
        "PSNR of the textured mesh against the photographs it was baked from, dB": texture.get("psnr"),
        "the same, photographs that took no part, dB": texture.get("psnr_held_out"),
        "step of colour across seams, mean, levels of 255": seams.get("mean"),
        "step of colour across seams, 95 %": seams.get("p95"),
        "texels a side": size,
        "triangles": texture.get("triangles"),
        "charts": texture.get("charts"),
        "share of the surface that a photograph sees": texture.get("seen"),
        "distance to the mesh before simplification, largest": loss.get("max"),
        "frame and unit of the files": ", ".join(str(texture[key]) for key in ("frame", "unit") if key in texture) or None,
        "seconds": texture.get("seconds"),
    }
    return [_line(key, [value]) for key, value in facts.items() if value is not None or key.startswith("PSNR")]


def texture_files(run: Run, home: Path | None) -> list[tuple[str, str, str]]:
    """Name, address and size of each file of the textured mesh; the address is relative to the report's folder `home`, "" without."""
    folder = run.textured.parent if run.textured else run.folder / "texture"
    found = []
    for path in (folder / name for name in _TEXTURE_FILES):
        if path.is_file():
            address = quote(Path(os.path.relpath(path.resolve(), home.resolve())).as_posix()) if home else ""
            found.append((path.name, address, f"{path.stat().st_size / 1e3:,.0f} kB"))
    return found


def per_view_lines(run: Run) -> tuple[list[str], list[Line]]:
    """Metric names and one line per compared view."""
    per_view = {name: values for name, values in run.views.get("per_view", {}).items() if isinstance(values, Mapping)}
    keys = list(dict.fromkeys(key for values in per_view.values() for key in values))
    return keys, [_line(name, [values.get(key) for key in keys]) for name, values in per_view.items()]
