"""The pages: one for each scene with verdicts, coverage, the region in photographs and costs; one index over all scenes.

They hold no script and make no request; style and pictures are those of the report.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nsr import __version__
from nsr.conventions import MASK_OBJECT, Array, camera_centres
from nsr.preflight.cost import GPU_START, SOURCE, Cost, photographs_gb
from nsr.preflight.finding import LEVELS, Finding, worst
from nsr.preflight.geometry import ball_outline, sphere_directions
from nsr.preflight.photos import PhotoFacts
from nsr.report.figures import HELD_OUT, camera_layout, draw, scene_axes
from nsr.report.pictures import Picture, encode, spread
from nsr.scene.images import load_image, load_mask
from nsr.scene.scene import Scene, View, unit_words

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SHOWN = 6  # photographs with the region drawn in
_WIDTH = 420  # px
_BALL, _MASK = (255, 140, 30), (60, 200, 255)
_MANY = 12  # cameras; the coverage map ends there
_SKY = (48, 96)  # rows and columns of the coverage map


@dataclass(frozen=True)
class Material:
    """What a scene's page is made of. Attributes: scene; findings; photos, of the views; seen, cameras for each of the directions
    of `sphere_directions` (P,); costs; diameters of the region in the photographs, (V,) pixels."""

    scene: Scene
    findings: Sequence[Finding]
    photos: Sequence[PhotoFacts]
    seen: NDArray[np.int64]
    costs: Sequence[Cost]
    diameters: Array


def scene_page(material: Material) -> str:
    """The page of one scene as HTML text."""
    scene = material.scene
    unit_w2c = scene.unit_w2c(scene.views)
    rows = sorted(material.findings, key=lambda finding: -LEVELS.index(finding.level))
    shown = spread(scene.views, _SHOWN)
    return _render(
        "scene.html",
        scene=scene,
        verdict=worst(material.findings),
        findings=rows,
        cameras=_svg(camera_layout(unit_w2c, [not view.held_out for view in scene.views], "preflight")),
        sky=_svg(coverage_map(material.seen, unit_w2c)),
        shares=[(f"{count}" if count < 5 else "5 or more", share) for count, share in enumerate(_histogram(material.seen))],
        photographs=[region_picture(scene, view) for view in shown],
        costs=material.costs,
        gigabytes=photographs_gb(scene.views),
        source=SOURCE,
        start=GPU_START,
        duration=duration,
        per_view=[
            (view, item, diameter) for view, item, diameter in zip(scene.views, material.photos, material.diameters, strict=True)
        ],
        masked=any(view.mask is not None for view in scene.views),
        sizes=_sizes(scene.views),
        footprint=_footprint(scene),
    )


def index_page(found: Sequence[tuple[Path | None, dict[str, Any]]], home: Path) -> str:
    """The page over all scenes, the worst first.

    Args:
        found: each scene's page, None without one, and the content of its `preflight.json`. home: folder of this page.
    """
    order = sorted(found, key=lambda item: (-LEVELS.index(item[1]["verdict"]), item[1]["scene"]))
    rows = [(page and Path(os.path.relpath(page, home)).as_posix(), facts) for page, facts in order]
    counts = {level: sum(facts["verdict"] == level for _, facts in rows) for level in reversed(LEVELS)}
    return _render("index.html", rows=rows, counts=counts, duration=duration)


def coverage_map(seen: NDArray[np.int64], unit_w2c: Array) -> str:
    """How many cameras see surface that faces a direction: longitude and height in an upright frame, with the cameras, as SVG.

    Args:
        seen: (P,) of `times_seen` for `sphere_directions(P)`. unit_w2c: (V, 4, 4).
    """
    frame, _ = scene_axes(unit_w2c)
    directions = sphere_directions(len(seen)) @ frame.T
    rows, columns = _SKY
    # Equal steps of the sine of the latitude: equal areas of the map are equal areas of the sphere.
    height = np.linspace(1, -1, rows * 2 + 1)[1::2, None]
    turn = np.linspace(-np.pi, np.pi, columns * 2 + 1)[None, 1::2]
    flat = np.sqrt(1 - height**2)
    pixels = np.stack([flat * np.cos(turn), flat * np.sin(turn), np.broadcast_to(height, (rows, columns))], axis=-1)
    nearest = (pixels.reshape(-1, 3) @ directions.T).argmax(axis=1)
    picture = seen[nearest].reshape(rows, columns)
    cameras = camera_centres(unit_w2c) @ frame.T
    cameras /= np.maximum(np.linalg.norm(cameras, axis=1, keepdims=True), 1e-12)

    def paint(axes: Axes) -> None:
        shown = axes.imshow(picture, extent=(-180, 180, -1, 1), aspect="auto", vmin=0, vmax=_MANY, cmap="viridis")
        axes.plot(np.degrees(np.arctan2(cameras[:, 1], cameras[:, 0])), cameras[:, 2], "o", color=HELD_OUT, markersize=3.5)
        axes.set_xticks([-180, -90, 0, 90, 180])
        axes.set_yticks([-1, -0.5, 0, 0.5, 1], ["-90°", "-30°", "0°", "30°", "90°"])
        axes.set_xlabel("direction around the object, degrees")
        axes.set_title("Cameras that see each side of the object", loc="left", fontsize=10)
        axes.figure.colorbar(shown, ax=axes, label=f"cameras ({_MANY}: or more)", pad=0.02)

    label = f"{float((seen == 0).mean()):.0%} of the directions are seen by no camera"
    return draw(paint, size=(6.4, 3.4), prefix="preflight-sky", label=label)


def region_picture(scene: Scene, view: View) -> Picture:
    """A photograph with the outline of the unit ball and the edge of its mask.

    Raises:
        DataError: its files cannot be read.
    """
    from PIL import Image, ImageDraw

    image = Image.fromarray(load_image(view.image))
    factor = min(1.0, _WIDTH / view.width)
    image = image.resize((max(1, round(view.width * factor)), max(1, round(view.height * factor))), Image.Resampling.LANCZOS)
    if view.mask is not None:
        mask = Image.fromarray(np.where(load_mask(view.mask) == MASK_OBJECT, 255, 0).astype(np.uint8)).resize(image.size)
        inside = np.asarray(mask) > 127
        edge = np.zeros_like(inside)  # two pixels wide
        for rows, columns in ((2, 0), (-2, 0), (0, 2), (0, -2)):
            edge |= inside & ~np.roll(inside, (rows, columns), axis=(0, 1))
        pixels = np.array(image)
        pixels[edge] = _MASK
        image = Image.fromarray(pixels)
    outline = ball_outline(view.K, scene.unit_w2c([view])[0])
    caption = view.name
    if outline is not None:
        points = [(float(x), float(y)) for x, y in (*outline * factor, outline[0] * factor)]
        ImageDraw.Draw(image).line(points, fill=_BALL, width=2)
        if not ((outline > 0) & (outline < (view.width, view.height))).all(axis=1).any():
            caption += ": the outline lies outside"
    else:
        caption += ": taken from within the region"
    return encode(np.array(image), caption, f"Photograph {view.name} with the outline of the region", _WIDTH)


def duration(seconds: float) -> str:
    """Seconds as text: "35 s", "12 min", "3.4 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _histogram(seen: NDArray[np.int64]) -> list[float]:
    counts = np.bincount(np.minimum(seen, 5), minlength=6) / len(seen)
    return [float(share) for share in counts]


def _sizes(views: Sequence[View]) -> str:
    sizes = sorted({(view.width, view.height) for view in views})
    return f"{sizes[0][0]} x {sizes[0][1]}" + (f" to {sizes[-1][0]} x {sizes[-1][1]}" if len(sizes) > 1 else "") + " px"


def _footprint(scene: Scene) -> str:
    """What a pixel of the median photograph covers at the middle of the region, in world units."""
    distance = np.linalg.norm(camera_centres(scene.unit_w2c(scene.views)), axis=1) * scene.similarity.scale
    focal = np.array([view.K[0, 0] for view in scene.views])
    return f"{np.median(distance / focal):.3g} {unit_words(scene.unit)}"


def _svg(text: str) -> Any:
    from markupsafe import Markup

    return Markup(text)  # noqa: S704 (made by nsr.report.figures, which puts no text of the input into it)


def _render(name: str, **values: Any) -> str:
    from jinja2 import Environment, FunctionLoader, StrictUndefined
    from markupsafe import Markup

    def asset(asset_name: str, package: str = "nsr.preflight") -> str:
        return resources.files(package).joinpath(asset_name).read_text(encoding="utf-8")

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, loader=FunctionLoader(asset)
    )
    return environment.get_template(name).render(
        style=Markup(asset("page.css", "nsr.report")),  # noqa: S704 (a file of this project)
        version=__version__,
        date=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        badge={"ok": "good", "warning": "warn", "stop": "bad"},
        **values,
    )
