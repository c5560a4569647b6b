"""Ranges of settings: what types alone cannot refuse."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from functools import cache
from operator import attrgetter
from typing import Any, get_type_hints

from nsr.config import Config, MetricConfig, PatchConfig, Schedule
from nsr.errors import ConfigError

# What stages divide by or count with.
_POSITIVE = (
    "sfm.max_features",
    "sfm.max_image_size",
    "prepare.region_margin",
    "triangulate.max_features",
    "triangulate.max_image_size",
    "triangulate.neighbours",
    "triangulate.max_pair_angle",
    "triangulate.max_epipolar",
    "triangulate.max_reprojection",
    "model.encoding.levels",
    "model.encoding.features",
    "model.encoding.base_resolution",
    "model.encoding.finest_resolution",
    "model.encoding.log2_table",
    "model.sdf.hidden",
    "model.sdf.softplus_beta",
    "model.sdf.difference_step",
    "model.sharpness_start",
    "model.radiance.hidden",
    "model.background.hidden",
    "model.background.layers",
    "train.steps",
    "train.gpus",
    "train.members",
    "train.samples",
    "train.start_rays",
    "train.max_rays",
    "train.sparse_points",
    "train.patch.rays",
    "train.patch.spacing",
    "train.patch.sources",
    "train.patch.best",
    "train.march.steps",
    "train.march.grid_resolution",
    "train.march.grid_every",
    "train.watchdog.every",
    "train.optim.learning_rate",
    "train.optim.eps",
    "train.checkpoint_every",
    "train.log_every",
    "mesh.resolution",
    "tsdf.truncation",
    "tsdf.downscale",
    "texture.views",
    "texture.sharpness",
    "texture.feather",
    "texture.quality",
    "render.downscale",
    "evaluate.samples",
    "evaluate.max_distance",
    "evaluate.icp_distance",
)
_NOT_NEGATIVE = (
    "model.encoding.cells_per_pixel",
    "train.march.ray_chunk",
    "triangulate.min_angle",
    "triangulate.peak_threshold",
    "triangulate.max_ratio",
    "mesh.components",
    "mesh.triangles",
    "mesh.max_error",
    "mesh.metric.distance",
    "tsdf.voxel",
    "train.seed",
    "evaluate.seed",
    "model.appearance",
    "train.optim.photograph_rate",
    "train.optim.weight_decay",
    "train.optim.table_weight_decay",
    "train.optim.hold_steps",
    "texture.faces",
    "texture.padding",
    "texture.outlier",
    "texture.metres",
)
MAX_TEXTURE = 16384  # texels per side
MAX_PATCH, MAX_SOURCES = 21, 16  # pixels that a GPU's program holds at once
_VIEW_DEGREES = ("model.radiance.view_degree", "model.background.view_degree")
_SHARES = ("train.average", "sfm.min_registered", "prepare.alpha_background", "mesh.component_share", "tsdf.min_opacity")


def check_config(config: Config) -> None:
    """Refuse settings that no stage can work with.

    Raises:
        ConfigError: names the key, its value and what it may be.
    """
    kind: type = type(config)
    for name, schedule_of in _settings(kind, "Schedule"):
        _check_schedule(name, schedule_of(config))
    for name, numbers_of in _settings(kind, "tuple"):
        numbers = numbers_of(config)
        if not all(isinstance(number, (int, float)) for number in numbers):  # OmegaConf lets lists in lists through
            raise ConfigError(f"{name}: {list(numbers)} must be a plain list of numbers")
    _check_numbers(config)
    if not all(0 <= beta < 1 for beta in config.train.optim.betas):
        raise ConfigError(f"train.optim.betas: {config.train.optim.betas} must be two numbers from 0 to less than 1")
    if not config.evaluate.dtu_culls:
        raise ConfigError("evaluate.dtu_culls: must name at least one mask cull in pixels, -1 for none")
    if config.model.radiance.directions != "view" and config.model.radiance.view_degree < 2:
        raise ConfigError("model.radiance.directions: has no effect with view_degree under 2; set model.radiance.view_degree=4")
    if config.triangulate.min_track < 2:
        raise ConfigError(f"triangulate.min_track: {config.triangulate.min_track} must be at least 2, what a point needs")
    _check_patch(config.train.patch)
    _check_backend(config)
    _check_box(config.mesh.box)
    _check_metric(config.mesh.metric)
    _check_texture(config)


def _check_patch(patch: PatchConfig) -> None:
    if not 3 <= patch.size <= MAX_PATCH or patch.size % 2 == 0:
        raise ConfigError(f"train.patch.size: {patch.size} must be an odd number of pixels from 3 to {MAX_PATCH}")
    if patch.sources > MAX_SOURCES:
        raise ConfigError(f"train.patch.sources: {patch.sources} must be at most {MAX_SOURCES}")


def _check_box(box: tuple[float, ...]) -> None:
    if box and not (len(box) == 6 and all(low < high for low, high in zip(box[:3], box[3:], strict=True))):
        raise ConfigError(f"mesh.box: {list(box)} must be empty, or x, y, z lowest and then highest, six numbers")


def _check_metric(metric: MetricConfig) -> None:
    points = (metric.first, metric.second)
    if not metric.distance and not any(points):
        return
    if metric.file:
        raise ConfigError("mesh.metric: give a file, or two points and their distance, not both")
    if not (metric.distance and math.isfinite(metric.distance) and all(len(point) == 3 for point in points)):
        raise ConfigError("mesh.metric: a known distance needs first=[x,y,z], second=[x,y,z] and distance > 0")
    if metric.first == metric.second or not all(math.isfinite(value) for point in points for value in point):
        raise ConfigError("mesh.metric: first and second must be finite and different points")


def _check_numbers(config: Config) -> None:
    rules: tuple[tuple[tuple[str, ...], Callable[[Any], bool], str], ...] = (
        (_POSITIVE, lambda value: value > 0, "be greater than 0"),
        (_NOT_NEGATIVE, lambda value: value >= 0, "not be negative"),
        (_SHARES, lambda value: 0 <= value <= 1, "lie between 0 and 1"),
        (_VIEW_DEGREES, lambda value: 0 <= value <= 4, "be 0, 1, 2, 3 or 4"),
    )
    for keys, good, words in rules:
        for key, get in _getters(keys):
            value = get(config)
            if not good(value):  # NaN is not
                raise ConfigError(f"{key}: {value} must {words}")


def _check_backend(config: Config) -> None:
    """tiny-cuda-nn's networks have no biases, and on its encoding the SDF has no closed-form gradient."""
    wanted = {"model.sdf.normals": "finite_difference", "model.radiance.bias": False}
    wrong = [key for key, value in wanted.items() if attrgetter(key)(config) != value]
    if config.train.backend == "tcnn" and wrong:
        found = " and ".join(f"{key}={str(attrgetter(key)(config)).lower()}" for key in wrong)
        advice = " ".join(f"{key}={str(value).lower()}" for key, value in wanted.items())
        raise ConfigError(f"train.backend: tcnn does not go with {found}; set {advice}, or train.backend=auto")


def _check_texture(config: Config) -> None:
    texture = config.texture
    if not 0 < texture.max_angle < 90:
        raise ConfigError(f"texture.max_angle: {texture.max_angle} must lie between 0 and 90 degrees, without them")
    if not 32 <= texture.size <= MAX_TEXTURE:
        raise ConfigError(f"texture.size: {texture.size} must lie between 32 and {MAX_TEXTURE}, what viewers and memory bear")
    if texture.quality > 100:
        raise ConfigError(f"texture.quality: {texture.quality} must be at most 100")
    if not all(math.isfinite(number) for number in texture.up):
        raise ConfigError(f"texture.up: {list(texture.up)} must be three numbers, a direction or 0, 0, 0")


@cache
def _getters(keys: tuple[str, ...]) -> tuple[tuple[str, Callable[[Any], Any]], ...]:
    """Each key with the function that gets its value, made once for the thousands of configs of a long list."""
    return tuple((key, attrgetter(key)) for key in keys)


@cache
def _settings(kind: type, wanted: str) -> tuple[tuple[str, Callable[[Any], Any]], ...]:
    """Key of every setting in a section whose written type starts with `wanted`, and the function that gets it from the section."""
    found: list[str] = []
    types = get_type_hints(kind)
    for item in fields(kind):
        if is_dataclass(types[item.name]):
            found += [f"{item.name}.{key}" for key, _ in _settings(types[item.name], wanted)]
        elif str(item.type).startswith(wanted):
            found.append(item.name)
    return _getters(tuple(found))


def _check_schedule(key: str, value: Schedule) -> None:
    if isinstance(value, str):
        raise ConfigError(f"{key}: '{value}' is neither a number nor a list of [step, value]")
    knots = value if isinstance(value, list) else [[0, value]]
    good = bool(knots) and all(isinstance(k, list) and len(k) == 2 and all(isinstance(x, (int, float)) for x in k) for k in knots)
    if not good or [k[0] for k in knots] != sorted(k[0] for k in knots):
        raise ConfigError(f"{key}: {value} is neither a number nor a list of [step, value] with rising steps")
    if not all(0 <= number < math.inf for knot in knots for number in knot):  # NaN is not
        raise ConfigError(f"{key}: {value} must not be negative, and must be finite")
