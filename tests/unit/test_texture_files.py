"""GLB, OBJ, PLY and frames, read back by trimesh and open3d; the whole stage on the shipped photographs."""

from __future__ import annotations

import json
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image

from nsr.config import Config, TextureConfig, resolve
from nsr.conventions import MASK_OBJECT, Similarity, project
from nsr.data import READERS
from nsr.errors import DataError
from nsr.mesh.io import read_mesh, read_metric, write_ply
from nsr.mesh.metric import Metric
from nsr.mesh.texture import files
from nsr.mesh.texture.atlas import Atlas, TexturedMesh, unwrap
from nsr.mesh.texture.frame import cameras_up, file_frame, rotation_between
from nsr.mesh.texture.stage import NAMES, texture_stage
from nsr.mesh.texture.texels import on_surface, rasterise
from nsr.scene.images import load_image, load_mask, save_png
from nsr.scene.prepare import prepare
from nsr.scene.scene import Scene, View, load_scene, save_scene
from tests.unit.painted import around, ball, paint, photograph
from tests.unit.programs import call

SIZE = 256
FAR = np.array([5.0e5, -2.0e5, 40.0])  # like map coordinates
EXAMPLE = Path(__file__).parents[2] / "examples" / "spot"


@pytest.fixture(scope="module")
def painted() -> TexturedMesh:
    """The painted ball far from the origin, its texture computed from the paint."""
    atlas = unwrap(ball(), SIZE, 4)
    texels = rasterise(atlas, SIZE, 1)
    image = np.zeros((SIZE * SIZE, 3), dtype=np.uint8)
    image[texels.index] = np.rint(np.clip(paint(on_surface(atlas.mesh, texels, atlas.mesh.vertices)), 0, 255))
    mesh = replace(atlas.mesh, vertices=atlas.mesh.vertices + FAR)
    return TexturedMesh(replace(atlas, mesh=mesh), image.reshape(SIZE, SIZE, 3))


def looked_up(mesh: trimesh.Trimesh, image: Image.Image, count: int = 4000) -> tuple[np.ndarray, np.ndarray]:
    """Random points of a loaded mesh and their colours in 0..255, after trimesh's convention (v from the lower edge)."""
    points, faces = trimesh.sample.sample_surface(mesh, count, seed=0)
    weights = trimesh.triangles.points_to_barycentric(mesh.triangles[faces], points)
    uv = np.einsum("pk,pkc->pc", weights, np.asarray(mesh.visual.uv)[mesh.faces[faces]])
    pixels = np.asarray(image.convert("RGB"), dtype=float)
    column = np.clip((uv[:, 0] * image.width).astype(int), 0, image.width - 1)
    row = np.clip(((1 - uv[:, 1]) * image.height).astype(int), 0, image.height - 1)
    return np.asarray(points), pixels[row, column]


def test_glb_in_trimesh(painted, tmp_path):
    files.write_glb(tmp_path / "m.glb", painted, files.jpeg(painted.image, 95), {"unit": "mm"})
    scene = trimesh.load(tmp_path / "m.glb")
    assert len(scene.geometry) == 1
    mesh = scene.to_mesh()
    material = mesh.visual.material
    assert isinstance(material, trimesh.visual.material.PBRMaterial)
    assert material.metallicFactor == 0.0
    points, colour = looked_up(mesh, material.baseColorTexture)
    assert np.abs(np.linalg.norm(points - FAR, axis=1) - 1).max() < 0.02
    assert np.abs(colour - paint(points - FAR)).mean() < 4.0
    outward = mesh.face_normals * (mesh.triangles_center - FAR)
    assert (outward.sum(axis=1) > 0.9).all()


def test_glb_keeps_the_rules_of_the_format(painted, tmp_path):
    files.write_glb(tmp_path / "m.glb", painted, files.jpeg(painted.image, 90), {"unit": "mm"})
    data = (tmp_path / "m.glb").read_bytes()
    magic, version, length = struct.unpack("<4sII", data[:12])
    assert (magic, version, length) == (b"glTF", 2, len(data))
    size, kind = struct.unpack("<I4s", data[12:20])
    tree = json.loads(data[20 : 20 + size])
    assert (kind, size % 4) == (b"JSON", 0)
    assert tree["asset"]["extras"] == {"unit": "mm"}
    binary = data[28 + size :]
    assert tree["buffers"][0]["byteLength"] == len(binary) == struct.unpack("<I", data[20 + size : 24 + size])[0]
    widths = {"SCALAR": 1, "VEC2": 2, "VEC3": 3}
    arrays = []
    for accessor in tree["accessors"]:
        view = tree["bufferViews"][accessor["bufferView"]]
        assert view["byteOffset"] % 4 == 0
        kind = {5126: "<f4", 5125: "<u4"}[accessor["componentType"]]
        part = np.frombuffer(binary, kind, view["byteLength"] // 4, view["byteOffset"])
        assert len(part) == accessor["count"] * widths[accessor["type"]]
        arrays.append(part.reshape(accessor["count"], -1))
    attributes = tree["meshes"][0]["primitives"][0]["attributes"]
    position, uv, normal = (arrays[attributes[name]] for name in ("POSITION", "TEXCOORD_0", "NORMAL"))
    assert np.array_equal(position.min(axis=0), np.float32(tree["accessors"][0]["min"]))
    assert np.array_equal(position.max(axis=0), np.float32(tree["accessors"][0]["max"]))
    assert 0 <= uv.min() <= uv.max() <= 1
    assert np.allclose(np.linalg.norm(normal, axis=1), 1, atol=1e-5)
    assert arrays[-1].max() == len(position) - 1
    picture = tree["bufferViews"][tree["images"][0]["bufferView"]]
    assert binary[picture["byteOffset"] :][:3] == b"\xff\xd8\xff"
    assert "KHR_materials_unlit" in tree["materials"][0]["extensions"]


def test_obj_in_trimesh_and_open3d(painted, tmp_path):
    import open3d as o3d

    files.write_obj(tmp_path / "m.obj", painted, files.jpeg(painted.image, 95))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.jpg", "m.mtl", "m.obj"]
    mesh = trimesh.load(tmp_path / "m.obj", process=False)
    points, colour = looked_up(mesh, mesh.visual.material.image)
    assert np.abs(np.linalg.norm(points - FAR, axis=1) - 1).max() < 0.02
    assert np.abs(colour - paint(points - FAR)).mean() < 4.0
    other = o3d.io.read_triangle_mesh(str(tmp_path / "m.obj"))
    # Vertices are shared across seams (open3d splits them on reading), and in full precision.
    lines = (tmp_path / "m.obj").read_text().splitlines()
    vertices = np.array([line.split()[1:] for line in lines if line.startswith("v ")], dtype=float)
    assert np.abs(vertices - painted.atlas.mesh.vertices).max() < 1e-3
    corners = np.asarray(other.vertices)[np.asarray(other.triangles)]
    assert np.abs(corners - painted.atlas.mesh.vertices[painted.atlas.mesh.faces]).max() < 0.1  # single precision inside
    theirs = np.asarray(other.triangle_uvs).reshape(-1, 3, 2)
    mine = painted.atlas.uv[painted.atlas.corners] * [1, -1] + [0, 1]
    assert np.abs(theirs - mine).max() < 1e-5


def views_at(w2c) -> tuple[View, ...]:
    return tuple(View(f"{k}", Path("x"), None, 8, 8, np.eye(3), m) for k, m in enumerate(w2c))


def test_gltf_frame_stands_upright_in_metres():
    w2c = np.stack([camera.w2c for camera in around(16)])
    scene = Scene(Path("."), "d/s", views_at(w2c), Similarity.identity(), unit="mm")
    world, notes = file_frame(scene, TextureConfig())
    assert np.array_equal(world.similarity.matrix(), np.eye(4))
    assert (world.unit, notes) == ("mm", [])
    frame, notes = file_frame(scene, TextureConfig(frame="gltf", up=(0, 0, 1)))
    assert (frame.unit, notes) == ("metre", [])
    assert np.allclose(frame.similarity.apply([[100.0, 200.0, 300.0]]), [[0.1, 0.3, -0.2]])
    frame, notes = file_frame(replace(scene, unit="unknown"), TextureConfig(frame="gltf"))
    assert len(notes) == 2
    assert "texture.metres" in notes[1]
    half, _ = file_frame(scene, TextureConfig(frame="gltf", up=(0, -2, 0), metres=0.5))
    assert np.allclose(half.similarity.apply([[0, -1, 0]]), [[0, 0.5, 0]])


def test_gltf_frame_of_a_metric_mesh():
    """The metric frame's unit counts, not the scene's, and up is the cameras' in that frame."""
    w2c = np.stack([camera.w2c for camera in around(16)])
    scene = Scene(Path("."), "d/s", views_at(w2c), Similarity.identity(), unit="unknown")
    lying = np.array([[1.0, 0, 0], [0, 0, 1.0], [0, -1.0, 0]])  # the world's z is the metric frame's y
    metric = Metric(Similarity(25.0, lying, np.array([1.0, 2.0, 3.0])), "cm")
    frame, notes = file_frame(scene, TextureConfig(frame="gltf"), metric)
    assert len(notes) == 1  # only the guess of up
    assert np.allclose(frame.similarity.apply([[0.0, 0.0, 0.0]]), [[0.01, 0.02, 0.03]])
    assert np.allclose(frame.similarity.apply([[0.0, 0.0, 1.0]]), [[0.01, 0.27, 0.03]])
    frame, _ = file_frame(scene, TextureConfig(frame="gltf", metres=1.0, up=(0, 1, 0)), metric)
    assert np.allclose(frame.similarity.apply([[0.0, 0.0, 1.0]]), [[1.0, 27.0, 3.0]])
    assert file_frame(scene, TextureConfig(), metric) == (metric, [])


def test_up_of_the_cameras_snaps_to_an_axis():
    from tests.unit.look_at import look_at

    ring = np.stack([look_at((4 * np.cos(a), 4 * np.sin(a), 2.0), up=(0, 0.1, 1)) for a in np.arange(6.0)])
    assert np.array_equal(cameras_up(ring), [0, 0, 1])
    tilted = np.stack([look_at((4 * np.cos(a), 4 * np.sin(a), 0.0), up=(0, 1, 1)) for a in np.linspace(0, 6.28, 12)])
    assert cameras_up(tilted) @ np.array([0, 1, 1]) / np.sqrt(2) > 0.9
    opposite = np.stack([np.eye(4), np.diag([-1.0, -1.0, 1.0, 1.0])])
    assert np.array_equal(cameras_up(opposite), [0, 0, 1])


@pytest.mark.parametrize("start", [[0, 0, 1], [0, -1, 0], [0, 1, 0], [1, 2, -3], [-1, 0, 0], [1e-9, -1, 0]])
def test_rotation_between_directions(start):
    end = np.array([0.0, 1.0, 0.0])
    turn = rotation_between(np.array(start, dtype=float), end)
    assert np.allclose(turn @ turn.T, np.eye(3))
    assert np.linalg.det(turn) == pytest.approx(1)
    assert np.allclose(turn @ start / np.linalg.norm(start), end, atol=1e-6)


@pytest.fixture(scope="module")
def example(tmp_path_factory) -> Path:
    """Every second photograph of the example as a scene; every fourth of these is held out."""
    raw = READERS["neus"](EXAMPLE, None)
    root = tmp_path_factory.mktemp("example") / "scene"
    config = resolve([{"prepare": {"holdout_every": 4}}])
    prepare(replace(raw, views=raw.views[::2]), root, name="d/spot", settings=config.prepare)
    return root


def test_example_lands_in_the_right_place(example, tmp_path):
    """The real photographs: the GLB, read by trimesh, reproduces views that were not baked."""
    config = resolve([{"texture": {"size": 512, "split": "train", "frame": "world"}}])
    facts = texture_stage(EXAMPLE / "gt_mesh.ply", example, tmp_path / "out", config, threads=1)
    assert {path.name for path in (tmp_path / "out").iterdir()} == set(NAMES)
    assert facts["psnr"] > 22
    assert facts["psnr_held_out"] > 22
    assert len(facts["psnr_views"]) == 15
    assert facts["seams"]["mean"] < 4
    mesh = trimesh.load(tmp_path / "out" / "textured.glb", force="mesh", process=False)
    scene = load_scene(example)
    for view in scene.split("held_out")[:2]:
        assert independent_psnr(mesh, mesh.visual.material.baseColorTexture, view) > 22
    flipped = mesh.visual.material.baseColorTexture.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    assert independent_psnr(mesh, flipped, view) < 20
    vertices = read_mesh(tmp_path / "out" / "textured.ply")
    assert vertices.colours is not None
    assert len(vertices.faces) == facts["triangles"] == 5856


def independent_psnr(mesh, image, view) -> float:
    """PSNR over the object of points splatted into a photograph with a depth buffer: no code of the baking."""
    points, colour = looked_up(mesh, image, 200_000)
    pixel, depth = project(view.K, view.w2c, points)
    ok = (pixel >= 0).all(axis=1) & (pixel[:, 0] < view.width) & (pixel[:, 1] < view.height)
    cell = (pixel[ok] / 4).astype(int)  # coarse cells, so that the depth buffer has no holes
    nearest = np.full((view.height // 4 + 1, view.width // 4 + 1), np.inf)
    np.minimum.at(nearest, (cell[:, 1], cell[:, 0]), depth[ok])
    front = depth[ok] < nearest[cell[:, 1], cell[:, 0]] + 0.05
    column, row = pixel[ok][front].astype(int).T
    inside = load_mask(view.mask)[row, column] == MASK_OBJECT
    error = colour[ok][front][inside] - load_image(view.image)[row, column][inside]
    return float(10 * np.log10(255**2 / (error**2).mean()))


def ball_scene(root: Path, masks: bool) -> Path:
    """The painted ball's photographs as a prepared scene."""
    root.mkdir(parents=True)
    views = []
    for number, camera in enumerate(around(10)):
        image, mask = photograph(camera)
        save_png(root / f"i{number}.png", image)
        save_png(root / f"m{number}.png", mask)
        place = root / f"m{number}.png" if masks else None
        views.append(View(f"v{number}", root / f"i{number}.png", place, camera.width, camera.height, camera.K, camera.w2c))
    save_scene(Scene(root, "d/ball", tuple(views), Similarity.identity(), unit="cm"))
    return root


def test_stage_without_masks_in_gltf_frame(tmp_path):
    scene = ball_scene(tmp_path / "scene", masks=False)
    write_ply(tmp_path / "ball.ply", ball())
    settings = [f"texture.size={SIZE}", "texture.faces=600", "texture.frame=gltf", "texture.up=[0,0,1]"]
    assert call("texture", "--mesh", tmp_path / "ball.ply", "--scene", scene, "--out", tmp_path / "out", *settings) == 0
    facts = json.loads((tmp_path / "out/texture.json").read_text())
    assert facts["unit"] == "metre"
    assert facts["psnr"] > 28
    assert facts["psnr_held_out"] is None
    assert facts["world_to_file"]["scale"] == 0.01
    assert facts["triangles"] <= 600 < facts["simplified"]["from"]
    assert 0.001 < 100 * facts["simplified"]["max"] < 0.05
    for name in ("textured.glb", "textured.obj"):
        mesh = trimesh.load(tmp_path / "out" / name, force="mesh", process=False)
        material = mesh.visual.material
        points, colour = looked_up(mesh, material.image if name.endswith("obj") else material.baseColorTexture)
        world = points[:, [0, 2, 1]] * [100, -100, 100]  # back to z up and centimetres
        assert np.abs(np.linalg.norm(world, axis=1) - 1).max() < 0.05
        assert np.abs(colour - paint(world)).mean() < 6.0
    written = trimesh.load(tmp_path / "out/textured.ply", process=False)
    assert np.abs(written.vertices).max() < 0.0102
    assert np.allclose(read_mesh(tmp_path / "out/textured.ply").vertices, written.vertices[:, [0, 2, 1]] * [100, -100, 100])


def test_files_of_a_metric_mesh_are_metric(tmp_path):
    """A mesh with real units: baked in the world of its cameras, written as GLB, OBJ and PLY in its metric frame."""
    scene = ball_scene(tmp_path / "scene", masks=True)
    turn = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    metric = Metric(Similarity(40.0, turn, np.array([500.0, 0.0, -20.0])), "mm")
    write_ply(tmp_path / "mesh.ply", ball().moved(metric.similarity), metric)
    config = Config(texture=TextureConfig(size=SIZE, faces=600))
    facts = texture_stage(tmp_path / "mesh.ply", scene, tmp_path / "out", config)
    assert (facts["frame"], facts["unit"], facts["simplified"]["unit"]) == ("metric", "mm", "mm")
    assert facts["psnr"] > 28
    assert 0.04 < facts["simplified"]["max"] < 2.0
    assert np.allclose(Similarity.from_dict(facts["world_to_file"]).matrix(), metric.similarity.matrix())
    for name in ("textured.glb", "textured.obj", "textured.ply"):
        mesh = trimesh.load(tmp_path / "out" / name, force="mesh", process=False)
        world = metric.similarity.inverse().apply(mesh.vertices)
        assert np.abs(np.linalg.norm(world, axis=1) - 1).max() < 0.05
        if name.endswith("ply"):
            colour = np.asarray(mesh.visual.vertex_colors)[:, :3].astype(float)
        else:
            material = mesh.visual.material
            points, colour = looked_up(mesh, material.image if name.endswith("obj") else material.baseColorTexture)
            world = metric.similarity.inverse().apply(points)
        assert np.abs(colour - paint(world)).mean() < 8.0
    stated = read_metric(tmp_path / "out/textured.ply")
    assert stated is not None
    assert stated.unit == "mm"
    assert np.abs(np.linalg.norm(read_mesh(tmp_path / "out/textured.ply").vertices, axis=1) - 1).max() < 0.05
    extras = json.loads(glb_json(tmp_path / "out/textured.glb"))["asset"]["extras"]
    assert (extras["unit"], extras["world_to_file"]["scale"]) == ("mm", 40.0)


def glb_json(path: Path) -> bytes:
    """The description in a GLB."""
    data = path.read_bytes()
    return data[20 : 20 + struct.unpack("<I", data[12:16])[0]]


def test_refusals(tmp_path):
    scene = ball_scene(tmp_path / "scene", masks=True)
    config = Config(texture=TextureConfig(size=64))
    write_ply(tmp_path / "away.ply", replace(ball(2), vertices=ball(2).vertices + [50.0, 0, 0]))
    with pytest.raises(DataError, match="none of 10 photographs sees the mesh"):
        texture_stage(tmp_path / "away.ply", scene, tmp_path / "out", config)
    assert not (tmp_path / "out").exists()
    inside_out = replace(ball(2), faces=ball(2).faces[:, ::-1])
    write_ply(tmp_path / "inside_out.ply", inside_out)
    facts = texture_stage(tmp_path / "inside_out.ply", scene, tmp_path / "odd", config)
    assert any("orientation" in note for note in facts["notes"])
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="is a file where a folder is to be made"):
        texture_stage(tmp_path / "away.ply", scene, tmp_path / "file", config)
    with pytest.raises(DataError, match="no such mesh file"):
        texture_stage(tmp_path / "none.ply", scene, tmp_path / "out", config)
    point = Atlas(ball(1), np.zeros((1, 2)), np.zeros((80, 3), dtype=np.int64), 1)
    assert not len(rasterise(point, 16, 1).index)
