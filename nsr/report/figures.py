"""Vector figures of one run as SVG text for inlining: training curves, camera layout, cross-sections, error scale.

Text and axes take the page's text colour (`currentColor`) and there is no background, so the figures follow a dark page.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nsr.conventions import Array, camera_centres
from nsr.report.shade import colour_stops

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK = "#010203"  # stands for the page's text colour until the SVG is written
ACCENT = "#3d82d6"
PALETTE = ("#3d82d6", "#d55e00", "#009e73", "#cc79a7", "#b58900", "#56b4e9")
HELD_OUT = "#e0762b"
MESH_RED = "#d6303a"
TRUTH_GREEN = "#2f9e55"
MAX_CURVE_POINTS = 400
SLAB = 0.006  # unit-frame lengths on either side of a cut from which ground-truth samples are taken
MAX_SLAB_POINTS = 700
_MIN_UP = 0.3  # mean of the cameras' up vectors under which they do not agree on an up direction


@dataclass(frozen=True)
class Curve:
    """A training curve. Attributes: key of the log; title; logarithmic value axis."""

    key: str
    title: str
    logarithmic: bool = False


CURVES = (
    Curve("psnr", "PSNR of training rays, dB"),
    Curve("loss", "Loss", logarithmic=True),
    Curve("eikonal", "Eikonal term", logarithmic=True),
    Curve("sharpness", "Sharpness 1/s"),
)


def draw(paint: Callable[[Axes], None], *, size: tuple[float, float], prefix: str, label: str) -> str:
    """Run `paint` on empty axes and return the drawing as one `<svg>` element.

    Args:
        paint: draws on the axes. size: inches. prefix: makes the ids unique on the page. label: text for screen readers,
            plain characters only.
    """
    import matplotlib

    style: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": prefix, "font.size": 9.0, "path.simplify_threshold": 0.1}
    inked = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color", "grid.color")
    with matplotlib.rc_context(style | dict.fromkeys(inked, INK)):
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure

        figure = Figure(figsize=size, layout="constrained")
        canvas = FigureCanvasSVG(figure)
        figure.patch.set_visible(False)
        axes = figure.add_subplot()
        axes.patch.set_visible(False)
        axes.spines[["top", "right"]].set_visible(False)
        paint(axes)
        out = io.StringIO()
        canvas.print_svg(out, metadata={"Date": None})
    return _inline(out.getvalue(), prefix, label)


def _inline(text: str, prefix: str, label: str) -> str:
    """Strip what only a stand-alone file needs, scope the ids, and hand colours and fonts to the page."""
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', rf'\1 role="img" aria-label="{label}"', text, count=1)
    text = re.sub(r'\bid="', f'id="{prefix}-', text)
    text = text.replace("url(#", f"url(#{prefix}-").replace('href="#', f'href="#{prefix}-')
    text = re.sub(r"font: ([\d.]+px)[^;\"]*", r"font-size: \1", text)
    text = re.sub(r"(\d+\.\d\d)\d+", r"\1", text)  # hundredths of a point are enough
    return re.sub(r"\s*\n\s*", "\n", text).replace(INK, "currentColor")


def curves(logs: Mapping[str, Sequence[Mapping[str, Any]]], prefix: str) -> list[str]:
    """One SVG for each quantity of `CURVES` that a log holds.

    Args:
        logs: rows of `metrics.jsonl` by rising step, by the name of the method; each gets a line of `method_colour`, of a model of
            several fields each field a line over its own steps.
        prefix: of the ids.
    """
    fields = [(index, rows) for index, log in enumerate(logs.values()) for rows in _by_field(log)]
    found = []
    for curve in CURVES:
        lines = [(index, _points(rows, curve.key, MAX_CURVE_POINTS * len(logs) // len(fields))) for index, rows in fields]
        lines = [(index, points) for index, points in lines if len(points)]
        if lines:
            found.append(_curve(curve, lines, prefix))
    return found


def _by_field(log: Sequence[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """The rows of each field of a model, whose steps a log counts through, with steps that begin anew."""
    found: list[list[Mapping[str, Any]]] = []
    before = 0.0
    for _, rows in groupby(log, key=lambda row: row.get("member")):
        steps = [(float(row["step"]), row) for row in rows]
        found.append([{**row, "step": step - before} for step, row in steps])
        before = steps[-1][0]
    return found


def method_colour(index: int) -> str:
    """Colour of the n-th method, repeating after the last; told apart by the colour-blind too (Okabe and Ito 2008)."""
    return PALETTE[index % len(PALETTE)]


def _points(rows: Sequence[Mapping[str, Any]], key: str, most: int) -> Array:
    """Steps and values (N, 2), finite and at most `most`."""
    pairs = [(row["step"], row[key]) for row in rows if isinstance(row.get(key), (int, float))]
    points = np.asarray(pairs, dtype=np.float64).reshape(-1, 2)
    points = points[np.isfinite(points).all(axis=1)]
    if not len(points):
        return points
    return points[np.unique(np.linspace(0, len(points) - 1, most).round().astype(int))]


def _curve(curve: Curve, lines: Sequence[tuple[int, Array]], prefix: str) -> str:
    """One SVG. Args: lines: number of the method, and steps and values (N, 2)."""

    def paint(axes: Axes) -> None:
        from matplotlib.ticker import LogLocator, NullFormatter

        for method, points in lines:
            marker = "o" if len(points) == 1 else None
            axes.plot(points[:, 0], points[:, 1], color=method_colour(method), linewidth=1.5, marker=marker)
        if curve.logarithmic and all((points[:, 1] > 0).all() for _, points in lines):
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
            axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_title(curve.title, loc="left", fontsize=10)
        axes.set_xlabel("step")
        axes.grid(alpha=0.15, linewidth=0.8)

    ends = "; ".join(f"{points[-1, 1]:.4g} at step {points[-1, 0]:.0f}" for _, points in lines)
    label = f"{curve.title} over training steps; last value {ends}"
    return draw(paint, size=(2.8, 2.0), prefix=f"{prefix}-{curve.key}", label=label)


def scene_axes(unit_w2c: Array) -> tuple[Array, str]:
    """A frame that stands upright, and how "up" was found.

    Args:
        unit_w2c: (V, 4, 4) unit frame to camera.

    Returns:
        (3, 3) rows east, north, up in the unit frame (right-handed), and a description of `up` for a caption.
    """
    up = -unit_w2c[:, 1, :3].mean(axis=0)
    source = "the cameras' mean up direction"
    if np.linalg.norm(up) < _MIN_UP:
        centres = camera_centres(unit_w2c)
        up = np.linalg.svd(centres - centres.mean(axis=0))[2][-1]
        source = "the direction in which the cameras spread least"
    up = up / np.linalg.norm(up)
    east = np.eye(3)[np.argmin(np.abs(up))]
    east = east - (east @ up) * up
    east /= np.linalg.norm(east)
    return np.stack([east, np.cross(up, east), up]), source


def camera_layout(unit_w2c: Array, trained: Sequence[bool], prefix: str) -> str:
    """Cameras from above, with viewing directions and the unit ball, in unit-frame lengths.

    Args:
        unit_w2c: (V, 4, 4). trained: whether each view was trained on. prefix: of the ids.
    """
    frame, _ = scene_axes(unit_w2c)
    centres, forward = camera_centres(unit_w2c) @ frame.T, unit_w2c[:, 2, :3] @ frame.T
    used = np.asarray(trained, dtype=bool)

    def paint(axes: Axes) -> None:
        from matplotlib.patches import Circle

        axes.add_patch(Circle((0, 0), 1.0, facecolor=INK, alpha=0.12, linewidth=0))
        length = 0.12 * max(1.0, float(np.abs(centres[:, :2]).max()))
        for keep, colour, marker, name in ((used, ACCENT, "o", "trained on"), (~used, HELD_OUT, "D", "held out")):
            if keep.any():
                ends = np.stack([centres[keep, :2], centres[keep, :2] + length * forward[keep, :2]], axis=1)
                lines = np.concatenate([ends, np.full((len(ends), 1, 2), np.nan)], axis=1).reshape(-1, 2)
                axes.plot(*lines.T, color=colour, linewidth=1.2, alpha=0.7)
                axes.plot(*centres[keep, :2].T, marker, color=colour, markersize=5, label=f"{name} ({keep.sum()})")
        axes.set_aspect("equal", adjustable="datalim")
        axes.set_title("Cameras from above, unit-frame lengths", loc="left", fontsize=10)
        axes.grid(alpha=0.15, linewidth=0.8)
        axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(0, -0.1), ncols=2, fontsize=9)

    label = f"Top view of {len(used)} cameras around the object; {int((~used).sum())} of them held out"
    return draw(paint, size=(3.6, 3.6), prefix=f"{prefix}-cameras", label=label)


Lines = list[Array]


def section(vertices: Array, faces: NDArray[np.integer], axes: Array, normal: int) -> Lines:
    """Where a mesh meets the plane through the origin.

    Args:
        vertices: (M, 3). faces: (T, 3). axes: (3, 3) orthonormal rows, frame of the vertices. normal: row that is the normal.

    Returns:
        Polylines (N, 2) in the coordinates of the two other rows, in order; empty if the plane misses the mesh.
    """
    import trimesh

    found = trimesh.Trimesh(vertices, faces, process=False).section(plane_normal=axes[normal], plane_origin=np.zeros(3))
    plane = np.delete(axes, normal, axis=0)
    if found is None:
        return []
    # By entity: `Path3D.discrete` silently leaves out lines that do not close, which is what an open surface gives.
    return [np.asarray(entity.discrete(found.vertices)) @ plane.T for entity in found.entities]


def slab(points: Array, axes: Array, normal: int) -> Array:
    """Points (P, 3) within `SLAB` of the plane of `section`, at most `MAX_SLAB_POINTS`, in its coordinates (N, 2)."""
    near = points[np.abs(points @ axes[normal]) <= SLAB]
    kept = near[:: max(1, -(-len(near) // MAX_SLAB_POINTS))]
    return np.asarray(kept @ np.delete(axes, normal, axis=0).T)


def cross_section(mesh: Lines, truth: Lines, *, title: str, prefix: str, samples: Array | None = None) -> str:
    """Mesh (red, thin) over ground truth (green, thick) in one plane, unit-frame lengths.

    Args:
        mesh, truth: of `section`. title, prefix: plain characters. samples: (N, 2) of `slab`, drawn where there is no line
            of the ground truth, None if there are none.
    """

    def paint(axes: Axes) -> None:
        if samples is not None and len(samples):
            axes.plot(
                *samples.T, ".", color=TRUTH_GREEN, markersize=3.5, alpha=0.75, markeredgewidth=0, label="ground-truth samples"
            )
        styles = ((truth, TRUTH_GREEN, 2.6, 0.75, "ground truth"), (mesh, MESH_RED, 1.0, 1.0, "mesh"))
        for lines, colour, width, alpha, name in styles:
            if lines:
                joined = np.concatenate([part for line in lines for part in (line, np.full((1, 2), np.nan))])
                axes.plot(*joined.T, color=colour, linewidth=width, alpha=alpha, label=name)
        axes.set_aspect("equal", adjustable="datalim")
        axes.set_title(title, loc="left", fontsize=10)
        axes.grid(alpha=0.15, linewidth=0.8)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(0, -0.1), ncols=2, fontsize=9)
        else:
            axes.text(0.5, 0.5, "the plane misses the surface", transform=axes.transAxes, ha="center")

    known = bool(truth) or (samples is not None and len(samples) > 0)
    label = f"{title}: mesh in red, {'ground truth in green' if known else 'no ground truth'}"
    return draw(paint, size=(3.6, 3.6), prefix=prefix, label=label)


def error_scale(largest: float, unit: str, prefix: str) -> str:
    """The colour map of the error pictures with ticks from 0 to `largest` (and above), as an SVG strip."""
    stops = colour_stops()
    marks = "".join(f'<stop offset="{i / (len(stops) - 1):.3f}" stop-color="{c}"/>' for i, c in enumerate(stops))
    ticks = "".join(
        f'<text x="{10 + 300 * i / 4:.0f}" y="32" text-anchor="middle">{"≥ " if i == 4 else ""}{largest * i / 4:g}</text>'
        for i in range(5)
    )
    return (
        f'<svg viewBox="0 0 330 52" role="img" aria-label="Error scale from 0 to {largest:g} {unit}" font-size="11" '
        f'fill="currentColor"><defs><linearGradient id="{prefix}-scale">{marks}</linearGradient></defs>'
        f'<rect x="10" y="4" width="300" height="14" rx="2" fill="url(#{prefix}-scale)"/>{ticks}'
        f'<text x="10" y="48">distance to the ground truth, {unit}</text></svg>'
    )
