"""From a prepared scene to pixels on the device: which views, whether masks are used, what they hash to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from nsr.config import ModelConfig, TrainConfig, ever_positive
from nsr.errors import DataError
from nsr.kernels.patch import PatchTables
from nsr.log import get_logger
from nsr.provenance import hash_files, hash_json
from nsr.sampling.pixels import PixelStore
from nsr.scene.images import each_view_image, each_view_mask
from nsr.scene.masks import require_masks
from nsr.scene.scene import Scene, View
from nsr.scene.spill import Spill
from nsr.train.patch import hash_sources, load_patches
from nsr.train.points import SurfacePoints, hash_points, load_surface_points


@dataclass(frozen=True)
class TrainingData:
    """What the loop draws rays from.

    Attributes:
        store: pixels of the training views. names: of these views. masked: whether masks are used.
        digest: hash of images, masks, cameras, similarity, points and patches' sources. points: of the surface, None if unused.
        patches: what patches are compared with, None if unused.
    """

    store: PixelStore
    names: tuple[str, ...]
    masked: bool
    digest: str
    points: SurfacePoints | None = None
    patches: PatchTables | None = None


def load_training_data(
    scene: Scene, model: ModelConfig, train: TrainConfig, device: torch.device, spill: Spill | None = None
) -> TrainingData:
    """Read the training views of a scene; `spill` supplies memory on a CPU, see `PixelStore`.

    Raises:
        DataError: no view is left to train on, masks are required and the scene has none, or `loss.points` has weight and
            the scene has no sparse points.
    """
    views = scene.split("all" if train.split == "all" else "train")
    if not views:
        raise DataError(f"{scene.root}: no view to train on; use train.split=all or prepare.holdout_every=0")
    masked = decide_masks(scene, train.use_masks)
    learned = model.background.kind == "learned"
    if not masked and not learned:
        get_logger().warning(
            "no masks and background '%s': only right if the photographs really show that background", model.background.kind
        )
    store = PixelStore(
        each_view_image(views),
        each_view_mask(views) if masked else None,
        np.stack([view.K for view in views]),
        scene.unit_w2c(views),
        crop_to_ball=not learned,
        device=device,
        sizes=np.array([(view.height, view.width) for view in views]),
        spill=spill,
    )
    points = load_surface_points(scene, views, masked, device) if ever_positive(train.loss.points) else None
    digest = _digest(scene, views, masked)
    if points is not None:
        digest = hash_json([digest, hash_points(points)])
    patches = load_patches(scene, views, store, train.patch, spill) if ever_positive(train.loss.patch) else None
    if patches is not None:
        digest = hash_json([digest, hash_sources(patches)])
    return TrainingData(store, tuple(view.name for view in views), masked, digest, points, patches)


def decide_masks(scene: Scene, policy: Literal["auto", "required", "never"]) -> bool:
    """Whether masks are used under a policy.

    Raises:
        DataError: the policy is `required` and some view has no mask.
    """
    if policy == "required":
        require_masks(scene)
    return policy != "never" and scene.has_masks


def _digest(scene: Scene, views: tuple[View, ...], masked: bool) -> str:
    files = [view.image for view in views] + [view.mask for view in views if masked and view.mask is not None]
    cameras = [[view.name, view.K.tolist(), view.w2c.tolist()] for view in views]
    return hash_json([hash_files(files, scene.root), cameras, scene.similarity.to_dict(), masked])
