"""`snakemake -n` after a whole run says what a change makes out of date, and nothing else."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.workflow.checkout import Checkout

PHOTOGRAPHED_AFTER_TRAIN = {"mesh", "tsdf", "texture", "render", "evaluate_mesh:mesh", "evaluate_mesh:tsdf", "evaluate_views"}
POSED_AFTER_TRAIN = {"mesh", "tsdf", "texture", "render", "evaluate_views"}


@contextmanager
def edited(path: Path, old: str, new: str) -> Iterator[None]:
    """A file with `old` replaced by `new`, for the block's duration."""
    before = path.read_text()
    assert old in before, f"{path} does not hold {old!r}"
    path.write_text(before.replace(old, new, 1))
    try:
        yield
    finally:
        path.write_text(before)


def both(photographed: set[str], posed: set[str]) -> set[tuple[str, str]]:
    """Jobs of the two scenes and the report."""
    return {(rule, "photographed") for rule in photographed} | {(rule, "posed") for rule in posed} | {("report", "")}


def settings(text: str) -> tuple[str, str, str]:
    """An edit of the workflow's config."""
    return "config/config.yaml", "settings: {}", f"settings: {text}"


def appended(name: str) -> tuple[str, str, str]:
    """An edit of a module that adds a line."""
    return name, "from __future__ import annotations\n", "from __future__ import annotations\n\nADDED = 1\n"


CHANGES = {
    "mesh.resolution": (
        settings("{mesh: {resolution: 99}}"),
        both({"mesh", "texture", "evaluate_mesh:mesh"}, {"mesh", "texture"}),
    ),
    "train.steps": (settings("{train: {steps: 99}}"), both({"train", *PHOTOGRAPHED_AFTER_TRAIN}, {"train", *POSED_AFTER_TRAIN})),
    # Marching cubes and fusion share their cleaning and lie in one module, so both run again.
    "a module of the mesh stage": (
        appended("nsr/mesh/marching_cubes.py"),
        both({"mesh", "tsdf", "texture", "evaluate_mesh:mesh", "evaluate_mesh:tsdf"}, {"mesh", "tsdf", "texture"}),
    ),
    "a reader": (
        appended("nsr/data/blender.py"),
        both(
            {"prepare", "triangulate", "train", *PHOTOGRAPHED_AFTER_TRAIN},
            {"prepare", "triangulate", "train", *POSED_AFTER_TRAIN},
        ),
    ),
    "the report's template": (("nsr/report/template.html", "<", " <"), {("report", "")}),
    "a script": (("scripts/tsdf.py", '"""\n', '"""\n\nADDED = 1\n'), both({"tsdf", "evaluate_mesh:tsdf"}, {"tsdf"})),
    "device": (("config/config.yaml", "device: auto", "device: cpu"), set()),
    "one scene's overrides": (
        ("config/scenes.tsv", "cameras.npz\t", "cameras.npz\ttsdf.voxel=0.02"),
        {("tsdf", "photographed"), ("evaluate_mesh:tsdf", "photographed"), ("report", "")},
    ),
    "one photograph": (
        ("data/p/image/1.jpg", "1.jpg", "2.jpg"),
        both({"sfm", "prepare", "triangulate", "train", *PHOTOGRAPHED_AFTER_TRAIN}, set()),
    ),
    "one mask": (
        ("data/p/mask/1.png", "1.png", "2.png"),
        both({"prepare", "triangulate", "train", *PHOTOGRAPHED_AFTER_TRAIN}, set()),
    ),
    "the other scene's cameras": (
        ("data/q/cameras_sphere.npz", "q", "p"),
        both(set(), {"prepare", "triangulate", "train", *POSED_AFTER_TRAIN}),
    ),
    "ground truth": (
        ("data/p/truth.ply", "truth", "other"),
        both({"evaluate_mesh:mesh", "evaluate_mesh:tsdf", "evaluate_views"}, set()),  # views: their depth
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_change_reruns(finished: Checkout, change: str) -> None:
    (name, old, new), expected = CHANGES[change]
    with edited(finished.root / name, old, new):
        found = finished.reruns()
    assert set(found) == expected
    assert all(found.values())
    if change == "train.steps":
        assert "Params have changed" in found["train", "posed"]
        assert "Input files updated by another job" in found["report", ""]


@pytest.mark.parametrize(
    ("name", "rules"),
    [
        ("tsdf.ply", {"tsdf", "evaluate_mesh:tsdf"}),
        ("texture/textured.glb", {"texture"}),
        ("metrics.jsonl", {"train", *PHOTOGRAPHED_AFTER_TRAIN}),
    ],
)
def test_a_deleted_result_that_is_no_input_of_the_report_is_made_again(finished: Checkout, name: str, rules: set[str]) -> None:
    path = finished.root / "results/main/photographed/nsr" / name
    content, status = path.read_bytes(), path.stat()
    path.unlink()
    try:
        found = finished.reruns()
    finally:
        path.write_bytes(content)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert set(found) == both(rules, set())


def test_added_photograph_reruns_its_scene(finished: Checkout) -> None:
    added = finished.root / "data/p/image/3.jpg"
    added.write_text("3")
    try:
        found = finished.reruns()
    finally:
        added.unlink()
    assert set(found) == both({"sfm", "prepare", "triangulate", "train", *PHOTOGRAPHED_AFTER_TRAIN}, set())


def test_fresh_clone_elsewhere_reruns_nothing(finished: Checkout, tmp_path: Path) -> None:
    """The same contents in another place, code and photographs younger than the results, and no remembered hashes."""
    clone = Checkout(tmp_path / "clone")
    shutil.copytree(finished.root, clone.root)
    shutil.rmtree(clone.root / ".snakemake/nsr-digests")
    younger = (clone.root / "report/index.html").stat().st_mtime + 1000
    for name in ("Snakefile", "rules", "scripts", "nsr", "config", "data"):
        for path in [clone.root / name, *(clone.root / name).rglob("*")]:
            os.utime(path, (younger, younger))
    assert "Nothing to be done" in clone.snakemake("-n")
