"""The texture of an atlas from photographs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nsr.config import TextureConfig
from nsr.errors import DataError
from nsr.log import get_logger
from nsr.mesh.surface import Mesh
from nsr.mesh.texture.atlas import Atlas, TexturedMesh
from nsr.mesh.texture.blend import Best, blended, exposure_gains
from nsr.mesh.texture.fill import extended, spread
from nsr.mesh.texture.photo import Floats, Pinhole, depth_map, prepare_photo
from nsr.mesh.texture.texels import on_surface, rasterise

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Shot:
    """A photograph that is read when it is needed.

    Attributes:
        name: for messages. camera: in the frame of the mesh.
        read: returns the image (H, W, 3) uint8 sRGB and its mask (H, W) with the values of `nsr.conventions`, or None.
    """

    name: str
    camera: Pinhole
    read: Callable[[], tuple[Pixels, Pixels | None]]


def bake(
    atlas: Atlas, scene: Any, shots: Sequence[Shot], config: TextureConfig, threads: int = 1
) -> tuple[TexturedMesh, Mesh, dict[str, Any]]:
    """The texture, the mesh with photographs' colours at its vertices, and facts.

    Texels and vertices are points of the surface and take the same way: the best photographs of each, exposure, blending.
    Memory: about 140 bytes for each texel of the charts at 5 views, plus one photograph.

    Args:
        scene: open3d RaycastingScene of the atlas's mesh, in the shots' world.

    Raises:
        DataError: no photograph sees the mesh.
    """
    texels = rasterise(atlas, config.size, threads)
    mesh, count = atlas.mesh, len(texels.index)
    assert mesh.normals is not None
    points = np.concatenate([on_surface(mesh, texels, mesh.vertices), mesh.vertices.astype(np.float32)])
    normals = np.concatenate([_unit(on_surface(mesh, texels, mesh.normals)), mesh.normals])
    get_logger().info("%d charts cover %.0f %% of %d^2 texels", atlas.charts, 100 * count / config.size**2, config.size)
    best = gather(points, normals, scene, shots, config, threads=threads)
    gains = exposure_gains(best, len(shots)) if config.exposure else np.ones((len(shots), 3), np.float32)
    colour, seen = blended(best, gains, config.sharpness, config.outlier, threads), best.seen
    corners = extended(mesh, colour[count:], seen[count:])
    colour, seen = colour[:count], seen[:count]
    hidden = np.flatnonzero(~seen)
    colour[hidden] = on_surface(mesh, texels, corners)[hidden]
    image = np.zeros((config.size * config.size, 3), dtype=np.uint8)
    image[texels.index] = np.rint(colour)
    covered = np.zeros(config.size * config.size, dtype=bool)
    covered[texels.index] = True
    shape = (config.size, config.size)
    image = spread(image.reshape(*shape, 3), covered.reshape(shape))
    facts = {
        "charts": atlas.charts,
        "covered": count / config.size**2,
        "seen": float(seen.mean()) if count else 0.0,
        "views_per_texel": float((best.quality[:count] > 0).sum(axis=1).mean()) if count else 0.0,
        "gains": {shot.name: np.round(gain, 4).tolist() for shot, gain in zip(shots, gains, strict=True)},
    }
    coloured = Mesh(mesh.vertices, mesh.faces, mesh.normals, np.rint(corners).astype(np.uint8))
    return TexturedMesh(atlas, image), coloured, facts


def gather(
    points: Floats, normals: Floats, scene: Any, shots: Sequence[Shot], config: TextureConfig, *, threads: int = 1
) -> Best:
    """The best photographs of points (P, 3) with normals (P, 3), one photograph in memory at a time.

    Raises:
        DataError: none sees a point.
    """
    best = Best(len(points), min(config.views, max(1, len(shots))))
    for number, shot in enumerate(shots):
        image, mask = shot.read()
        depth = depth_map(scene, shot.camera, threads)[0]
        photo = prepare_photo(image, mask, depth, shot.camera, config.feather)
        seen = best.add(number, photo, points, normals, max_angle=config.max_angle, threads=threads)
        get_logger().info("photograph %s (%d of %d) sees %d texels", shot.name, number + 1, len(shots), seen)
    if not best.seen.any():
        raise DataError(
            f"none of {len(shots)} photographs sees the mesh: it lies outside their images or masks, or faces away from them; "
            "check that mesh and scene belong together, and the mesh's orientation"
        )
    return best


def _unit(vectors: Floats) -> Floats:
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.where(length > 0, length, 1.0), dtype=np.float32)
