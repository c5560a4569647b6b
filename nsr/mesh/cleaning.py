"""The order in which every mesh is cleaned, and the record of what each step left."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nsr.config import MeshConfig
from nsr.log import get_logger
from nsr.mesh import clean, cull
from nsr.mesh.surface import Mesh
from nsr.mesh.visibility import cameras_of
from nsr.scene.scene import Scene

if TYPE_CHECKING:
    import torch


class StepLog:
    """What was done to a mesh: steps with triangles left and seconds taken, and notes."""

    def __init__(self) -> None:
        self.steps: list[dict[str, Any]] = []
        self.notes: list[str] = []
        self.last = time.perf_counter()

    def done(self, step: str, mesh: Mesh, remedy: str) -> Mesh:
        """Note a step and hand its mesh on.

        Raises:
            EmptyMesh: it has no face; the message names the step and the remedy.
        """
        now = time.perf_counter()
        self.steps.append({"step": step, "triangles": len(mesh.faces), "seconds": round(now - self.last, 3)})
        self.last = now
        get_logger().info("%s: %d triangles left", step, len(mesh.faces))
        return clean.require_faces(mesh, step, remedy)


def clean_mesh(
    mesh: Mesh,
    scene: Scene,
    config: MeshConfig,
    log: StepLog,
    *,
    occupied: NDArray[np.bool_] | None = None,
    cap: float = 0.0,
    device: torch.device | str = "cpu",
    threads: int = 0,
) -> clean.Parts:
    """Region of interest, mask culling, ghosts, largest components, visibility culling, crumbs; in the unit frame.

    The masks go before the components, so that what they rule out does not count as one. It still hides what lies behind it.

    Args:
        occupied: the model's occupancy grid (G, G, G). cap: see `clean.inside_region`. log: gets the steps and notes.

    Raises:
        EmptyMesh: a step removed the last face.
    """
    cameras = cameras_of(scene.views, scene.unit_w2c(scene.views))
    mesh = log.done("extracted", clean.drop_degenerate(mesh), "look at the training curve and prepare.region")
    mesh = clean.inside_region(mesh, scene.similarity, config.box, 0.0 if config.caps else cap)
    mesh = log.done("region of interest", mesh, "look at mesh.box and prepare.region, or set mesh.caps=true")
    whole = mesh
    if config.mask_dilation >= 0 and scene.has_masks:
        mesh = log.done(
            "mask culling",
            cull.cull_masked(mesh, cameras, config.mask_dilation),
            "the model's surface lies outside the object masks; look at them, raise mesh.mask_dilation, or switch off with -1",
        )
    elif config.mask_dilation >= 0:
        log.notes.append("no mask culling: the scene has no masks")
    occupied = occupied if config.rendered else None
    parts = _without_ghosts(mesh, occupied, device)
    if occupied is not None:
        log.done("ghosts", parts.mesh, "no part of the surface was ever rendered; look at the training curve")
    parts = clean.without_fragments(clean.largest_parts(parts, config.components), config.component_share)
    log.done("largest components", parts.mesh, "set mesh.components=0 and lower mesh.component_share")
    if config.min_views > 0:
        # A table that the masks rule out still hides what the model put under it, which no photograph supports.
        hiding = parts.mesh if mesh is whole else _without_ghosts(whole, occupied, device).mesh
        mesh = cull.cull_unseen(parts.mesh, cameras, config.min_views, threads, hiding=hiding)
        log.done("visibility culling", mesh, "no camera sees the surface; lower mesh.min_views and look at the scene's region")
        parts = parts if mesh is parts.mesh else clean.parts_of(mesh, device)
        parts = clean.without_fragments(parts, config.component_share)
        log.done("crumbs", parts.mesh, "set mesh.min_views=0")
    return parts


def _without_ghosts(mesh: Mesh, occupied: NDArray[np.bool_] | None, device: torch.device | str) -> clean.Parts:
    """The components, where `occupied` is known those that were rendered."""
    parts = clean.parts_of(mesh, device)
    return parts if occupied is None else clean.rendered_parts(parts, occupied)
