"""Input that means harm: paths out of a folder, files that unpack to more than there is memory, code in a pickle, names for a shell."""

from __future__ import annotations

import ast
import io
import json
import os
import resource
import struct
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from nsr.data.arrays import read_npz
from nsr.data.files import inside, read_header
from nsr.data.photos import read_photos
from nsr.errors import CheckpointError, ConfigError, DataError
from nsr.evaluate.points import read_points
from nsr.manifest import SceneRow, check_row
from nsr.mesh.io import read_mesh
from nsr.scene.images import load_image
from nsr.scene.prepare import prepare, read_source
from nsr.scene.scene import load_scene
from nsr.train.checkpoint import load_dict
from tests.source_tree import ROOT, child_environment
from tests.unit.dataset_writers import make_views, write_blender, write_colmap_text, write_nerfstudio

OUTSIDE = ["../secret.png", "image/../../secret.png", "{secret}", "./../source/../secret.png"]


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """An image beside the source, which nothing may read."""
    from PIL import Image

    path = tmp_path / "secret.png"
    Image.new("RGB", (64, 48)).save(path)
    return path


def test_paths_inside(tmp_path: Path) -> None:
    for name in ("a.png", "./b/../a.png", "b/a.png", str(tmp_path / "a.png")):
        assert inside(tmp_path, name).is_relative_to(tmp_path)
    assert inside(Path("x"), "y/../z") == Path("x/z")
    for name in ("..", "../a", "b/../../a", "/etc/passwd", str(tmp_path) + "2/a"):
        with pytest.raises(DataError, match="leads out of"):
            inside(tmp_path, name)
    for wrong in ("a" * 300, "é" * 150, "a/" * 2500, "\ud800" * 90):
        with pytest.raises(DataError, match="too long a path"):
            inside(tmp_path, wrong)
    for wrong in ("a\0b", None, 3):
        with pytest.raises(DataError, match="is no path"):
            inside(tmp_path, wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("relative", OUTSIDE)
@pytest.mark.parametrize(
    ("write", "kind", "key"), [(write_nerfstudio, "nerfstudio", "file_path"), (write_blender, "blender", "file_path")]
)
def test_transforms_cannot_name_images_elsewhere(tmp_path: Path, secret: Path, write, kind: str, key: str, relative: str) -> None:
    write(tmp_path / "source", make_views(3))
    path = next((tmp_path / "source").glob("transforms*.json"))
    data = json.loads(path.read_text())
    data["frames"][1][key] = relative.format(secret=secret)
    path.write_text(json.dumps(data))
    with pytest.raises(DataError, match="leads out of"):
        read_source(kind, tmp_path / "source")


def test_masks_and_colmap_images_cannot_lie_elsewhere(tmp_path: Path, secret: Path) -> None:
    write_nerfstudio(tmp_path / "source", make_views(3))
    path = tmp_path / "source/transforms.json"
    data = json.loads(path.read_text())
    for frame in data["frames"]:
        frame["mask_path"] = "../secret.png"
    path.write_text(json.dumps(data))
    with pytest.raises(DataError, match="leads out of"):
        read_source("nerfstudio", tmp_path / "source")
    write_colmap_text(tmp_path / "colmap", make_views(3))
    images = tmp_path / "colmap/sparse/0/images.txt"
    images.write_text(images.read_text().replace("0001.png", "../../secret.png"))
    with pytest.raises(DataError, match="leads out of"):
        read_source("colmap", tmp_path / "colmap")


@pytest.mark.parametrize("key", ["image", "mask", "points"])
def test_a_scene_cannot_name_files_elsewhere(tmp_path: Path, secret: Path, key: str) -> None:
    from nsr.config import PrepareConfig

    write_colmap_text(tmp_path / "source", make_views(6))
    raw = read_source("colmap", tmp_path / "source")
    prepare(raw, tmp_path / "scene", name="a/b", settings=PrepareConfig(), region="0.3,-0.2,0.5,1.5")
    path = tmp_path / "scene/scene.json"
    data = json.loads(path.read_text())
    (data if key == "points" else data["views"][0])[key] = "../secret.png"
    path.write_text(json.dumps(data))
    with pytest.raises(DataError, match="leads out of"):
        load_scene(tmp_path / "scene")


def png_of(width: int, height: int) -> bytes:
    """A valid PNG of one colour, 1 bit a pixel, packed a thousandfold."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    pack = zlib.compressobj(9)
    row = bytes(1 + (width + 7) // 8)
    body = b"".join(pack.compress(row) for _ in range(height)) + pack.flush()
    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def peak_bytes() -> int:
    """Most memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def test_png_bomb(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / f"{name}.png").write_bytes(png_of(60_000, 4_000))
    assert (tmp_path / "a.png").stat().st_size < 1 << 20
    before = peak_bytes()
    for read in (read_header, load_image):
        with pytest.raises(DataError, match="pixels; scale the image down"):
            read(tmp_path / "a.png")
    with pytest.raises(DataError, match="pixels; scale the image down"):
        read_photos(tmp_path)
    assert peak_bytes() - before < 100 << 20


def array_claiming(shape: tuple[int, ...]) -> bytes:
    """An `.npy` header of float64 without its numbers."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<f8", "fortran_order": False, "shape": shape})
    return buffer.getvalue() + bytes(80)


def test_archives_that_claim_or_unpack_to_too_much(tmp_path: Path) -> None:
    claim, bomb = tmp_path / "claim.npz", tmp_path / "bomb.npz"
    with zipfile.ZipFile(claim, "w") as archive:
        archive.writestr("xyz.npy", array_claiming((10**12, 3)))
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("xyz.npy", array_claiming((4_000_000,)) + bytes(32_000_000))
    before = peak_bytes()
    with pytest.raises(DataError, match="claims 3000000000000 numbers"):
        read_npz(claim)
    assert bomb.stat().st_size < 100_000
    with pytest.raises(DataError, match=r"unpacks to 0\.0 GB, over 0\.0 GB"):
        read_npz(bomb, limit=1_000_000)
    assert peak_bytes() - before < 100 << 20
    assert read_npz(bomb)["xyz"].shape == (4_000_000,)


def test_archives_hold_no_objects(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", a=np.array([{}], dtype=object))
    with pytest.raises(DataError, match="holds objects"):
        read_npz(tmp_path / "a.npz")


@pytest.mark.parametrize("form", ["binary_little_endian", "ascii"])
def test_point_files_with_endless_words(tmp_path: Path, form: str) -> None:
    """The library behind open3d aborts the process on some of them."""
    head = f"ply\nformat {form} 1.0\nelement vertex 1\nproperty float x\nproperty float y\nproperty float z\nend_header\n"
    for text in (head.replace("element", "ele" + "[" * 3000), head + "1 2 " + "3" * 300 + "\n"):
        (tmp_path / "a.ply").write_text(text)
        if form == "ascii" or "[" in text:
            with pytest.raises(DataError, match="a word of over 250 characters"):
                read_points(tmp_path / "a.ply")


@pytest.mark.parametrize("form", ["ascii", "binary_little_endian"])
def test_point_file_that_claims_a_trillion_points(tmp_path: Path, form: str) -> None:
    path = tmp_path / "a.ply"
    properties = "".join(f"property float {axis}\n" for axis in "xyz")
    path.write_text(f"ply\nformat {form} 1.0\nelement vertex 1000000000000\n{properties}end_header\n1 2 3\n")
    before = peak_bytes()
    for read in (read_points, read_mesh):
        with pytest.raises(DataError, match="announces at least"):
            read(path)
    assert peak_bytes() - before < 200 << 20


class Evil:
    """Runs a command when it is unpickled by an unguarded loader."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (self.command,)


def test_a_checkpoint_runs_no_code(tmp_path: Path) -> None:
    torch.save({"version": 1, "x": Evil(f"touch {tmp_path}/hacked")}, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match="corrupt"):
        load_dict(tmp_path / "model.pt", torch.device("cpu"))
    assert not (tmp_path / "hacked").exists()


def test_nothing_unpickles_or_starts_a_shell() -> None:
    """`torch.load` only with weights_only=True, numpy without pickles, no pickle, eval, os.system, shell=True or unpacked archive."""
    for path in sorted([*(ROOT / "nsr").rglob("*.py"), *(ROOT / "scripts").glob("*.py")]):
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
                assert not {"pickle", "marshal", "shelve", "tarfile"} & set(names), path
            if not isinstance(node, ast.Call):
                continue
            called, given = ast.unparse(node.func), {word.arg: ast.unparse(word.value) for word in node.keywords}
            assert called != "torch.load" or given.get("weights_only") == "True", path
            assert called != "np.load" or given.get("allow_pickle") == "False", path
            assert called not in ("eval", "exec", "os.system", "os.popen") and not called.endswith((".extractall", ".extract")), (
                path
            )
            assert "shell" not in given, path


@pytest.mark.parametrize(
    "name", ["a b", "a'b", 'a"b', "a;b", "$(a)", "`a`", "a\nb", "a\n", "\u00fc", "..", "-a", "a/b", "a\\b", "a|b", "{a}", ""]
)
@pytest.mark.parametrize("column", ["dataset", "scene"])
def test_names_for_a_shell_are_refused(name: str, column: str) -> None:
    import jsonschema

    from nsr.manifest import schema_texts

    row = SceneRow(**{"dataset": "d", "scene": "s", "source": ".", "format": "neus", column: name})
    with pytest.raises(ConfigError, match="is no name"):
        check_row(row, "line 2")
    if not name.endswith("\n"):  # "$" of a schema's pattern lets a last line feed pass
        import yaml

        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(vars(row), yaml.safe_load(schema_texts()["scenes.schema.yaml"]))


def test_a_damaged_file_is_one_line_of_a_program(tmp_path: Path) -> None:
    """The whole way: program, reader, message."""
    (tmp_path / "cameras_sphere.npz").write_bytes(b"PK\x03\x04nothing")
    (tmp_path / "image").mkdir()
    (tmp_path / "image/0.png").write_bytes(png_of(8, 8))
    command = [sys.executable, ROOT / "scripts/prepare.py", "--format", "neus", "--source", tmp_path, "--name", "a/b"]
    done = subprocess.run(
        [*map(str, command), "--out", str(tmp_path / "out")],
        capture_output=True,
        text=True,
        env=child_environment(),
    )
    assert done.returncode == 2
    assert "not a readable .npz file" in done.stderr
    assert "Traceback" not in done.stderr
