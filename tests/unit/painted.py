"""A painted ball and exact photographs of it, for the tests of textures."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import trimesh

from nsr.conventions import MASK_BACKGROUND, MASK_OBJECT, pixel_rays
from nsr.mesh.surface import Mesh, vertex_normals
from nsr.mesh.texture.bake import Shot
from nsr.mesh.texture.photo import Pinhole
from tests.unit.look_at import look_at

Paint = Callable[[np.ndarray], np.ndarray]
BACKGROUND = (0, 255, 0)  # loud, so that it shows where it bleeds


def paint(points: np.ndarray) -> np.ndarray:
    """A smooth colour (P, 3) in 0..255 that tells left from right, up from down and front from back."""
    x, y, z = points.T
    return 127.0 + 90.0 * np.stack([np.sin(3 * x + 1), np.sin(3 * y) * np.cos(2 * z), np.sin(4 * z + x)], axis=1)


def ball(subdivisions: int = 3) -> Mesh:
    """The unit ball's triangles."""
    made = trimesh.creation.icosphere(subdivisions=subdivisions)
    return with_normals(np.asarray(made.vertices), np.asarray(made.faces))


def with_normals(vertices: np.ndarray, faces: np.ndarray) -> Mesh:
    """A mesh with the normals of its faces."""
    bare = Mesh(np.asarray(vertices, dtype=np.float64), np.asarray(faces, dtype=np.int64))
    return Mesh(bare.vertices, bare.faces, vertex_normals(bare))


def pinhole(position, width: int = 240, height: int = 200, focal: float = 260.0) -> Pinhole:
    """A camera that looks at the origin, its principal point off the middle."""
    K = np.array([[focal, 0, width / 2 + 3], [0, focal, height / 2 - 2], [0, 0, 1.0]])
    return Pinhole(K, look_at(position, up=(0.1, 0.2, 1.0)), width, height)


def around(count: int, distance: float = 4.0) -> list[Pinhole]:
    """Cameras on all sides."""
    k = np.arange(count) + 0.5
    z, angle = 1 - 2 * k / count, np.pi * (1 + 5**0.5) * k
    ring = np.sqrt(1 - z * z)
    return [pinhole(distance * np.array(p)) for p in zip(ring * np.cos(angle), ring * np.sin(angle), z, strict=True)]


def photograph(camera: Pinhole, colour: Paint = paint) -> tuple[np.ndarray, np.ndarray]:
    """Image and mask of the exact unit ball, by intersecting rays with the sphere: no code of the package but the rays."""
    columns, rows = np.meshgrid(np.arange(camera.width) + 0.5, np.arange(camera.height) + 0.5)
    origin, direction = pixel_rays(camera.K, camera.w2c, np.stack([columns.ravel(), rows.ravel()], axis=1))
    along = (origin * direction).sum(axis=1)
    under = along**2 - (origin**2).sum(axis=1) + 1.0
    hit = under > 0
    image = np.tile(np.array(BACKGROUND, dtype=np.uint8), (len(hit), 1))
    points = origin[hit] + (-along[hit] - np.sqrt(under[hit]))[:, None] * direction[hit]
    image[hit] = np.rint(np.clip(colour(points), 0, 255))
    shape = (camera.height, camera.width)
    return image.reshape(*shape, 3), np.where(hit, MASK_OBJECT, MASK_BACKGROUND).astype(np.uint8).reshape(shape)


def shots(cameras: list[Pinhole], colour: Paint = paint, *, masks: bool = True, change=None) -> list[Shot]:
    """Photographs for baking; `change(number, image)` may spoil them."""

    def taken(number: int, camera: Pinhole) -> Shot:
        image, mask = photograph(camera, colour)
        if change is not None:
            image = change(number, image)
        return Shot(f"v{number}", camera, lambda: (image, mask if masks else None))

    return [taken(number, camera) for number, camera in enumerate(cameras)]
