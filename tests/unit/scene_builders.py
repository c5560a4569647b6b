"""Analytic cameras, balls seen by them, and small sources on disk for the scene tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from nsr.data.raw import RawCamera, RawScene, RawView
from nsr.scene.scene import View
from tests.unit.look_at import look_at

WIDTH, HEIGHT = 96, 72


def tilted(position, target) -> np.ndarray:
    """`look_at` with no axis of the world upright."""
    return look_at(position, target, up=(0.1, 0.2, 1.0))


def around(target, distance: float, count: int) -> list[np.ndarray]:
    """Cameras spread over the sphere around a target (spiral of equal areas)."""
    poses = []
    for index in range(count):
        z = 1 - (2 * index + 1) / count
        angle = 2.399963 * index
        ring = np.sqrt(1 - z * z)
        poses.append(tilted(np.asarray(target) + distance * np.array([ring * np.cos(angle), ring * np.sin(angle), z]), target))
    return poses


def make_view(name: str, w2c: np.ndarray, width: int = WIDTH, height: int = HEIGHT, focal: float = 90.0) -> View:
    """A prepared view without files."""
    K = np.array([[focal, 0, width / 2 + 1.5], [0, focal * 1.02, height / 2 - 1.0], [0, 0, 1]])
    return View(name, Path(f"{name}.png"), None, width, height, K, w2c)


def ball_mask(view: View, centre, radius: float) -> np.ndarray:
    """Exact silhouette (H, W) of a ball: pixels whose centre ray passes it."""
    columns, rows = np.meshgrid(np.arange(view.width) + 0.5, np.arange(view.height) + 0.5)
    rays = np.stack([columns, rows, np.ones_like(rows)], -1) @ np.linalg.inv(view.K).T
    rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
    towards = view.w2c[:3, :3] @ np.asarray(centre, float) + view.w2c[:3, 3]
    along = rays @ towards
    return np.where((along > 0) & (towards @ towards - along**2 < radius**2), 255, 0).astype(np.uint8)


def write_source(
    root: Path, views: Sequence[View], centre=(0.5, -1.0, 2.0), radius: float = 1.0, *, masks: bool = True
) -> RawScene:
    """Photos of a ball (JPEG) and its masks in `root`, and the raw scene that a reader would return."""
    rng = np.random.default_rng(3)
    raw = []
    for folder in ("image", "mask"):
        (root / folder).mkdir(parents=True)
    for view in views:
        silhouette = ball_mask(view, centre, radius)
        picture = rng.integers(0, 255, (view.height, view.width, 3)).astype(np.uint8)
        picture[silhouette > 0] = (200, 30, 40)
        Image.fromarray(picture).save(root / "image" / f"{view.name}.jpg", quality=90)
        Image.fromarray(silhouette).save(root / "mask" / f"{view.name}.png")
        camera = RawCamera(view.width, view.height, view.K)
        mask = root / "mask" / f"{view.name}.png" if masks else None
        raw.append(RawView(view.name, root / "image" / f"{view.name}.jpg", camera, view.w2c, mask))
    return RawScene(tuple(raw))


def edited(raw: RawScene, index: int, **changes) -> RawScene:
    """The raw scene with one view changed."""
    views = list(raw.views)
    views[index] = replace(views[index], **changes)
    return replace(raw, views=tuple(views))
