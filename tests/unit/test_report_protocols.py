"""The page and the tables of runs that were measured by other protocols than the project's own, and of textured meshes."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path

import pytest

from nsr.report import figures
from nsr.report.tables import to_text
from nsr.report.write import Options, write_report
from tests.unit.report_fixture import make_run, make_textured, write, write_runs

PUBLISHED = Path(__file__).parents[2] / "config" / "published"
CULLS = {"mask-24px": 0.61, "no-cull": 0.93, "mask-0px": 0.55}
TANKS = {"f_score": 0.4321, "precision": 0.41, "recall": 0.4567}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Empty drawings: this is not about figures."""
    monkeypatch.setattr(figures, "draw", lambda paint, *, size, prefix, label: f'<svg id="{prefix}"></svg>')


def measured(folder: Path, kind: str, **evaluation: object) -> None:
    """Replace what an invented run's evaluation says."""
    path = folder / "evaluate" / f"{kind}.json"
    old = json.loads(path.read_text())
    write(path, {key: old[key] for key in ("alignment", "counts", "settings", "notes")} | evaluation)


def report(tmp_path: Path, dataset: str, scene: str) -> tuple[list, str]:
    names = write_runs(tmp_path / "runs.json", (dataset, scene, "neus"))
    rows, _ = write_report(tmp_path / "results", names, tmp_path / "report", options=Options(published=PUBLISHED))
    return rows, html.unescape((tmp_path / "report" / "index.html").read_text(encoding="utf-8"))


def cells(page: str, label: str) -> list[str]:
    """Texts of the first line of a table that begins with a label."""
    line = re.search(rf'<tr><th scope="row">{re.escape(label)}.*?</th>(.*?)</tr>', page, re.DOTALL)
    assert line, label
    return [re.sub("<[^>]*>", "", cell).strip() for cell in re.findall("<td.*?</td>", line[1], re.DOTALL)]


def test_dtu_scan_stands_beside_the_published_table_with_every_cull(tmp_path):
    folder = make_run(tmp_path / "results", dataset="dtu", scene="scan24")
    variants = {name: {"chamfer": v, "accuracy": v + 0.1, "completeness": v - 0.1} for name, v in CULLS.items()}
    for kind in ("mesh", "tsdf"):
        unit = {"name": "mm", "cull": "mask-24px"}
        found = {"protocol": "dtu", "version": 1, "unit": unit, "metrics": variants["mask-24px"]}
        measured(folder, kind, **found, **({"variants": variants} if kind == "mesh" else {}))
    rows, page = report(tmp_path, "dtu", "scan24")
    assert (rows[0]["unit"], rows[0]["cull"], rows[0]["chamfer"]) == ("mm", "mask-24px", 0.61)
    assert "Chamfer mm" in to_text(rows)
    assert 'Chamfer<span class="unit">mm ↓</span>' in page
    assert "dtu 1, mask-24px" in page
    # Beside ours, the published scan 24 of NeuS and Neuralangelo.
    matrix = page[page.index("dtu: Chamfer distance by scene and method") :]
    ours, *theirs = cells(matrix, "scan24")[0], *cells(matrix, "scan24")[2:]
    assert ours == "0.610"
    assert {"1.00", "0.37"} <= set(theirs)
    assert "neus, mesh, mask-24px" in matrix
    assert cells(page, "no-cull: Chamfer distance, mm") == ["0.93", "–"]
    details = page[page.index("Variants of the protocol") :]
    assert cells(details, "mask-0px: accuracy: mean distance mesh → truth, mm") == ["0.65", "not measured"]
    assert "% of the object radius" not in page[page.index("Measured</th>") : page.index("Variants of the protocol")]


def test_tanks_scene_has_shares_and_no_empty_lengths(tmp_path):
    folder = make_run(tmp_path / "results", dataset="tanks", scene="Barn")
    for kind in ("mesh", "tsdf"):
        measured(folder, kind, protocol="tanks-and-temples", version=1, unit={"name": "m", "tau": 0.01}, metrics=TANKS)
    rows, page = report(tmp_path, "tanks", "Barn")
    head = page[page.index("<thead>") : page.index("</thead>")]
    assert "Chamfer" not in head
    assert all(title in head for title in ("F-score", "precision", "recall"))
    assert "tanks-and-temples 1, tau 0.01 m" in page
    assert cells(page, "F-score within 0.01 m")[0] == "0.4321"
    assert "2 of 2 surfaces measured" in page
    assert "F-score" in to_text(rows) and "Chamfer" not in to_text(rows)


def test_normals_depth_and_perceptual_distance_are_shown_where_they_were_measured(tmp_path):
    folder = make_run(tmp_path / "results")
    evaluation = json.loads((folder / "evaluate" / "mesh.json").read_text())
    evaluation["metrics"] |= {"normal_error": 7.25, "normal_accuracy": 7.0, "normal_completeness": 7.5}
    write(folder / "evaluate" / "mesh.json", evaluation)
    views = json.loads((folder / "evaluate" / "views.json").read_text())
    views["metrics"] |= {"lpips": 0.123, "depth_error": 0.4567, "depth_missing": 0.01}
    write(folder / "evaluate" / "views.json", views | {"left_out": {"depth": "no ground truth"}})
    _, page = report(tmp_path, "demo", "ball")
    section = page[page.index('<section class="scene"') :]
    assert cells(section, "normal error")[0] == "7.2"
    assert cells(section, "LPIPS") == ["0.1230"] * 2
    assert cells(section, "depth error") == ["0.457"] * 2
    assert cells(section, "depth error: mean, % of the object radius") == ["0.4567"]
    assert cells(section, "depth error left out") == ["no ground truth"]
    assert cells(section, "normal error, mesh → truth, °")[0] == "7"


def test_textured_mesh_with_its_facts_and_files(tmp_path):
    folder = make_run(tmp_path / "results")
    make_textured(folder)
    facts = json.loads((folder / "texture" / "texture.json").read_text())
    facts |= {"psnr": 28.41, "psnr_held_out": None, "seams": {"edges": 9, "mean": 0.41, "p95": 1.2}, "unit": "mm"}
    write(folder / "texture" / "texture.json", facts | {"settings": {"texture": {"size": 4096}}})
    _, page = report(tmp_path, "demo", "ball")
    assert cells(page, "PSNR of the textured mesh") == ["28.41"]
    assert cells(page, "step of colour across seams, mean") == ["0.41"]
    assert cells(page, "texels a side") == ["4096"]
    assert cells(page, "frame and unit of the files") == ["world, mm"]
    [address] = re.findall(r'<a href="([^"#]*)">textured\.glb</a>', page)
    assert (tmp_path / "report" / address).resolve() == (folder / "texture" / "textured.glb").resolve()
