"""Settings and pixels for the step as one CUDA graph, small enough for the interpreter."""

import numpy as np
import torch

from nsr.sampling.pixels import PixelStore
from nsr.scene.images import load_view_images, load_view_masks
from tests.unit.training_scene import quick_config

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def tiny_config(kind):
    """Background of a `kind`; every loss term a plain run has."""
    config = quick_config(steps=4, backend="triton", samples=192, max_rays=24, start_rays=16, random_points=32, log_every=1)
    config.train.watchdog.every, config.train.watchdog.after, config.train.checkpoint_every = 100, 300, 2
    config.model.sdf.hidden = config.model.radiance.hidden = 32
    config.model.encoding.levels, config.model.encoding.level_steps = 2, 0
    config.train.march.backend, config.train.march.grid_resolution, config.train.march.steps = "triton", 8, 32
    config.train.loss.eikonal_random = 0.02
    background = config.model.background
    background.kind, background.samples, background.levels, background.log2_table, background.hidden = kind, 4, 2, 8, 32
    return config


def ancestors(config, *, hidden=32):
    """The settings of the presets of the ancestors that go beyond a plain run's; 16 hidden units are beyond the SDF kernels."""
    config.model.sdf.normals, config.model.sdf.difference_length, config.model.sdf.hidden = "finite_difference", 0.03, hidden
    config.train.loss.curvature, config.train.loss.distortion, config.train.loss.opaque = 0.01, [[0, 0.0], [2, 0.4]], 0.05
    return config


def patches(config):
    """Patches of all but two of the rays, with a weight that rules the gradients."""
    config.train.loss.patch, config.train.patch.size, config.train.patch.sources = [[0, 0.0], [2, 5.0]], 5, 3
    config.train.patch.rays = 14
    return config


def photographs(config):
    """All that is learned for each photograph, and mirrored directions."""
    config.model.exposure, config.model.appearance = "affine", 3
    config.model.radiance.directions, config.model.radiance.view_degree = "both", 3
    return config


def pixel_store(scene, device=DEVICE):
    """The scene's training views with masks."""
    views = scene.split("train")
    K = np.stack([view.K for view in views])
    return PixelStore(load_view_images(views), load_view_masks(views), K, scene.unit_w2c(views), crop_to_ball=True, device=device)
