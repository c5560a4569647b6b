"""Bad scenes, models, meshes and renders given to the real programs: one error line that names file and remedy, nothing half-written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from tests.unit.programs import cut, settings
from tests.unit.training_scene import sphere_scene


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("program", ["train", "mesh", "tsdf", "render"])
def test_no_gpu(program, trained, refused):
    source = [] if program == "train" else ["--model", trained / "run" / "model.pt"]
    words = ("device 'cuda'", "sees 0 GPUs", "device auto or cpu")
    refused(program, *source, "--scene", trained / "scene", "--device", "cuda", words=words)


def test_unknown_device(trained, refused):
    refused("train", "--scene", trained / "scene", "--device", "gpu", words=("device 'gpu'", "cuda:N"))


def test_training_without_the_masks_that_the_method_needs(refused, tmp_path):
    bare = sphere_scene(tmp_path / "bare", masks=False)
    words = ("bare", "needs masks", "12 of 12", "give a masks folder", "train.use_masks=auto model.background.kind=learned")
    refused("train", "--scene", bare.root, "--device", "cpu", *settings(use_masks="required"), words=words)


def broken_scene(folder: Path, change) -> None:
    data = json.loads((folder / "scene.json").read_text())
    change(data)
    (folder / "scene.json").write_text(json.dumps(data))


SCENE_CASES = {
    "no folder": (shutil.rmtree, ("scene.json", "no such file", "run prepare")),
    "cut": (lambda s: cut(s / "scene.json"), ("scene.json", "not a scene file", "run prepare again")),
    "version": (lambda s: broken_scene(s, lambda d: d.update(version=9)), ("scene.json", "format 9", "run prepare again")),
    "no views": (lambda s: broken_scene(s, lambda d: d.update(views=[])), ("scene.json", "no views", "run prepare again")),
    "pose NaN": (
        lambda s: broken_scene(s, lambda d: d["views"][3]["w2c"][0].__setitem__(0, float("nan"))),
        ("scene.json", "view03", "NaN", "run prepare again"),
    ),
    "matrix shape": (
        lambda s: broken_scene(s, lambda d: d["views"][3]["K"].pop()),
        ("scene.json", "not a scene file", "run prepare again"),
    ),
    "photo gone": (lambda s: (s / "images/view01.png").unlink(), ("view01.png", "no such image file")),
    "photo cut": (lambda s: cut(s / "images/view01.png"), ("view01.png", "truncated", "copy the file again")),
    "points cut": (
        lambda s: ((s / "points.npz").write_bytes(b"PK\3\4cut"), broken_scene(s, lambda d: d.update(points="points.npz"))),
        ("points.npz", "not a readable .npz file", "make it again"),
    ),
}


@pytest.mark.parametrize("case", SCENE_CASES)
def test_training_on_a_broken_scene(case, trained, refused, tmp_path):
    spoil, words = SCENE_CASES[case]
    shutil.copytree(trained / "scene", tmp_path / "scene")
    spoil(tmp_path / "scene")
    refused("train", "--scene", tmp_path / "scene", "--device", "cpu", *settings(use_masks="never"), words=words)


def test_scene_that_is_a_file(trained, refused):
    words = ("model.pt", "not a scene folder", "prepare")
    refused("train", "--scene", trained / "run" / "model.pt", "--device", "cpu", words=words)


MODEL_CASES = {
    "cut": (lambda run: cut(run / "model.pt"), "model.pt", ("model.pt", "corrupt", "train again")),
    "empty": (lambda run: (run / "model.pt").write_bytes(b""), "model.pt", ("model.pt", "corrupt", "train again")),
    "text": (lambda run: (run / "model.pt").write_text("weights"), "model.pt", ("model.pt", "corrupt", "train again")),
    "missing": (lambda run: (run / "model.pt").unlink(), "model.pt", ("model.pt", "no such file", "train the scene first")),
    "folder": (lambda run: None, "", ("is a folder", "model.pt")),
    "checkpoint": (lambda run: None, "checkpoint/last.pt", ("last.pt", "no trained model", "give model.pt")),
}


@pytest.mark.parametrize("program", ["mesh", "tsdf", "render"])
@pytest.mark.parametrize("case", MODEL_CASES)
def test_broken_model(program, case, trained, refused, tmp_path):
    spoil, name, words = MODEL_CASES[case]
    shutil.copytree(trained / "run", tmp_path / "run")
    spoil(tmp_path / "run")
    argv = ["--model", tmp_path / "run" / name, "--scene", trained / "scene", "--device", "cpu"]
    refused(program, *argv, words=words)


def without_surface(source: Path, target: Path) -> Path:
    """The model with a signed distance that is positive everywhere."""
    data = torch.load(source, weights_only=True)
    data["model"]["sdf.W2"].zero_()
    data["model"]["sdf.b2"].fill_(3.0)
    data["occupied"] = torch.zeros_like(data["occupied"])
    torch.save(data, target)
    return target


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("mesh", ("outside' in the whole region", "prepare.region")),
        ("tsdf", ("no depth", "tsdf.min_opacity")),
    ],
)
def test_empty_mesh(program, words, trained, refused, tmp_path):
    model = without_surface(trained / "run" / "model.pt", tmp_path / "empty.pt")
    argv = ["--model", model, "--scene", trained / "scene", "--device", "cpu", "mesh.resolution=24", "tsdf.voxel=0.1"]
    refused(program, *argv, words=words, code=4)


def test_mesh_file_names(trained, refused):
    argv = ["--model", trained / "run" / "model.pt", "--scene", trained / "scene"]
    refused("mesh", *argv, words=("mesh.obj", "ends in .ply"), out="mesh.obj")
    refused("evaluate_mesh", "--mesh", trained / "sphere.ply", *argv[2:], words=("out.npz", "ends in .json"), out="out.npz")


TRUTH_CASES = {
    "no area": (
        b"ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nproperty float y\nproperty float z\n"
        b"element face 1\nproperty list uchar int vertex_indices\nend_header\n3 -1 0.5\n3 0 0 0\n",
        ("truth.ply", "no area", "export it again"),
    ),
    "absent": (None, ("truth.ply", "no such mesh file", "check the path")),
    "text": (b"this is no mesh", ("truth.ply", "not a readable mesh", "export it again")),
    "empty": (b"", ("truth.ply", "not a readable mesh", "export it again")),
    "points": (
        b"ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nproperty float y\nproperty float z\nend_header\n0 0 0\n",
        ("truth.ply", "no triangles", "export a mesh with faces"),
    ),
}


@pytest.mark.parametrize("option", ["--mesh", "--ground-truth"])
@pytest.mark.parametrize("case", TRUTH_CASES)
def test_evaluating_what_is_no_mesh(option, case, trained, refused, tmp_path):
    content, words = TRUTH_CASES[case]
    if content is not None:
        (tmp_path / "truth.ply").write_bytes(content)
    files = {"--mesh": trained / "sphere.ply", "--ground-truth": trained / "sphere.ply", option: tmp_path / "truth.ply"}
    argv = [item for pair in files.items() for item in pair]
    refused("evaluate_mesh", *argv, "--scene", trained / "scene", words=words)


@pytest.mark.parametrize("content", [b"", b"PK\3\4cut", b"text", None])
def test_broken_true_cameras(content, trained, refused, tmp_path):
    path = tmp_path / "cameras_sphere.npz"
    if content is not None:
        path.write_bytes(content)
    words = ("cameras_sphere.npz", "check the path" if content is None else "give cameras_sphere.npz or a scene")
    argv = ["--mesh", trained / "sphere.ply", "--scene", trained / "scene", "--gt-cameras", path]
    refused("evaluate_mesh", *argv, words=words)


def test_true_mesh_in_another_frame(trained, refused, tmp_path):
    import trimesh

    trimesh.creation.icosphere(radius=0.1).export(tmp_path / "far.ply")
    argv = ["--mesh", trained / "sphere.ply", "--ground-truth", tmp_path / "far.ply", "--scene", trained / "scene"]
    refused("evaluate_mesh", *argv, words=("different frames", "--gt-cameras"))


def test_views_that_were_not_rendered(trained, refused, tmp_path):
    words = ("render.json", "no such file", "run render first")
    refused("evaluate_views", "--render", tmp_path, "--scene", trained / "scene", words=words)
    facts = {"view00": {"colour": "view00.png", "seen_in_training": False}}
    (tmp_path / "render.json").write_text(json.dumps({"views": facts}))
    (tmp_path / "view00.png").write_bytes((trained / "scene/images/view00.png").read_bytes()[:90])
    words = ("view00.png", "cannot be read", "run the stage that writes it again")
    refused("evaluate_views", "--render", tmp_path, "--scene", trained / "scene", words=words)


@pytest.mark.parametrize("text", ["", "{}", "[1]", "[]", '{"dataset": 1}'])
def test_report_of_no_runs(text, refused, tmp_path):
    (tmp_path / "runs.json").write_text(text)
    refused("report", "--results", tmp_path, "--runs", tmp_path / "runs.json", words=("runs.json",))


def test_fusion_of_pictures_of_one_pixel(trained, refused):
    argv = ["--model", trained / "run" / "model.pt", "--scene", trained / "scene", "--device", "cpu"]
    refused("tsdf", *argv, "tsdf.voxel=0.1", "tsdf.downscale=1000", words=("no depth", "tsdf.min_opacity"), code=4)


def test_a_floor_above_the_object(trained, refused):
    argv = ["--mesh", trained / "sphere.ply", "--ground-truth", trained / "sphere.ply", "--scene", trained / "scene"]
    words = ("under evaluate.floor (1000)", "lower it")
    refused("evaluate_mesh", *argv, "evaluate.samples=500", "evaluate.floor=1000", words=words)
