"""The result files of the evaluation stages: JSON with numbers and how they were made, `.npz` with arrays for pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nsr.conventions import Similarity
from nsr.errors import DataError
from nsr.provenance import manifest, whole_file, write_json

NO_ALIGNMENT = {"kind": "none", "scale": 1.0, "rms": 0.0}
KEPT_POINTS = 100_000  # of each side, for pictures


@dataclass(frozen=True)
class SurfaceResult:
    """What an evaluation of a surface finds.

    Attributes:
        metrics: numbers by name; always "chamfer", "accuracy", "completeness" or "f_score", in the unit that `unit` names.
        unit: "name", and what else the protocol says about its lengths.
        counts: number of points on both sides after each rule.
        arrays: points and distances for pictures, ground truth's frame: `points` (P, 3) of the prediction that were judged
            with `errors` (P,), `truth_points` (G, 3) with `truth_errors` (G,), `vertex_error` (M,) of every predicted vertex.
        notes: what a reader of the numbers must know.
        variants: metrics by the name of a variant of the protocol, for protocols that have several.
        refinement: what the protocol itself moved the prediction by, before it measured.
    """

    metrics: dict[str, float]
    unit: dict[str, Any]
    counts: dict[str, int]
    arrays: dict[str, NDArray[Any]]
    notes: tuple[str, ...]
    variants: dict[str, dict[str, float]] = field(default_factory=dict)
    refinement: Similarity = field(default_factory=Similarity.identity)


def check_result_name(out: Path) -> None:
    """Raise DataError if a result's file is not called `.json`: its arrays lie beside it under the same name."""
    if out.suffix != ".json" or out.is_dir():
        raise DataError(f"{out}: the result is written as JSON; give --out a file name that ends in .json")


def build_result(
    *, protocol: str, version: int, settings: Mapping[str, Any], metrics: Mapping[str, float], notes: Sequence[str], **more: Any
) -> dict[str, Any]:
    """A result with the fields that every protocol has, then `more` of its own, then the manifest; JSON has no NaN or infinity."""
    result = {"protocol": protocol, "version": version, "settings": dict(settings), "metrics": dict(metrics)}
    return _finite({**result, **more, "notes": list(notes), "manifest": manifest(seed=_seed(settings))})


def _seed(settings: Mapping[str, Any]) -> int | None:
    """Seed of the drawn samples."""
    return settings.get("evaluate", settings).get("seed")


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write a compressed `.npz` atomically."""
    with whole_file(path) as partial, partial.open("wb") as handle:
        np.savez_compressed(handle, **dict[str, Any](arrays))


def write_result(path: Path, result: Mapping[str, Any]) -> None:
    """Write a result's JSON atomically."""
    write_json(path, dict(result))


def _finite(value: Any) -> Any:
    """The same data with plain numbers, and None for those that are not finite."""
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if np.isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else value
