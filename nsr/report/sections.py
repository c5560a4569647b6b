"""What the page shows of one scene: its photographs and cameras once, then every method's views, surfaces and numbers."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np

from nsr.conventions import Array
from nsr.errors import NsrError
from nsr.mesh.surface import Mesh
from nsr.report import facts, figures, pictures
from nsr.report.collect import Run, Surface
from nsr.report.facts import Group, Line
from nsr.report.geometry import evaluated_samples, ground_truth_path, truth_frame, unit_mesh
from nsr.report.pictures import COMPARED_VIEWS, SURFACE_VIEWS, Picture, Sizes
from nsr.report.preview import Budget
from nsr.report.tables import Row, length_unit, trained_on
from nsr.report.viewer import Viewer, make_viewer
from nsr.scene.scene import Scene, View

ERROR_END = 2.0  # end of the error colours in percent of the object radius or in mm, one scale for all runs
T = TypeVar("T")


@dataclass
class Gallery:
    """Pictures of one view in a row. Attributes: title; pictures; name of the view."""

    title: str
    pictures: list[Picture]
    name: str = ""


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
    cuts: list[str] = field(default_factory=list)
    texture: list[Line] = field(default_factory=list)
    files: list[tuple[str, str, str]] = field(default_factory=list)
    raw: list[tuple[str, str]] = field(default_factory=list)
    meshes: dict[str, Mesh] = field(default_factory=dict)
    samples: dict[str, tuple[Array, Array]] = field(default_factory=dict)
    error_end: float = ERROR_END
    error_unit: str = "%"

    def attempt(self, what: str, otherwise: T, make: Callable[..., T], *arguments: Any) -> T:
        """`make(*arguments)`, or `otherwise` and a warning on the page if a file it needs is broken."""
        try:
            return make(*arguments)
        except (NsrError, OSError, ValueError, KeyError) as error:
            self.warnings.append(f"{what}: {error}")
            return otherwise


@dataclass
class SceneSection:
    """What the template shows of one scene.

    Attributes:
        anchor, title: of the section. runs: one per method. rows: of the summary with their indices in it.
        thumbs: small photographs with the indices of their cameras. layout: cameras from above, "" without a scene.
        up_source: how "above" was found. views: pictures of the compared views, photograph first.
        variants: Chamfer distance under the variants of the protocol, one column per row. curves: training curves.
        legend: methods with their colours. viewer: None without a surface or cameras.
    """

    anchor: str
    title: str
    runs: list[RunPage]
    rows: list[tuple[int, Row]]
    thumbs: list[tuple[int, Picture]] = field(default_factory=list)
    layout: str = ""
    up_source: str = ""
    views: list[Gallery] = field(default_factory=list)
    variants: list[Line] = field(default_factory=list)
    curves: list[str] = field(default_factory=list)
    legend: list[tuple[str, str]] = field(default_factory=list)
    viewer: Viewer | None = None


def scene_sections(runs: Sequence[Run], rows: Sequence[Row], budget: Budget, home: Path | None = None) -> list[SceneSection]:
    """One section per scene in the order of the runs.

    Args:
        runs: of `collect`. rows: of `summary_rows` of them. budget: of the page's surfaces and pictures.
        home: folder of the page, from which files of the results are linked; None: no links.
    """
    grouped: dict[str, list[tuple[int, Run]]] = {}
    for index, run in enumerate(runs):
        grouped.setdefault(run.title, []).append((index, run))
    sizes = Sizes.for_page(len(grouped), len(runs))
    sections = [_section(f"scene-{number}", group, rows, budget, sizes) for number, group in enumerate(grouped.values(), 1)]
    for page in (page for section in sections for page in section.runs):
        page.files = facts.texture_files(page.run, home)
    return sections


def _section(anchor: str, group: Sequence[tuple[int, Run]], rows: Sequence[Row], budget: Budget, sizes: Sizes) -> SceneSection:
    pages = [_run_page(run, f"run-{index + 1}") for index, run in group]
    surfaces = len(group[0][1].surfaces)
    mine = [(i, rows[i]) for index, _ in group for i in range(index * surfaces, (index + 1) * surfaces)]
    section = SceneSection(anchor, group[0][1].title, pages, mine)
    section.variants = facts.variant_lines([surface for page in pages for surface in page.run.surfaces])
    section.curves = figures.curves({page.run.method: page.run.curve for page in pages}, anchor)
    if len(pages) > 1:
        section.legend = [(page.run.method, figures.method_colour(index)) for index, page in enumerate(pages)]
    scene = next((page.run.prepared for page in pages if page.run.prepared is not None), None)
    if scene is not None:
        _add_cameras(section, scene, sizes)
        _add_views(section, scene, sizes.compared)
        for page in pages:
            _add_surfaces(page, scene, sizes.width)
        section.viewer = make_viewer(anchor, scene, pages, budget)
    return section


def _run_page(run: Run, anchor: str) -> RunPage:
    page = RunPage(anchor, run, trained_on(run)[0] if run.views else "")
    page.warnings = list(run.warnings)
    page.notes = list(dict.fromkeys(str(note) for part in _parts_with_notes(run) for note in part.get("notes", [])))
    page.groups = facts.surface_groups(run.surfaces, run.prepared.unit if run.prepared else "unknown")
    page.training, page.view_facts = facts.training_facts(run), facts.view_facts(run)
    page.texture = facts.texture_facts(run)
    page.per_view_keys, page.per_view = facts.per_view_lines(run)
    parts = {"sfm": run.sfm, "training": run.train, "render": run.render, "held-out views": run.views, "texture": run.texture}
    parts |= {f"{s.kind}": s.info for s in run.surfaces} | {f"evaluation of {s.kind}": s.evaluation for s in run.surfaces}
    page.raw = [(name, json.dumps(data, indent=1, ensure_ascii=False)) for name, data in parts.items() if data]
    return page


def _parts_with_notes(run: Run) -> list[Any]:
    return [*(part for surface in run.surfaces for part in (surface.info, surface.evaluation)), run.texture, run.views]


def _add_cameras(section: SceneSection, scene: Scene, sizes: Sizes) -> None:
    """The camera layout, and the photographs in small."""
    trained = {name for page in section.runs for name in page.run.train.get("train_views", [])}
    trained = trained or {view.name for view in scene.split("train")}
    unit_w2c = scene.unit_w2c(scene.views)
    section.up_source = figures.scene_axes(unit_w2c)[1]
    section.layout = figures.camera_layout(unit_w2c, [view.name in trained for view in scene.views], section.anchor)
    page = section.runs[0]
    for view in pictures.spread(scene.views, sizes.thumbs):
        if view.image.is_file():
            picture = page.attempt(f"photo {view.name}", None, pictures.thumbnail, view)
            section.thumbs += [(scene.views.index(view), picture)] if picture else []


def _add_views(section: SceneSection, scene: Scene, width: int) -> None:
    """Photograph and every method's render, normals and depth of the views that most methods rendered."""
    rendered = {page.anchor: pictures.rendered_views(page.run.folder / "render", scene.views) for page in section.runs}
    names = {view.name for views in rendered.values() for view in views}
    several = len(section.runs) > 1
    for view in pictures.spread([view for view in scene.views if view.name in names], COMPARED_VIEWS):
        row: list[Picture] = []
        if view.image.is_file():
            row += section.runs[0].attempt(f"photo {view.name}", list[Picture](), pictures.photo, view, width)
        for page in (page for page in section.runs if view in rendered[page.anchor]):
            folder = page.run.folder / "render"
            found = page.attempt(f"view {view.name}", list[Picture](), pictures.comparison, folder, view, scene.unit, width)
            words = _view_metrics(page.run, view)
            if several:
                found = [picture.named(f"{page.run.method}: {picture.caption}") for picture in found]
                found[:1] = [picture.named(", ".join([picture.caption, *words])) for picture in found[:1]]
            row += found
        if row:
            trained = any(view.name in page.run.train.get("train_views", []) for page in section.runs)
            title = f"View {view.name} ({'trained on' if trained else 'held out'})"
            words = [] if several else _view_metrics(section.runs[0].run, view)
            section.views.append(Gallery(", ".join([title, *words]), row, view.name))


def _view_metrics(run: Run, view: View) -> list[str]:
    shown = (("psnr", "PSNR {:.2f} dB"), ("psnr_masked", "masked {:.2f} dB"), ("ssim", "SSIM {:.4f}"))
    values = run.views.get("per_view", {}).get(view.name, {})
    return [text.format(values[key]) for key, text in shown if isinstance(values.get(key), (int, float))]


def _add_surfaces(page: RunPage, scene: Scene, width: int) -> None:
    """Surfaces seen from cameras of the scene, coloured by their errors, and cut."""
    run = page.run
    for surface in run.surfaces:
        mesh = page.attempt(surface.kind, None, unit_mesh, surface.file, scene.similarity) if surface.file else None
        if mesh is not None:
            page.meshes[surface.kind] = mesh
        if surface.samples and surface.evaluation.get("metrics") and mesh is not None:
            found = page.attempt(f"{surface.kind} errors", None, _errors, surface, scene)
            page.samples |= {surface.kind: found} if found is not None else {}
    if page.samples:
        page.error_unit = next(filter(None, (length_unit(s.evaluation) for s in run.surfaces)), "%")
        page.error_end = error_end(page.error_unit, [errors for _, errors in page.samples.values()])
        unit = "% of the object radius" if page.error_unit == "%" else page.error_unit
        page.error_scale = figures.error_scale(page.error_end, unit, page.anchor)
    views = pictures.rendered_views(run.folder / "render", scene.views) or list(scene.split("held_out")) or list(scene.views)
    for view in pictures.spread(views, SURFACE_VIEWS) if page.meshes else []:
        row: list[Picture] = []
        if view.image.is_file():
            row += page.attempt(f"photo {view.name}", list[Picture](), pictures.photo, view, width)
        for kind, mesh in page.meshes.items():
            judged = page.samples.get(kind)
            end = page.error_end
            row += pictures.mesh_pictures(scene, view, mesh, kind=kind, evaluated=judged, largest=end, width=width)
        page.surfaces.append(Gallery(f"From the camera of view {view.name}", row))
    _add_cuts(page, scene)


def error_end(unit: str, errors: Sequence[Array]) -> float:
    """End of the error colours: `ERROR_END` for percent and mm, else the 95th percentile rounded up to 1, 2 or 5 times a power of 10."""
    finite = np.concatenate([part[np.isfinite(part)] for part in errors])
    high = float(np.percentile(finite, 95)) if len(finite) else 0.0
    if unit in ("%", "mm") or high <= 0:
        return ERROR_END
    power = 10.0 ** np.floor(np.log10(high))
    return float(next(step * power for step in (1, 2, 5, 10) if step * power >= high * (1 - 1e-9)))


def _add_cuts(page: RunPage, scene: Scene) -> None:
    """A horizontal and an upright cut through the centre, of the first surface there is."""
    if not page.meshes:
        return
    kind, mesh = next(iter(page.meshes.items()))
    surface = next(s for s in page.run.surfaces if s.kind == kind)
    path = ground_truth_path(page.run.ground_truth, surface.evaluation)
    truth = page.attempt("ground truth", None, _truth, path, surface, scene) if path else None
    samples = None
    if truth is None and surface.samples and surface.evaluation.get("metrics"):
        samples = page.attempt("ground truth", None, _errors, surface, scene, "truth")
    frame = figures.scene_axes(scene.unit_w2c(scene.views))[0]
    for normal, title in ((2, "Horizontal cut"), (1, "Upright cut")):
        page.cuts.append(
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
