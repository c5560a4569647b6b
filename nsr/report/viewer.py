"""Data of the page's 3D viewer: surfaces as small GLB files, cameras, and how to look at them. Everything is in the unit frame."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from nsr.conventions import OPENGL_TO_OPENCV, Similarity, camera_centres
from nsr.errors import DataError
from nsr.report import figures
from nsr.report.preview import Budget, Preview, read_textured, surface_preview, textured_preview
from nsr.report.shade import BACK, FRONT, UNCOUNTED, colour_stops
from nsr.scene.scene import Scene

if TYPE_CHECKING:
    from nsr.report.sections import RunPage


@dataclass(frozen=True)
class Viewer:
    """Attributes: facts, for the page's script; surfaces, the previews by the id that `facts` names."""

    facts: dict[str, Any]
    surfaces: dict[str, Preview]


def make_viewer(anchor: str, scene: Scene, pages: Sequence[RunPage], budget: Budget) -> Viewer | None:
    """Everything that the viewer of a scene shows; None if there is no surface."""
    surfaces: dict[str, Preview] = {}
    listed = []
    for page in pages:
        for kind, preview in _previews(page, scene, budget):
            name = f"{page.anchor}-{kind}"
            surfaces[name] = preview
            label = f"{page.run.method}, {kind}" if len(pages) > 1 else kind
            listed.append(
                {
                    "id": name,
                    "label": label,
                    "look": preview.look,
                    "judged": preview.judged,
                    "end": page.error_end,
                    "unit": page.error_unit,
                }
            )
    if not surfaces:
        return None
    unit_w2c = scene.unit_w2c(scene.views)
    facts = {
        "anchor": anchor,
        "up": _rounded(figures.scene_axes(unit_w2c)[0][2]),
        "surfaces": listed,
        "cameras": _cameras(scene),
        "stops": colour_stops(),
        "front": list(FRONT),
        "back": list(BACK),
        "uncounted": list(UNCOUNTED),
    }
    return Viewer(facts, surfaces)


def _previews(page: RunPage, scene: Scene, budget: Budget) -> Iterator[tuple[str, Preview]]:
    """Surfaces of a run; the textured mesh stands for the one it was made of."""
    textured = page.attempt("textured mesh", None, _textured, page, scene, budget) if page.run.textured else None
    if textured is not None:
        yield "textured", textured
    for kind, mesh in page.meshes.items():
        if textured is None or kind != "mesh":
            preview = page.attempt(f"{kind} in 3D", None, surface_preview, mesh, page.samples.get(kind), budget.faces)
            if preview is not None:
                yield kind, preview


def _textured(page: RunPage, scene: Scene, budget: Budget) -> Preview:
    assert page.run.textured is not None
    stated = page.run.texture.get("world_to_file")
    if stated is None and page.run.texture.get("frame", "world") != "world":
        raise DataError(f"{page.run.textured.name}: its facts do not say how its frame lies in the world (world_to_file)")
    to_file = Similarity.from_dict(stated).compose(scene.similarity) if stated else scene.similarity
    mesh = read_textured(page.run.textured, to_file)
    return textured_preview(mesh, page.samples.get("mesh"), budget.faces, budget.texture)


def _cameras(scene: Scene) -> list[dict[str, Any]]:
    """Name, camera-to-unit matrix in OpenGL axes, column by column, and vertical field of view in degrees."""
    w2c = scene.unit_w2c(scene.views)
    found = []
    for view, matrix, centre in zip(scene.views, w2c, camera_centres(w2c), strict=True):
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = matrix[:3, :3].T, centre
        found.append(
            {
                "name": view.name,
                "pose": _rounded((pose @ OPENGL_TO_OPENCV).T.reshape(-1)),
                "fov": round(float(np.degrees(2 * np.arctan(0.5 * view.height / view.K[1, 1]))), 3),
                "aspect": round(view.width / view.height, 4),
                "heldOut": view.held_out,
            }
        )
    return found


def _rounded(values: Any) -> list[float]:
    return [round(float(value), 5) for value in values]
