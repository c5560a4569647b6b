"""The similarity between a scene's world frame and the ground truth's, from cameras known in both."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nsr.conventions import Array, Similarity, camera_centres
from nsr.data.arrays import read_npz
from nsr.errors import DataError, EvaluationError
from nsr.scene.scene import View, load_scene

MAX_RMS = 0.02  # of the cameras' spread; beyond it the two sets of cameras are not the same cameras
_IMAGES = {".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp"}


@dataclass(frozen=True)
class Alignment:
    """A fit of cameras.

    Attributes:
        similarity: scene world -> ground-truth world.
        rms: root mean square distance of the camera centres after the fit, ground-truth world.
        spread: root mean square distance of the centres from their mean, ground-truth world.
        views: number of matched views.
    """

    similarity: Similarity
    rms: float
    spread: float
    views: int

    def to_dict(self) -> dict[str, object]:
        """JSON-ready form for a result."""
        values = self.similarity.to_dict() | {"rms": self.rms, "rms_share": self.rms / self.spread, "views": self.views}
        return {"kind": "similarity-from-cameras", "direction": "scene world -> ground-truth world"} | values


def umeyama(source: Array, target: Array) -> Similarity:
    """Least-squares similarity with target ~ scale * R @ source + t (Umeyama 1991, equations 34 to 42).

    Args:
        source, target: (P, 3), P >= 3, row p of one belongs to row p of the other.

    Raises:
        EvaluationError: fewer than three points, or all of them on one line (the rotation about it is free).
    """
    if len(source) < 3:
        raise EvaluationError(f"alignment: {len(source)} common points, a similarity needs 3 that are not on one line")
    mean_source, mean_target = source.mean(axis=0), target.mean(axis=0)
    centred_source, centred_target = source - mean_source, target - mean_target
    variance = (centred_source**2).sum() / len(source)
    covariance = centred_target.T @ centred_source / len(source)
    U, D, Vt = np.linalg.svd(covariance)
    if not D[1] > 1e-9 * D[0]:
        raise EvaluationError("alignment: the camera centres lie on one line (or in one point), their rotation is not determined")
    sign = np.ones(3)
    sign[2] = np.sign(np.linalg.det(U) * np.linalg.det(Vt))
    R = U @ np.diag(sign) @ Vt
    scale = float((D * sign).sum() / variance)
    return Similarity(scale, R, mean_target - scale * R @ mean_source)


def align_to_cameras(views: Sequence[View], known: Path) -> Alignment:
    """Fit a scene's views to the cameras of a file (`read_known_cameras`) by their centres.

    Raises:
        EvaluationError: views that cannot be matched, or centres that do not fit (rms over 2 % of their spread).
    """
    centres = match_views([view.name for view in views], known)
    found = [k for k, centre in enumerate(centres) if centre is not None]
    if len(found) < 3:
        raise EvaluationError(f"{known}: only {len(found)} of {len(views)} views of the scene have a known camera, 3 are needed")
    target = np.stack([centre for centre in centres if centre is not None])
    source = camera_centres(np.stack([views[k].w2c for k in found]))
    similarity = umeyama(source, target)
    rms = float(np.sqrt(((similarity.apply(source) - target) ** 2).sum(axis=1).mean()))
    spread = float(np.sqrt(((target - target.mean(axis=0)) ** 2).sum(axis=1).mean()))
    if not rms <= MAX_RMS * spread:
        raise EvaluationError(
            f"{known}: the cameras do not fit the scene's, {100 * rms / spread:.1f} % of their spread is left "
            f"(at most {100 * MAX_RMS:g} %); wrong file, views in another order, or a failed structure from motion"
        )
    return Alignment(similarity, rms, spread, len(found))


def match_views(names: Sequence[str], known: Path) -> list[Array | None]:
    """Known camera centre (3,) of each view name, None where there is none.

    A prepared scene (`scene.json` or its folder) matches by name. A NeuS file (`cameras_sphere.npz`) and a trajectory of
    Tanks and Temples (`.log`) number their cameras in the name order of the images; in this order of preference the
    names come from: an `image` folder beside it, the scene itself when it has as many views, the number at the end of
    the view's name (the first is 0 for NeuS, 1 for Tanks and Temples).

    Raises:
        EvaluationError: not readable, or no way to match.
    """
    if known.is_dir() or known.suffix == ".json":
        by_name = {
            view.name: camera_centres(view.w2c[None])[0] for view in load_scene(known if known.is_dir() else known.parent).views
        }
        return [by_name.get(name) for name in names]
    trajectory = known.suffix == ".log"
    centres = read_trajectory_centres(known) if trajectory else read_neus_centres(known)
    stems = image_stems(known.parent)
    if len(stems) == len(centres) and set(names) <= set(stems):
        index: Mapping[str, int] = {stem: k for k, stem in enumerate(stems)}
    elif len(names) == len(centres):
        index = {name: k for k, name in enumerate(sorted(names))}
    else:
        index = {name: int(match.group(1)) - trajectory for name in names if (match := re.search(r"(\d+)$", name))}
        if len(index) < len(names) or min(index.values(), default=0) < 0 or max(index.values(), default=0) >= len(centres):
            raise EvaluationError(
                f"{known}: {len(centres)} cameras cannot be matched with the scene's {len(names)} views; put the photographs "
                "in a folder 'image' beside the file, or number the views as the cameras"
            )
    return [centres[index[name]] for name in names]


def image_stems(folder: Path) -> list[str]:
    """Sorted stems of the images in `folder/image`, empty without such a folder."""
    images = folder / "image"
    return sorted(path.stem for path in images.iterdir() if path.suffix.lower() in _IMAGES) if images.is_dir() else []


def read_neus_centres(path: Path) -> Array:
    """Camera centres (V, 3) of a NeuS camera file, world frame: the null points of its projections `world_mat_i`.

    Raises:
        EvaluationError: missing, no such file format, or a singular projection.
    """
    if not path.is_file():
        raise EvaluationError(f"{path}: no such file of known cameras; check the path")
    try:
        arrays = read_npz(path)
        count = sum(re.fullmatch(r"world_mat_\d+", key) is not None for key in arrays)
        matrices = np.stack([arrays[f"world_mat_{k}"][:3].astype(np.float64) for k in range(count)])
        return np.asarray(-np.linalg.solve(matrices[:, :, :3], matrices[:, :, 3:])[:, :, 0], dtype=np.float64)
    except (DataError, ValueError, KeyError, TypeError, IndexError, AttributeError, np.linalg.LinAlgError) as error:
        raise EvaluationError(
            f"{path}: not a NeuS camera file with world_mat_0, world_mat_1, ... ({error}); give cameras_sphere.npz or a scene"
        ) from error


def read_trajectory_centres(path: Path) -> Array:
    """Camera centres (V, 3) of a Tanks and Temples trajectory: per camera a line of integers, then camera to world, 4x4.

    `<Scene>_trans.txt` beside `<Scene>_COLMAP_SfM.log`, a matrix (4, 4), takes them to the scan's frame.

    Raises:
        EvaluationError: missing, or no such file format.
    """
    transform = path.with_name(path.name.replace("_COLMAP_SfM.log", "_trans.txt"))
    try:
        lines = [line.split() for line in path.read_text().splitlines() if line.strip()]
        rows = [row for number, row in enumerate(lines) if number % 5]
        poses = np.array(rows, dtype=np.float64).reshape(-1, 4, 4)
        matrix = np.loadtxt(transform) if transform != path and transform.is_file() else np.eye(4)
        if not len(poses) or matrix.shape != (4, 4) or not np.isfinite(poses).all():
            raise ValueError(f"{len(poses)} poses and a transform of shape {matrix.shape}")
    except FileNotFoundError as error:
        raise EvaluationError(f"{path}: no such file of known cameras; check the path") from error
    except (OSError, ValueError) as error:
        raise EvaluationError(
            f"{path}: not a trajectory of 5 lines a camera, or bad {transform.name} beside it ({error})"
        ) from error
    return np.asarray(poses[:, :3, 3] @ matrix[:3, :3].T + matrix[:3, 3])
