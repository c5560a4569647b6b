"""The HTML page: one self-contained file over all runs, without a single request to anywhere."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from nsr import __version__
from nsr.conventions import Array
from nsr.errors import NsrError
from nsr.mesh.surface import Mesh
from nsr.report import facts, figures, pictures
from nsr.report.collect import Run, Surface
from nsr.report.facts import Group, Line
from nsr.report.geometry import evaluated_samples, ground_truth_path, truth_frame, unit_mesh
from nsr.report.pictures import Picture
from nsr.report.tables import NOT_MEASURED, Row, number, short_columns, summary_rows, trained_on
from nsr.scene.scene import Scene, View

if TYPE_CHECKING:
    from markupsafe import Markup

ERROR_END = 2.0  # percent of the object radius at the end of the error colours; one scale for all runs
SURFACE_VIEWS = 2  # cameras from which surfaces are shown
COMPARED_VIEWS = 3  # views whose render is shown beside the photo
T = TypeVar("T")


@dataclass
class Gallery:
    """Pictures of one view in a row. Attributes: title; pictures."""

    title: str
    pictures: list[Picture]


@dataclass
class RunPage:
    """What the template shows of one run; empty lists stand for "not measured"."""

    anchor: str
    run: Run
    views_kind: str
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    groups: list[Group] = field(default_factory=list)
    training: list[Line] = field(default_factory=list)
    view_facts: list[Line] = field(default_factory=list)
    per_view_keys: list[str] = field(default_factory=list)
    per_view: list[Line] = field(default_factory=list)
    surfaces: list[Gallery] = field(default_factory=list)
    error_scale: str = ""
    comparisons: list[Gallery] = field(default_factory=list)
    curves: list[str] = field(default_factory=list)
    layout: list[str] = field(default_factory=list)
    up_source: str = ""
    raw: list[tuple[str, str]] = field(default_factory=list)

    def attempt(self, what: str, otherwise: T, make: Callable[..., T], *arguments: Any) -> T:
        """`make(*arguments)`, or `otherwise` and a warning on the page if a file it needs is broken."""
        try:
            return make(*arguments)
        except (NsrError, OSError, ValueError, KeyError) as error:
            self.warnings.append(f"{what}: {error}")
            return otherwise


def render_page(runs: Sequence[Run]) -> str:
    """The whole page as HTML text."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(resources.files("nsr.report").joinpath("template.html").read_text(encoding="utf-8"))
    rows = summary_rows(runs)
    pages = [_run_page(run, f"run-{index + 1}") for index, run in enumerate(runs)]

    def svg(text: str) -> Markup:
        return Markup(text)  # noqa: S704 (made by nsr.report.figures, which puts no text of the input into it)

    return template.render(
        pages=pages,
        rows=[(row, pages[index // len(runs[0].surfaces)]) for index, row in enumerate(rows)],
        columns=short_columns(rows),
        headline=headline(rows, runs),
        number=number,
        not_measured=NOT_MEASURED,
        svg=svg,
        version=__version__,
        date=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
    )


def headline(rows: Sequence[Row], runs: Sequence[Run]) -> str:
    """One sentence that says how much there is and how much of it was measured."""
    scenes, methods = {run.title for run in runs}, {run.method for run in runs}
    measured = sum("chamfer" in row for row in rows)
    failed = sum(bool(run.failures) for run in runs)
    return (
        f"{_count(len(scenes), 'scene')}, {_count(len(methods), 'method')}: {measured} of {_count(len(rows), 'surface')} measured "
        f"against ground truth, {_count(failed, 'run')} with a failed stage."
    )


def _count(number_of: int, noun: str) -> str:
    return f"{number_of} {noun}{'' if number_of == 1 else 's'}"


def _run_page(run: Run, anchor: str) -> RunPage:
    page = RunPage(anchor, run, trained_on(run)[0] if run.views else "")
    page.warnings = list(run.warnings)
    page.notes = list(dict.fromkeys(str(note) for part in _parts_with_notes(run) for note in part.get("notes", [])))
    page.groups = facts.surface_groups(run.surfaces, run.prepared.unit if run.prepared else "unknown")
    page.training, page.view_facts = facts.training_facts(run), facts.view_facts(run)
    page.per_view_keys, page.per_view = facts.per_view_lines(run)
    page.curves = figures.curves(run.curve, anchor)
    parts = {"sfm": run.sfm, "training": run.train, "render": run.render, "held-out views": run.views}
    parts |= {f"{s.kind}": s.info for s in run.surfaces} | {f"evaluation of {s.kind}": s.evaluation for s in run.surfaces}
    page.raw = [(name, json.dumps(data, indent=1, ensure_ascii=False)) for name, data in parts.items() if data]
    if run.prepared is not None:
        _add_scene_figures(page, run.prepared)
    return page


def _parts_with_notes(run: Run) -> list[Row]:
    return [*(part for surface in run.surfaces for part in (surface.info, surface.evaluation)), run.views]


def _add_scene_figures(page: RunPage, scene: Scene) -> None:
    """Everything that needs cameras: pictures of surfaces and views, the camera layout, cross-sections."""
    run = page.run
    unit_w2c = scene.unit_w2c(scene.views)
    trained = set(run.train.get("train_views", [view.name for view in scene.split("train")]))
    flags = [view.name in trained for view in scene.views]
    page.up_source = figures.scene_axes(unit_w2c)[1]
    page.layout.append(figures.camera_layout(unit_w2c, flags, page.anchor))
    folder = run.folder / "render"
    rendered = pictures.rendered_views(folder, scene.views)
    for view in pictures.spread(rendered, COMPARED_VIEWS):
        row = page.attempt(f"view {view.name}", list[Picture](), pictures.comparison, folder, view, scene.unit)
        if row:
            page.comparisons.append(Gallery(_view_title(run, view, view.name in trained), row))
    meshes: dict[str, Mesh] = {}
    for surface in run.surfaces:
        mesh = page.attempt(surface.kind, None, unit_mesh, surface.file, scene.similarity) if surface.file else None
        if mesh is not None:
            meshes[surface.kind] = mesh
    _add_surfaces(page, scene, meshes, rendered or list(scene.split("held_out")) or list(scene.views))
    _add_sections(page, scene, meshes, unit_w2c)


def _view_title(run: Run, view: View, trained: bool) -> str:
    values = run.views.get("per_view", {}).get(view.name, {})
    shown = [("psnr", "PSNR {:.2f} dB"), ("psnr_masked", "masked {:.2f} dB"), ("ssim", "SSIM {:.4f}")]
    parts = [text.format(values[key]) for key, text in shown if isinstance(values.get(key), (int, float))]
    return ", ".join([f"View {view.name} ({'trained on' if trained else 'held out'})", *parts])


def _add_surfaces(page: RunPage, scene: Scene, meshes: dict[str, Mesh], views: list[View]) -> None:
    samples = {
        s.kind: page.attempt(f"{s.kind} errors", None, _errors, s, scene)
        for s in page.run.surfaces
        if s.samples and s.evaluation.get("metrics") and s.kind in meshes
    }
    if any(part is not None for part in samples.values()):
        page.error_scale = figures.error_scale(ERROR_END, "% of the object radius", page.anchor)
    for view in pictures.spread(views, SURFACE_VIEWS) if meshes else []:
        row: list[Picture] = []
        if view.image.is_file():
            row += page.attempt(f"photo {view.name}", list[Picture](), pictures.photo, view)
        for kind, mesh in meshes.items():
            row += pictures.mesh_pictures(scene, view, mesh, kind=kind, evaluated=samples.get(kind), largest=ERROR_END)
        page.surfaces.append(Gallery(f"From the camera of view {view.name}", row))


def _add_sections(page: RunPage, scene: Scene, meshes: dict[str, Mesh], unit_w2c: Array) -> None:
    """A horizontal and an upright cut through the centre, of the first surface there is."""
    if not meshes:
        return
    kind, mesh = next(iter(meshes.items()))
    surface = next(s for s in page.run.surfaces if s.kind == kind)
    path = ground_truth_path(page.run.ground_truth, surface.evaluation)
    truth = page.attempt("ground truth", None, _truth, path, surface, scene) if path else None
    samples = None
    if truth is None and surface.samples and surface.evaluation.get("metrics"):
        samples = page.attempt("ground truth", None, _errors, surface, scene, "truth")
    frame = figures.scene_axes(unit_w2c)[0]
    for normal, title in ((2, "Horizontal cut"), (1, "Upright cut")):
        page.layout.append(
            figures.cross_section(
                figures.section(mesh.vertices, mesh.faces, frame, normal),
                [] if truth is None else figures.section(truth.vertices, truth.faces, frame, normal),
                samples=None if samples is None else figures.slab(samples[0], frame, normal),
                title=f"{title} through the centre ({kind})",
                prefix=f"{page.anchor}-cut{normal}",
            )
        )


def _truth(path: Path, surface: Surface, scene: Scene) -> Mesh:
    return unit_mesh(path, truth_frame(surface.evaluation, scene.similarity))


def _errors(surface: Surface, scene: Scene, side: Literal["prediction", "truth"] = "prediction") -> tuple[Array, Array]:
    assert surface.samples is not None
    return evaluated_samples(surface.samples, side, scene.similarity)
