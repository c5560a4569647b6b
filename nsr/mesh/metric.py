"""Real units: a known distance between two points, or a similarity file, takes the world frame to a metric one.

The world frame of structure from motion has no scale. Meshes leave in the metric frame where the settings give one; the
file names its unit and the similarity, so that `nsr.mesh.io.read_mesh` brings it back to the world frame of the cameras.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nsr.config import MetricConfig
from nsr.conventions import Similarity
from nsr.errors import DataError
from nsr.provenance import parse_json


@dataclass(frozen=True)
class Metric:
    """A metric frame.

    Attributes:
        similarity: world -> metric. unit: name of its unit of length.
    """

    similarity: Similarity
    unit: str

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {"unit": self.unit, **self.similarity.to_dict()}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Metric:
        """Inverse of `to_dict`."""
        return cls(Similarity.from_dict(data), str(data["unit"]))


def metric_of(config: MetricConfig) -> Metric | None:
    """The metric frame that the settings give; None where they give none.

    Raises:
        DataError: the similarity file is missing or holds no similarity.
    """
    if config.file:
        return Metric(read_similarity(Path(config.file)), config.unit)
    if config.distance <= 0:
        return None
    found = float(np.linalg.norm(np.subtract(config.second, config.first)))
    return Metric(Similarity(config.distance / found, np.eye(3), np.zeros(3)), config.unit)


def read_similarity(path: Path) -> Similarity:
    """A similarity from JSON with `scale`, `R` and `t`, or from a text file with the 4x4 matrix `[scale R | t]`.

    Raises:
        DataError: missing, or neither of the two.
    """
    try:
        if path.suffix.lower() == ".json":
            return Similarity.from_dict(parse_json(path.read_text()))
        lines = (line.split("#")[0].split() for line in path.read_text().splitlines())
        matrix = np.array([line for line in lines if line], dtype=np.float64)
        if matrix.shape != (4, 4) or not np.allclose(matrix[3], [0, 0, 0, 1]):
            raise ValueError("not a 4x4 matrix with last row 0 0 0 1")
        scale = float(np.cbrt(np.linalg.det(matrix[:3, :3])))
        return Similarity(scale, matrix[:3, :3] / scale if scale else matrix[:3, :3], matrix[:3, 3])
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check mesh.metric.file") from error
    except (ValueError, KeyError, TypeError, DataError) as error:
        raise DataError(
            f"{path}: no similarity ({error}); give JSON with scale, R and t, or text with a 4x4 matrix [scale R | t]"
        ) from error
