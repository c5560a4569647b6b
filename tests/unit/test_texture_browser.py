"""A baked example's GLB, opened in a browser with the three.js of the report and seen from a photograph's camera, and its OBJ in trimesh."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import trimesh

import nsr.report
from nsr.config import resolve
from nsr.conventions import MASK_OBJECT, OPENGL_TO_OPENCV
from nsr.data import READERS
from nsr.mesh.texture.stage import texture_stage
from nsr.scene.images import load_image, load_mask
from nsr.scene.prepare import prepare
from nsr.scene.scene import View, load_scene
from tests.unit.browser import chromium, opened

pytestmark = pytest.mark.xdist_group("browser")
EXAMPLE = Path(__file__).parents[2] / "examples" / "spot"
THREE = Path(nsr.report.__file__).parent / "vendor" / "three.bundle.min.js"
PAGE = """<!DOCTYPE html><link rel="icon" href="data:,"><script>{three}</script><script>
const bytes = (text) => Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
window.draw = async (glb, camera) => {{
  const loaded = await new THREE.GLTFLoader().parseAsync(bytes(glb).buffer, "");
  const scene = new THREE.Scene();
  scene.add(loaded.scene);
  const lens = new THREE.PerspectiveCamera();
  lens.matrixAutoUpdate = false;
  lens.matrix.fromArray(camera.pose);
  lens.updateMatrixWorld(true);
  lens.projectionMatrix.fromArray(camera.projection);
  lens.projectionMatrixInverse.copy(lens.projectionMatrix).invert();
  const renderer = new THREE.WebGLRenderer({{ antialias: true, preserveDrawingBuffer: true }});
  renderer.setSize(camera.width, camera.height, false);
  renderer.render(scene, lens);
  const canvas = new OffscreenCanvas(camera.width, camera.height).getContext("2d");
  canvas.drawImage(renderer.domElement, 0, 0);
  const shown = canvas.getImageData(0, 0, camera.width, camera.height).data;
  renderer.dispose();
  let text = "";
  for (let start = 0; start < shown.length; start += 8192) text += String.fromCharCode(...shown.subarray(start, start + 8192));
  return btoa(text);
}};
</script>"""


@pytest.fixture(scope="module")
def baked(tmp_path_factory):
    """Every second photograph of the example baked onto its exact mesh, every fourth of these left out; scene and folder."""
    root = tmp_path_factory.mktemp("baked")
    raw = READERS["neus"](EXAMPLE, None)
    config = resolve([{"prepare": {"holdout_every": 4}, "texture": {"size": 512, "split": "train"}}])
    prepare(replace(raw, views=raw.views[::2]), root / "scene", name="d/spot", settings=config.prepare)
    texture_stage(EXAMPLE / "gt_mesh.ply", root / "scene", root / "out", config, threads=1)
    return load_scene(root / "scene"), root / "out"


def camera_of(view: View) -> dict:
    """A view's pose and projection (K exactly, off-centre too) as WebGL takes them, column by column."""
    near, far = 0.01, 1000.0
    (fx, _, cx), (_, fy, cy), _ = view.K
    projection = np.zeros((4, 4))
    projection[0, 0], projection[0, 2] = 2 * fx / view.width, 1 - 2 * cx / view.width
    projection[1, 1], projection[1, 2] = 2 * fy / view.height, 2 * cy / view.height - 1
    projection[2, 2], projection[2, 3], projection[3, 2] = -(far + near) / (far - near), -2 * far * near / (far - near), -1
    pose = np.linalg.inv(view.w2c) @ OPENGL_TO_OPENCV
    return {
        "pose": pose.T.reshape(-1).tolist(),
        "projection": projection.T.reshape(-1).tolist(),
        "width": view.width,
        "height": view.height,
    }


def inside_psnr(shown: np.ndarray, view: View) -> float:
    """PSNR in dB of a picture (H, W, 3) against the view's photograph, inside its mask."""
    inside = load_mask(view.mask) == MASK_OBJECT
    error = shown[inside].astype(float) - load_image(view.image)[inside]
    return float(10 * np.log10(255**2 / (error**2).mean()))


def test_the_glb_in_a_browser_reproduces_photographs_that_were_not_baked(baked, tmp_path):
    scene, folder = baked
    (tmp_path / "page.html").write_text(PAGE.format(three=THREE.read_text().replace("</script", "<\\/script")))
    glb = base64.b64encode((folder / "textured.glb").read_bytes()).decode()
    complaints: list[str] = []
    with chromium() as browser, opened(browser, tmp_path / "page.html", complaints) as page:
        for view in scene.split("held_out")[:2]:
            text = page.evaluate("([glb, camera]) => draw(glb, camera)", [glb, camera_of(view)])
            shown = np.frombuffer(base64.b64decode(text), np.uint8).reshape(view.height, view.width, 4)[..., :3]
            assert inside_psnr(shown, view) > 22
            assert inside_psnr(shown[:, ::-1], view) < 18
    assert complaints == []


def test_the_obj_in_trimesh_has_the_texture_of_the_glb(baked):
    _, folder = baked
    obj = trimesh.load(folder / "textured.obj", process=False)
    glb = trimesh.load(folder / "textured.glb", force="mesh", process=False)
    assert json.loads((folder / "texture.json").read_text())["triangles"] == len(obj.faces) == len(glb.faces)
    assert np.abs(obj.triangles - glb.triangles).max() < 1e-5 * obj.scale
    assert np.abs(obj.visual.uv[obj.faces] - glb.visual.uv[glb.faces]).max() < 1e-5
    assert np.array_equal(np.asarray(obj.visual.material.image), np.asarray(glb.visual.material.baseColorTexture))
