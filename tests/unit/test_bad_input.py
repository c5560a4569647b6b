"""Bad input given to the real programs: one error line that names file and remedy, an exit code, nothing half-written."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nsr.cli import run
from nsr.config import section
from tests.unit import dataset_writers as writers
from tests.unit.training_scene import quick_config, sphere_scene

ROOT = Path(__file__).parents[2]
ERROR = re.compile(r"\d\d:\d\d:\d\d ERROR (.+)")


def settings(**train) -> list[str]:
    """Options for a model of a few parameters."""
    return ["--settings", json.dumps(section(quick_config(**{"steps": 2, "log_every": 1, **train}), "model", "train"))]


def call(program: str, *argv: object) -> int:
    """Exit code of a program run in this process."""
    module = import_module(f"scripts.{program}")
    return run(module.build_parser(), module.main, ["--threads", "1", *map(str, argv)])


def run_process(program: str, *argv: object) -> subprocess.CompletedProcess[str]:
    """A program run as users run it, from another working directory."""
    command = [sys.executable, ROOT / "scripts" / f"{program}.py", "--threads", "1", *argv]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(map(str, command), cwd=ROOT.parent, env=environment, capture_output=True, text=True, check=False)


def the_error(stderr: str, words: tuple[str, ...]) -> str:
    """The message of the one error line, which holds all the words; no traceback around it."""
    assert "Traceback" not in stderr, stderr
    errors = [line for line in stderr.splitlines() if "WARNING" not in line and "INFO" not in line]
    assert len(errors) == 1, stderr
    match = ERROR.fullmatch(errors[0])
    assert match, stderr
    for word in words:
        assert word in match[1], match[1]
    return match[1]


class Refusal:
    """Runs programs that must fail and looks at what they say and leave."""

    def __init__(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.capsys = tmp_path / "results", capsys
        self.out = self.folder / "out"

    def __call__(self, program: str, *argv: object, words: tuple[str, ...], code: int = 2, out: str = "out") -> str:
        self.folder.mkdir(exist_ok=True)
        self.capsys.readouterr()
        assert call(program, *argv, "--out", self.folder / out) == code
        message = the_error(self.capsys.readouterr().err, words)
        assert list(self.folder.iterdir()) == [], "something was left behind"
        return message


@pytest.fixture
def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Refusal:
    return Refusal(tmp_path, capsys)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a scene, the model.pt of two steps, and the true sphere as a mesh."""
    import trimesh

    root = tmp_path_factory.mktemp("trained")
    scene = sphere_scene(root / "scene")
    assert call("train", "--scene", scene.root, "--out", root / "run", "--device", "cpu", *settings(checkpoint_every=1)) == 0
    trimesh.creation.icosphere(subdivisions=2, radius=1.5).apply_translation((3.0, -1.0, 0.5)).export(root / "sphere.ply")
    return root


@pytest.fixture
def neus(tmp_path: Path) -> Path:
    return writers.write_neus(tmp_path / "source", writers.make_views(6))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def invert(path: Path) -> None:
    Image.fromarray(255 - np.asarray(Image.open(path))).save(path)


def edit_cameras(folder: Path, **arrays: object) -> None:
    path = folder / "cameras_sphere.npz"
    with np.load(path) as data:
        merged = {**dict(data), **arrays}
    np.savez(path, **{key: value for key, value in merged.items() if value is not None})


def turned_away(folder: Path) -> None:
    """The first camera looks the other way (half a turn about its own y axis)."""
    with np.load(folder / "cameras_sphere.npz") as data:
        world = data["world_mat_0"]
    view = writers.make_views(6)[0]
    world[:3] = view.K @ np.diag([-1.0, 1.0, -1.0]) @ view.w2c[:3]
    edit_cameras(folder, world_mat_0=world)


PREPARE_CASES = {
    "photo no image": (lambda s: (s / "image/002.png").write_text("<html>"), ("image/002.png", "not a readable", "remove it")),
    "photo truncated": (lambda s: cut(s / "image/002.png"), ("image/002.png", "truncated", "copy the file again")),
    "photo empty": (lambda s: (s / "image/002.png").write_bytes(b""), ("image/002.png", "export it again")),
    "mask truncated": (lambda s: cut(s / "mask/003.png"), ("mask/003.png", "truncated", "copy the file again")),
    "mask size": (
        lambda s: Image.new("L", (20, 10)).save(s / "mask/001.png"),
        ("mask/001.png", "20x10", "64x48", "give the masks at that size"),
    ),
    "masks inverted": (
        lambda s: [invert(p) for p in sorted((s / "mask").iterdir())[:5]],
        ("mask/000.png", "looks inverted", "covers the image border", "5 of 6", "invert the masks"),
    ),
    "a mask missing": (lambda s: (s / "mask/004.png").unlink(), ("mask", "no mask for 004.png", "add it")),
    "camera away": (turned_away, ("view '000'", "looks away", "fix its pose or remove the view")),
    "pose NaN": (
        lambda s: edit_cameras(s, world_mat_2=np.full((4, 4), np.nan)),
        ("cameras_sphere.npz", "world_mat_2", "NaN", "fix or remove this view"),
    ),
    "matrix shape": (
        lambda s: edit_cameras(s, world_mat_1=np.eye(3)),
        ("cameras_sphere.npz", "world_mat_1", "3x3 instead of 4x4", "fix or remove this view"),
    ),
    "camera missing": (
        lambda s: edit_cameras(s, world_mat_5=None),
        ("cameras_sphere.npz", "5 cameras but 6", "remove or restore"),
    ),
    "cameras truncated": (
        lambda s: cut(s / "cameras_sphere.npz"),
        ("cameras_sphere.npz", "not a readable .npz", "copy it again"),
    ),
    "no photos": (
        lambda s: [p.unlink() for p in (s / "image").iterdir()],
        ("image", "holds no .jpg or .png image", "check the path"),
    ),
    "no source": (shutil.rmtree, ("source", "no cameras_sphere.npz", "check the path or the format")),
}


@pytest.mark.parametrize("case", PREPARE_CASES)
def test_prepare(case, neus, refused):
    spoil, words = PREPARE_CASES[case]
    spoil(neus)
    refused("prepare", "--format", "neus", "--source", neus, "--name", "d/s", words=words)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--region", "1,2,3"], ("region '1,2,3'", "x,y,z,radius")),
        (["--region", "everywhere"], ("region 'everywhere'", "x,y,z,radius", "masks")),
        (["--masks", "absent"], ("absent", "no such folder of masks", "check the path")),
        (["prepare.max_sise=3"], ("max_sise", "Did you mean: 'max_size'")),
        (["prepare.max_size=big"], ("'big'", "Integer", "prepare.max_size")),
        (["prepare.region=mask"], ("'mask'", "expected one of", "'masks'", "prepare.region")),
        (["prepare.holdout_every=1"], ("prepare.holdout_every", "choose 0 or at least 2")),
        (["prepare.region_margin=0"], ("prepare.region_margin", "greater than 0")),
        (["--settings", "{mesh"], ("--settings", "not JSON")),
        (["--settings", "[1, 2]"], ("settings", "not a mapping", "key: value")),
        (["--config", "absent.yaml"], ("absent.yaml", "No such file", "check the path")),
    ],
)
def test_prepare_options(options, words, neus, refused):
    refused("prepare", "--format", "neus", "--source", neus, "--name", "d/s", *options, words=words)


@pytest.mark.parametrize("text", ["mesh: [1\n", "- 1\n", "\x00\x01"])
def test_broken_config_files(text, neus, refused, tmp_path):
    (tmp_path / "my.yaml").write_text(text)
    words = ("my.yaml", "not a mapping of settings", "key: value in YAML")
    refused("prepare", "--format", "neus", "--source", neus, "--name", "d/s", "--config", tmp_path / "my.yaml", words=words)


def test_photos_without_cameras(neus, refused):
    words = ("image", "run sfm", "--model")
    refused("prepare", "--format", "photos", "--source", neus / "image", "--name", "d/s", words=words)


def heic(folder: Path) -> None:
    (folder / "IMG_1.HEIC").write_bytes(b"ftypheic")


def two_photos(folder: Path) -> None:
    writers.write_images(folder, writers.make_views(2))


def truncated_photo(folder: Path) -> None:
    writers.write_images(folder, writers.make_views(4))
    cut(folder / "0002.png")


def sizes(folder: Path) -> None:
    writers.write_images(folder, writers.make_views(4))
    Image.new("RGB", (30, 30)).save(folder / "0002.png")


@pytest.mark.parametrize(
    ("fill", "words"),
    [
        (lambda folder: None, ("photos", "holds no .jpg or .png image", "convert the images")),
        (lambda folder: folder.rmdir(), ("photos", "no such folder", "check the path")),
        (heic, ("IMG_1.HEIC", ".heic photos are not read", "convert them to JPEG or PNG")),
        (two_photos, ("photos", "2 photo(s)", "at least 3")),
        (truncated_photo, ("0002.png", "truncated", "copy it again")),
        (sizes, ("0002.png", "30x30", "sfm.single_camera=false or remove it")),
    ],
)
def test_sfm(fill, words, refused, tmp_path):
    (tmp_path / "photos").mkdir()
    fill(tmp_path / "photos")
    refused("sfm", "--photos", tmp_path / "photos", words=words)


def test_sfm_of_featureless_photos(refused, tmp_path):
    for index in range(3):
        (tmp_path / "photos").mkdir(exist_ok=True)
        Image.new("RGB", (64, 48), (90, 90, 90)).save(tmp_path / "photos" / f"{index}.png")
    refused("sfm", "--photos", tmp_path / "photos", words=("photos", "no pair", "textured"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("program", ["train", "mesh", "tsdf", "render"])
def test_no_gpu(program, trained, refused):
    source = [] if program == "train" else ["--model", trained / "run" / "model.pt"]
    words = ("device 'cuda'", "sees 0 GPUs", "device auto or cpu")
    refused(program, *source, "--scene", trained / "scene", "--device", "cuda", words=words, out=output_of(program))


def output_of(program: str) -> str:
    return {"mesh": "mesh.ply", "tsdf": "tsdf.ply"}.get(program, "out")


def test_unknown_device(trained, refused):
    refused("train", "--scene", trained / "scene", "--device", "gpu", words=("device 'gpu'", "cuda:N"))


def test_training_without_the_masks_that_the_method_needs(refused, tmp_path):
    bare = sphere_scene(tmp_path / "bare", masks=False)
    words = ("bare", "needs masks", "12 of 12", "give a masks folder", "train.use_masks=auto")
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
        ("scene.json", "not a scene file", "run prepare again"),
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
    refused(program, *argv, words=words, out=output_of(program))


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
    refused(program, *argv, words=words, code=4, out=output_of(program))


def test_mesh_file_names(trained, refused):
    argv = ["--model", trained / "run" / "model.pt", "--scene", trained / "scene"]
    refused("mesh", *argv, words=("mesh.obj", "ends in .ply"), out="mesh.obj")
    refused("evaluate_mesh", "--mesh", trained / "sphere.ply", *argv[2:], words=("out.npz", "ends in .json"), out="out.npz")


TRUTH_CASES = {
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
    refused("evaluate_mesh", *argv, "--scene", trained / "scene", words=words, out="out.json")


@pytest.mark.parametrize("content", [b"", b"PK\3\4cut", b"text", None])
def test_broken_true_cameras(content, trained, refused, tmp_path):
    path = tmp_path / "cameras_sphere.npz"
    if content is not None:
        path.write_bytes(content)
    words = ("cameras_sphere.npz", "check the path" if content is None else "give cameras_sphere.npz or a scene")
    argv = ["--mesh", trained / "sphere.ply", "--scene", trained / "scene", "--gt-cameras", path]
    refused("evaluate_mesh", *argv, words=words, out="out.json")


def test_true_mesh_in_another_frame(trained, refused, tmp_path):
    import trimesh

    trimesh.creation.icosphere(radius=0.1).export(tmp_path / "far.ply")
    argv = ["--mesh", trained / "sphere.ply", "--ground-truth", tmp_path / "far.ply", "--scene", trained / "scene"]
    refused("evaluate_mesh", *argv, words=("different frames", "--gt-cameras"), out="out.json")


def test_views_that_were_not_rendered(trained, refused, tmp_path):
    words = ("render.json", "no such file", "run render first")
    refused("evaluate_views", "--render", tmp_path, "--scene", trained / "scene", words=words, out="out.json")
    facts = {"view00": {"colour": "view00.png", "seen_in_training": False}}
    (tmp_path / "render.json").write_text(json.dumps({"views": facts}))
    (tmp_path / "view00.png").write_bytes((trained / "scene/images/view00.png").read_bytes()[:90])
    words = ("view00.png", "cannot be read", "run the stage that writes it again")
    refused("evaluate_views", "--render", tmp_path, "--scene", trained / "scene", words=words, out="out.json")


@pytest.mark.parametrize("text", ["", "{}", "[1]", "[]", '{"dataset": 1}'])
def test_report_of_no_runs(text, refused, tmp_path):
    (tmp_path / "runs.json").write_text(text)
    refused("report", "--results", tmp_path, "--runs", tmp_path / "runs.json", words=("runs.json",))
