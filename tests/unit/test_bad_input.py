"""Bad sources, settings and manifests given to the real programs: one error line that names file and remedy, nothing half-written."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.unit import dataset_writers as writers
from tests.unit.programs import ROOT, call, cut


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
        (["prepare.alpha_background=7"], ("prepare.alpha_background", "between 0 and 1")),
        (["model.radiance.view_degree=9"], ("model.radiance.view_degree", "0, 1, 2, 3 or 4")),
        (["train.optim.betas=[0.9,2]"], ("train.optim.betas", "less than 1")),
        (["train.log_every=0"], ("train.log_every", "greater than 0")),
        (["tsdf.voxel=nan"], ("tsdf.voxel", "not be negative")),
        (["texture.size=99999"], ("texture.size", "between 32 and 16384")),
        (["texture.max_angle=90"], ("texture.max_angle", "between 0 and 90")),
        (["texture.up=[0,nan,1]"], ("texture.up", "three numbers")),
        (["texture.quality=101"], ("texture.quality", "at most 100")),
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


def test_unknown_camera_model(refused, tmp_path):
    writers.write_images(tmp_path / "photos", writers.make_views(3))
    words = ("sfm.camera_model", "'FOO'", "SIMPLE_RADIAL")
    refused("sfm", "--photos", tmp_path / "photos", "sfm.camera_model=FOO", words=words)


def test_photos_of_other_depths_are_prepared_as_8_bits(neus, tmp_path):
    """16-bit grey and palette: what a later stage reads is what this one saw."""
    deep = np.arange(48 * 64, dtype=np.uint16).reshape(48, 64) * 21
    Image.fromarray(deep).save(neus / "image" / "000.png")
    Image.open(neus / "image" / "001.png").convert("P").save(neus / "image" / "001.png")
    (neus / "image" / "002.png").rename(neus / "image" / "002 ü x.png")
    assert call("prepare", "--format", "neus", "--source", neus, "--name", "d/s", "--out", tmp_path / "out é") == 0
    made = [Image.open(tmp_path / "out é" / "images" / name) for name in ("000.png", "001.png", "002 ü x.png")]
    assert [image.mode for image in made] == ["RGB"] * 3
    np.testing.assert_allclose(np.asarray(made[0])[..., 1], deep / 257, atol=0.51)


def test_sfm_of_featureless_photos(refused, tmp_path):
    for index in range(3):
        (tmp_path / "photos").mkdir(exist_ok=True)
        Image.new("RGB", (64, 48), (90, 90, 90)).save(tmp_path / "photos" / f"{index}.png")
    refused("sfm", "--photos", tmp_path / "photos", words=("photos", "no pair", "textured"))


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ("d\ta\tphotos\tneus\nd\ta\tphotos\tneus\n", ("scenes.tsv line 3", "'d/a' is listed twice")),
        ("d\ta\tphotos\tneuss\n", ("scenes.tsv line 2", "unknown format 'neuss'", "did you mean 'neus'")),
    ],
)
def test_manifest(rows, words, tmp_path):
    shutil.copytree(ROOT / "config", tmp_path / "config")
    (tmp_path / "photos").mkdir()
    (tmp_path / "config" / "scenes.tsv").write_text("dataset\tscene\tsource\tformat\n" + rows)
    command = [
        sys.executable,
        "-m",
        "snakemake",
        "-n",
        "-s",
        ROOT / "Snakefile",
        "-d",
        tmp_path,
        "--config",
        "scenes=config/scenes.tsv",
    ]
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    done = subprocess.run(map(str, command), cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    said = done.stdout + done.stderr
    assert "Traceback" not in said
    (message,) = (line for line in said.splitlines() if "scenes.tsv line" in line)
    assert all(word in message for word in words), message
    assert not (tmp_path / "results").exists()
