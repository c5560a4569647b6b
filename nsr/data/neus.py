"""NeuS/IDR folders (DTU, BlendedMVS): `cameras_sphere.npz` or `cameras.npz` beside images and masks.

`world_mat_i` = K [R | t] (world to pixels) and `scale_mat_i` (unit ball to world), both 4x4, belong to the i-th image in
name order (layout of Yariv et al. 2020, IDR). Views stay in the world frame; the scale matrix becomes the region of
interest. The principal point is taken as it stands, in this project's convention (pixel centres at +0.5).
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from nsr.conventions import Array, Similarity
from nsr.data.arrays import read_npz
from nsr.data.checks import check_views, number_matrix
from nsr.data.files import find_folder, list_images, match_masks, read_header, view_names
from nsr.data.raw import RawCamera, RawScene, RawView
from nsr.errors import DataError

CAMERA_FILES = ("cameras_sphere.npz", "cameras.npz")
IMAGE_FOLDERS = ("image", "images", "rgb")
MASK_FOLDERS = ("mask", "masks")
DTU_SIZE = (1600, 1200)
_CAMERA_BYTES = 100_000_000  # more than 100,000 cameras need
SQUARE = ((4, 4), (3, 4))


def read_neus(source: Path, masks: Path | None = None) -> RawScene:
    """Read a NeuS/IDR folder, or one of its camera files.

    Args:
        source: the folder, or the `.npz` inside it. masks: a folder to use instead of its `mask` or `masks`.

    Returns:
        Views with their own K each (skew kept). The unit is "mm" where folder name (`scan24`) and image size are those
        of the DTU set, otherwise "unknown".

    Raises:
        DataError: a missing file, counts that differ, a broken matrix, or scale matrices that are no common similarity.
    """
    path = source if source.suffix == ".npz" else _camera_file(source)
    root = path.parent
    folder = find_folder(root, IMAGE_FOLDERS)
    if folder is None:
        raise DataError(f"{root}: no folder of images ({', '.join(IMAGE_FOLDERS)}); check the path")
    images = list_images(folder)
    matrices = _load(path)
    world = _numbered(matrices, "world_mat_", path)
    if len(world) != len(images):
        raise DataError(
            f"{path}: {len(world)} cameras but {len(images)} images in {folder.name}; remove or restore files until they agree"
        )
    mask_files = match_masks([p.name for p in images], masks or find_folder(root, MASK_FOLDERS))
    names = view_names([p.name for p in images])
    views = []
    for index, (image, mask, name) in enumerate(zip(images, mask_files, names, strict=True)):
        header = read_header(image)
        K, w2c = decompose_projection(world[index], f"{path}: world_mat_{index}")
        views.append(RawView(name, image, RawCamera(header.width, header.height, K), w2c, mask, header.alpha and mask is None))
    check_views(views, path)
    region = _region(_numbered(matrices, "scale_mat_", path), path) if "scale_mat_0" in matrices else None
    return RawScene(tuple(views), region=region, unit=_unit(root, views))


def decompose_projection(matrix: object, where: str) -> tuple[Array, Array]:
    """Split a projection K [R | t] into K (3, 3) and w2c (4, 4), exactly up to rounding.

    RQ decomposition (Hartley & Zisserman 2004, section 6.2.4) with a positive diagonal of K. A projection is defined
    up to its sign and scale; the sign is the one that makes R a rotation, the scale the one that makes K[2, 2] = 1.

    Args:
        matrix: (4, 4) or (3, 4), world to pixels. where: named in errors.

    Raises:
        DataError: wrong shape, not finite, or singular.
    """
    P = number_matrix(matrix, SQUARE, where)[:3]
    if abs(np.linalg.det(P[:, :3])) < 1e-12 * np.abs(P[:, :3]).max() ** 3:
        raise DataError(f"{where}: not a camera projection (singular); fix or remove this view")
    if np.linalg.det(P[:, :3]) < 0:
        P = -P
    q, r = np.linalg.qr(P[::-1, :3].T)
    K, R = r.T[::-1, ::-1], q.T[::-1]
    signs = np.sign(np.diag(K))
    K, R = K * signs, signs[:, None] * R
    w2c = np.eye(4)
    w2c[:3, :3] = R
    w2c[:3, 3] = np.linalg.solve(K, P[:, 3])
    return K / K[2, 2], w2c


def _camera_file(source: Path) -> Path:
    for name in CAMERA_FILES:
        if (source / name).is_file():
            return source / name
    raise DataError(f"{source}: no {' or '.join(CAMERA_FILES)}; check the path or the format")


def _load(path: Path) -> dict[str, Array]:
    return read_npz(path, _CAMERA_BYTES)


def _numbered(matrices: dict[str, Array], prefix: str, path: Path) -> list[Array]:
    numbers = sorted(int(key[len(prefix) :]) for key in matrices if re.fullmatch(prefix + r"\d+", key))
    if not numbers or numbers != list(range(len(numbers))):
        missing = next(n for n in range(len(numbers) + 1) if n not in numbers)
        raise DataError(f"{path}: {prefix}{missing} is missing; cameras must be numbered from 0 without a gap")
    return [matrices[f"{prefix}{n}"] for n in numbers]


def _region(scales: list[Array], path: Path) -> Similarity:
    first = number_matrix(scales[0], ((4, 4),), f"{path}: scale_mat_0")
    block = first[:3, :3]
    for index, scale in enumerate(scales):
        if not np.allclose(number_matrix(scale, ((4, 4),), f"{path}: scale_mat_{index}"), first, rtol=1e-5, atol=1e-6):
            raise DataError(f"{path}: scale_mat_{index} differs from scale_mat_0; all views must share one region")
    length = float(np.cbrt(np.linalg.det(block)))
    if length <= 0 or np.abs(block @ block.T / length**2 - np.eye(3)).max() > 1e-4:
        raise DataError(f"{path}: scale_mat_0 is no uniform scale; give the same scale on all axes")
    u, _, vt = np.linalg.svd(block)
    return Similarity(length, u @ vt, first[:3, 3])


def _unit(root: Path, views: list[RawView]) -> str:
    dtu = re.fullmatch(r"(dtu_)?scan\d+", root.resolve().name) is not None
    return "mm" if dtu and all((v.camera.width, v.camera.height) == DTU_SIZE for v in views) else "unknown"
