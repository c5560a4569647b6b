"""One synthetic scene, written in every source format, independently of the readers under test."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from tests.unit.look_at import look_at

WIDTH, HEIGHT = 64, 48
# Extra parameters that follow focal lengths and principal point, by COLMAP model name: the distortion of a real lens.
DISTORTION = {
    "SIMPLE_PINHOLE": (),
    "PINHOLE": (),
    "SIMPLE_RADIAL": (0.05,),
    "RADIAL": (0.05, -0.01),
    "OPENCV": (0.05, -0.01, 0.002, -0.003),
    "FULL_OPENCV": (0.05, -0.01, 0.002, -0.003, 0.004, 0.01, 0.002, 0.001),
    "OPENCV_FISHEYE": (0.02, -0.01, 0.004, 0.001),
    "SIMPLE_RADIAL_FISHEYE": (0.02,),
    "RADIAL_FISHEYE": (0.02, -0.01),
    "FOV": (0.3,),
    "THIN_PRISM_FISHEYE": (0.02, -0.01, 0.002, -0.003, 0.004, 0.001, 0.001, 0.002),
}
ONE_FOCAL = ("SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL", "SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE")


@dataclass(frozen=True)
class TrueView:
    """An analytic camera (OpenCV axes, pixel centres at +0.5) with its pictures."""

    name: str
    K: np.ndarray
    w2c: np.ndarray
    rgb: np.ndarray
    mask: np.ndarray


def make_views(count: int = 5, *, several_cameras: bool = True, square: bool = False) -> list[TrueView]:
    """Cameras on a circle round (0.3, -0.2, 0.5), looking at it, each with other intrinsics if asked for."""
    rng = np.random.default_rng(7)
    centre = np.array([0.3, -0.2, 0.5])
    views = []
    for index in range(count):
        angle = 2 * np.pi * index / count
        position = centre + 4.0 * np.array([np.cos(angle), np.sin(angle), 0.4])
        w2c = look_at(position, centre)
        shift = index if several_cameras else 0
        fx = 60.0 + 2.0 * shift
        K = np.array([[fx, 0.0, 32.0], [0.0, fx if square else fx + 1.5, 24.0], [0.0, 0.0, 1.0]])
        if not square:
            K[:2, 2] += (1.25 + shift, -0.75)
        mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
        mask[10:40, 12 + index : 50] = 255
        views.append(TrueView(f"{index:04d}", K, w2c, rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8), mask))
    return views


def true_params(view: TrueView, model: str) -> tuple[float, ...]:
    """COLMAP parameters of a view's camera under a model."""
    fx, fy, cx, cy = view.K[0, 0], view.K[1, 1], view.K[0, 2], view.K[1, 2]
    return ((fx, cx, cy) if model in ONE_FOCAL else (fx, fy, cx, cy)) + DISTORTION[model]


def write_images(
    folder: Path, views: Sequence[TrueView], *, names: Sequence[str] | None = None, alpha: bool = False
) -> list[str]:
    """Pictures as PNG; returns the file names."""
    folder.mkdir(parents=True, exist_ok=True)
    names = names or [f"{view.name}.png" for view in views]
    for name, view in zip(names, views, strict=True):
        pixels = np.dstack([view.rgb, view.mask]) if alpha else view.rgb
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / name)
    return list(names)


def write_masks(folder: Path, views: Sequence[TrueView], names: Sequence[str]) -> None:
    """Masks as single-channel images."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, view in zip(names, views, strict=True):
        Image.fromarray(view.mask).save(folder / name)


def write_neus(root: Path, views: Sequence[TrueView], *, digits: int = 3, camera_file: str = "cameras_sphere.npz") -> Path:
    """NeuS/IDR folder in float64, region: ball of radius 1.5 round (0.3, -0.2, 0.5). Projections get odd scales and signs."""
    write_images(root / "image", views, names=[f"{i:0{digits}d}.png" for i in range(len(views))])
    write_masks(root / "mask", views, [f"{i:03d}.png" for i in range(len(views))])
    scale = np.diag([1.5, 1.5, 1.5, 1.0])
    scale[:3, 3] = (0.3, -0.2, 0.5)
    arrays = {}
    for index, view in enumerate(views):
        world = np.eye(4)
        world[:3] = view.K @ view.w2c[:3] * (-1.7 if index % 2 else 0.4)
        arrays[f"world_mat_{index}"], arrays[f"scale_mat_{index}"] = world, scale
    np.savez(root / camera_file, **arrays)
    return root


def to_opengl(w2c: np.ndarray) -> list[list[float]]:
    """Camera-to-world with OpenGL axes (x right, y up, z backward), nested lists."""
    c2w = np.linalg.inv(w2c)
    return np.column_stack([c2w[:, 0], -c2w[:, 1], -c2w[:, 2], c2w[:, 3]]).tolist()


def write_blender(root: Path, views: Sequence[TrueView], *, split: str = "train") -> Path:
    """NeRF-synthetic folder: RGBA, one field of view, principal point in the middle (`make_views(square=True)`)."""
    names = write_images(root / split, views, names=[f"r_{i}.png" for i in range(len(views))], alpha=True)
    angle = 2 * np.arctan(WIDTH / 2 / views[0].K[0, 0])
    frames = [
        {"file_path": f"./{split}/{n[:-4]}", "transform_matrix": to_opengl(v.w2c)} for n, v in zip(names, views, strict=True)
    ]
    (root / f"transforms_{split}.json").write_text(json.dumps({"camera_angle_x": angle, "frames": frames}))
    return root


def write_nerfstudio(root: Path, views: Sequence[TrueView], *, model: str = "OPENCV", per_frame: bool = True) -> Path:
    """nerfstudio folder with masks; intrinsics frame by frame, or the first view's for all."""
    names = write_images(root / "images", views)
    write_masks(root / "masks", views, names)
    keys = ("k1", "k2", "k3", "k4") if model == "OPENCV_FISHEYE" else ("k1", "k2", "p1", "p2")

    def intrinsics(view: TrueView) -> dict[str, float]:
        base = {"fl_x": view.K[0, 0], "fl_y": view.K[1, 1], "cx": view.K[0, 2], "cy": view.K[1, 2], "w": WIDTH, "h": HEIGHT}
        return base | dict(zip(keys, DISTORTION[model], strict=False))

    data: dict[str, object] = {"camera_model": model} | ({} if per_frame else intrinsics(views[0]))
    data["frames"] = [
        {"file_path": f"images/{n}", "mask_path": f"masks/{n}", "transform_matrix": to_opengl(v.w2c)}
        | (intrinsics(v) if per_frame else {})
        for n, v in zip(names, views, strict=True)
    ]
    (root / "transforms.json").write_text(json.dumps(data))
    return root


def write_ngp(root: Path, views: Sequence[TrueView]) -> Path:
    """instant-ngp folder: one camera without a model name, RGBA, paths without a suffix, frames in reverse order."""
    names = write_images(root / "images", views, alpha=True)
    view = views[0]
    data = {"camera_angle_x": 2 * np.arctan(WIDTH / 2 / view.K[0, 0]), "fl_x": view.K[0, 0], "fl_y": view.K[1, 1]}
    data |= {"cx": view.K[0, 2], "cy": view.K[1, 2], "w": float(WIDTH), "h": float(HEIGHT), "aabb_scale": 4, "scale": 0.33}
    data |= {"k1": 0.0, "k2": 0.0, "p1": 0.0, "p2": 0.0}
    frames = [
        {"file_path": f"./images/{n[:-4]}", "transform_matrix": to_opengl(v.w2c)} for n, v in zip(names, views, strict=True)
    ]
    (root / "transforms.json").write_text(json.dumps(data | {"frames": frames[::-1]}))
    return root


def quaternion(R: np.ndarray) -> np.ndarray:
    """w, x, y, z of a rotation matrix, by the eigenvector of Bar-Itzhack (2000)."""
    m = R
    N = np.array(
        [
            [m[0, 0] + m[1, 1] + m[2, 2], m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1]],
            [m[2, 1] - m[1, 2], m[0, 0] - m[1, 1] - m[2, 2], m[0, 1] + m[1, 0], m[0, 2] + m[2, 0]],
            [m[0, 2] - m[2, 0], m[0, 1] + m[1, 0], m[1, 1] - m[0, 0] - m[2, 2], m[1, 2] + m[2, 1]],
            [m[1, 0] - m[0, 1], m[0, 2] + m[2, 0], m[1, 2] + m[2, 1], m[2, 2] - m[0, 0] - m[1, 1]],
        ]
    )
    return np.linalg.eigh(N)[1][:, -1]


def write_colmap_text(root: Path, views: Sequence[TrueView], *, model: str = "PINHOLE", shared: bool = False) -> Path:
    """COLMAP dataset with a text model written by hand: two points, the second seen by all views but the first.

    Image ids run backwards and start at 11, so that they differ from positions in name order.
    """
    names = write_images(root / "images", views, names=[f"{v.name}.png" for v in views])
    write_masks(root / "masks", views, [f"{n}.png" for n in names])
    folder = root / "sparse" / "0"
    folder.mkdir(parents=True)
    ids = {index: 11 + len(views) - index for index in range(len(views))}
    points = np.array([[0.3, -0.2, 0.5], [0.5, -0.1, 0.6]])
    seen = [list(range(len(views))), list(range(1, len(views)))]
    cameras, images = [], []
    for index, view in enumerate(views):
        camera = 1 if shared else index + 1
        if camera == index + 1:
            cameras.append(f"{camera} {model} {WIDTH} {HEIGHT} {' '.join(repr(float(p)) for p in true_params(view, model))}")
        q, t = quaternion(view.w2c[:3, :3]), view.w2c[:3, 3]
        images.append(f"{ids[index]} {' '.join(repr(float(x)) for x in (*q, *t))} {camera} {names[index]}")
        images.append(" ".join(f"30.0 20.0 {p + 1}" for p in range(2) if index in seen[p]))
    tracks = [" ".join(f"{ids[v]} {0 if p == 0 or v == 0 else 1}" for v in seen[p]) for p in range(2)]
    lines = [f"{p + 1} {' '.join(map(repr, points[p].tolist()))} {10 * p} 20 30 {0.25 + p} {tracks[p]}" for p in range(2)]
    for name, content in (("cameras", cameras), ("images", images), ("points3D", lines)):
        (folder / f"{name}.txt").write_text("\n".join(content) + "\n")
    return root


def write_colmap_binary(root: Path, views: Sequence[TrueView], *, model: str = "PINHOLE", shared: bool = False) -> Path:
    """The same dataset with the model converted to binary by pycolmap."""
    import pycolmap

    write_colmap_text(root, views, model=model, shared=shared)
    folder = root / "sparse" / "0"
    reconstruction = pycolmap.Reconstruction(folder)
    for path in folder.glob("*.txt"):
        path.unlink()
    reconstruction.write_binary(folder)
    return root
