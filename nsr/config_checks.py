"""Ranges of settings: what types alone cannot refuse."""

from __future__ import annotations

from dataclasses import fields
from operator import attrgetter
from typing import Any

from nsr.config import Config, LossConfig, Schedule
from nsr.errors import ConfigError

# What stages divide by or count with.
_POSITIVE = (
    "sfm.max_features",
    "sfm.max_image_size",
    "prepare.region_margin",
    "model.encoding.levels",
    "model.encoding.features",
    "model.encoding.base_resolution",
    "model.encoding.finest_resolution",
    "model.encoding.log2_table",
    "model.sdf.hidden",
    "model.sdf.softplus_beta",
    "model.sharpness_start",
    "model.radiance.hidden",
    "train.steps",
    "train.samples",
    "train.start_rays",
    "train.max_rays",
    "train.march.steps",
    "train.march.grid_resolution",
    "train.march.grid_every",
    "train.march.ray_chunk",
    "train.watchdog.every",
    "train.optim.learning_rate",
    "train.optim.eps",
    "train.checkpoint_every",
    "train.log_every",
    "mesh.resolution",
    "tsdf.voxel",
    "tsdf.truncation",
    "tsdf.downscale",
    "render.downscale",
    "evaluate.samples",
    "evaluate.max_distance",
)
_SHARES = ("sfm.min_registered", "prepare.alpha_background", "tsdf.min_opacity")


def check_config(config: Config) -> None:
    """Refuse settings that no stage can work with.

    Raises:
        ConfigError: names the key, its value and what it may be.
    """
    for name in (f.name for f in fields(LossConfig)):
        _check_schedule(f"train.loss.{name}", getattr(config.train.loss, name))
    for key in _POSITIVE:
        value: Any = attrgetter(key)(config)
        if not value > 0:  # NaN is not
            raise ConfigError(f"{key}: {value} must be greater than 0")
    for key in ("train.seed", "evaluate.seed"):
        if attrgetter(key)(config) < 0:
            raise ConfigError(f"{key}: {attrgetter(key)(config)} must not be negative")
    for key in _SHARES:
        if not 0 <= attrgetter(key)(config) <= 1:
            raise ConfigError(f"{key}: {attrgetter(key)(config)} must lie between 0 and 1")
    if not 0 <= config.model.radiance.view_degree <= 4:
        raise ConfigError(f"model.radiance.view_degree: {config.model.radiance.view_degree} must be 0, 1, 2, 3 or 4")
    if not all(0 <= beta < 1 for beta in config.train.optim.betas):
        raise ConfigError(f"train.optim.betas: {config.train.optim.betas} must be two numbers from 0 to less than 1")


def _check_schedule(key: str, value: Schedule) -> None:
    if isinstance(value, (int, float, str)):
        if isinstance(value, str) and key != "train.loss.colour":
            raise ConfigError(f"{key}: '{value}' is neither a number nor a list of [step, value]")
        return
    knots = value if isinstance(value, list) else []
    good = bool(knots) and all(isinstance(k, list) and len(k) == 2 and all(isinstance(x, (int, float)) for x in k) for k in knots)
    if not good or [k[0] for k in knots] != sorted(k[0] for k in knots):
        raise ConfigError(f"{key}: {value} is neither a number nor a list of [step, value] with rising steps")
