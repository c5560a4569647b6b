"""The surface protocols by their names in the manifest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from nsr.config import EvaluateConfig
from nsr.conventions import Array
from nsr.errors import EvaluationError
from nsr.evaluate import dtu, object_surface, surface_distance, tanks
from nsr.evaluate.points import read_points, read_truth
from nsr.evaluate.result import SurfaceResult
from nsr.mesh.io import read_mesh
from nsr.mesh.surface import Mesh
from nsr.mesh.visibility import Camera

DEFAULT = object_surface.PROTOCOL


@dataclass(frozen=True)
class Protocol:
    """A way to measure a mesh.

    Attributes:
        version: raised whenever its numbers change. evaluate: (prediction, ground-truth file, cameras, config, threads) ->
            result, all in the ground truth's frame. truth: reads the ground truth as mesh or points, for an alignment.
    """

    version: int
    evaluate: Callable[[Mesh, Path, Sequence[Camera], EvaluateConfig, int], SurfaceResult]
    truth: Callable[[Path], Mesh | Array]


def _object_surface(mesh: Mesh, truth: Path, cameras: Sequence[Camera], config: EvaluateConfig, threads: int) -> SurfaceResult:
    return object_surface.evaluate_surface(mesh, read_mesh(truth), cameras, config, threads)


def _surface_distance(mesh: Mesh, truth: Path, cameras: Sequence[Camera], config: EvaluateConfig, threads: int) -> SurfaceResult:
    return surface_distance.evaluate_distance(mesh, read_truth(truth), cameras, config, threads)


def _dtu(mesh: Mesh, truth: Path, cameras: Sequence[Camera], config: EvaluateConfig, threads: int) -> SurfaceResult:
    return dtu.evaluate_dtu(mesh, dtu.read_dtu(truth), cameras, config, threads)


def _tanks(mesh: Mesh, truth: Path, _: Sequence[Camera], config: EvaluateConfig, threads: int) -> SurfaceResult:
    return tanks.evaluate_tanks(mesh, truth, config, threads)


PROTOCOLS = {
    object_surface.PROTOCOL: Protocol(object_surface.VERSION, _object_surface, read_mesh),
    surface_distance.PROTOCOL: Protocol(surface_distance.VERSION, _surface_distance, read_truth),
    dtu.PROTOCOL: Protocol(dtu.VERSION, _dtu, read_points),
    tanks.PROTOCOL: Protocol(tanks.VERSION, _tanks, read_points),
}


def protocol_of(name: str) -> Protocol:
    """The protocol of a name.

    Raises:
        EvaluationError: there is none.
    """
    if name not in PROTOCOLS:
        raise EvaluationError(f"no protocol '{name}'; one of {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]
