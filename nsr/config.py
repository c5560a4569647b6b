"""Every setting of every stage with its default, its unit and its meaning: with `config_data` and `config_results` the only home of defaults.

Order of merging, later wins: these defaults, the method's preset (`config/methods/<name>.yaml`, after its `base`), `settings` of the
workflow's config, the `overrides` column of the manifest, the command line. OmegaConf checks types and refuses unknown
keys. A `Schedule` is a number, or a list of `[step, value]` knots that are joined by straight lines and held beyond.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from nsr.config_data import PrepareConfig as PrepareConfig
from nsr.config_data import SfmConfig as SfmConfig
from nsr.config_data import TriangulateConfig as TriangulateConfig
from nsr.config_results import EvaluateConfig as EvaluateConfig
from nsr.config_results import MeshConfig as MeshConfig
from nsr.config_results import MetricConfig as MetricConfig
from nsr.config_results import RenderConfig as RenderConfig
from nsr.config_results import TextureConfig as TextureConfig
from nsr.config_results import TsdfConfig as TsdfConfig
from nsr.errors import ConfigError

BASE = "base"  # key of a preset's file: the preset it builds on
Schedule = Any  # float | list[[step, value]]; OmegaConf has no union of a number and a list of lists


@dataclass
class EncodingConfig:
    """Multiresolution hash grid (Mueller et al. 2022), in tiny-cuda-nn's parameter layout."""

    levels: int = 16
    features: int = 2  # per level
    log2_table: int = 19  # entries per level at most
    base_resolution: int = 32  # cells per side of the coarsest level over the cube [-1, 1]^3
    finest_resolution: int = 2048
    cells_per_pixel: float = 0.0  # finest cells across a pixel's width at the region's centre at most; 0: finest_resolution alone
    start_levels: int = 4  # levels active at step 0
    level_steps: int = 250  # steps until one more level is active; 0: all from the start


@dataclass
class SdfConfig:
    """Signed distance network: one hidden layer, softplus."""

    hidden: int = 64
    geometry_features: int = 13
    sphere_radius: float = 0.5  # zero level at the start, unit frame
    softplus_beta: float = 100.0
    normals: Literal["closed_form", "finite_difference"] = "closed_form"
    difference_step: float = 1.0  # finite differences: step in cells of the finest active level
    difference_length: Schedule = 0.0  # finite differences: step in unit-frame length; 0: as difference_step says


@dataclass
class RadianceConfig:
    """Colour network."""

    hidden: int = 64
    layers: int = 2  # hidden layers
    position: bool = False  # feed the position too
    bias: bool = True  # biases in the ReLU networks, that of a learned background too; tiny-cuda-nn's have none
    view_degree: int = 4  # spherical harmonics of a direction, 1..4; 0: no view dependence
    directions: Literal["view", "mirrored", "both"] = "view"  # of the harmonics; "mirrored" about the normal


@dataclass
class BackgroundConfig:
    """What lies behind the region of interest."""

    kind: Literal["none", "white", "black", "random", "learned"] = "learned"
    samples: int = 32  # per ray, learned background
    levels: int = 8  # few and coarse: what is seen only from some sides must not be remembered ray by ray
    log2_table: int = 17
    base_resolution: int = 8
    finest_resolution: int = 256
    hidden: int = 64
    layers: int = 1  # hidden layers of the colour network; the density network has one
    view_degree: int = 2  # spherical harmonics of the view direction, 1..4; 0: no view dependence


@dataclass
class ModelConfig:
    """The field."""

    encoding: EncodingConfig = field(default_factory=EncodingConfig)
    sdf: SdfConfig = field(default_factory=SdfConfig)
    radiance: RadianceConfig = field(default_factory=RadianceConfig)
    background: BackgroundConfig = field(default_factory=BackgroundConfig)
    sharpness_start: float = 20.0  # NeuS 1/s at step 0, per unit-frame length
    exposure: Literal["none", "gain", "affine"] = "none"  # of each photograph, learned: 3 factors, or 3 x 3 matrix and offset
    appearance: int = 0  # numbers of a code learned for each photograph, which the colours of surface and background see; 0: none


@dataclass
class MarchConfig:
    """Occupancy-grid ray marching."""

    steps: int = 1024  # step length = 2 sqrt(3) / steps, unit frame
    grid_resolution: int = 128
    grid_every: int = 16  # training steps between occupancy updates
    grid_warmup: int = 256  # training steps in which all cells are updated
    grid_decay: float = 0.95
    grid_threshold: float = 0.001  # opacity of one step below which a cell is empty
    ray_chunk: int = 0  # rays rendered at once outside training; 0: as many as suit the device
    backend: Literal["auto", "reference", "triton", "nerfacc"] = "auto"  # "auto": triton on a GPU that can run it, else reference


@dataclass
class LossConfig:
    """Weights; each may follow a schedule."""

    colour: Literal["l1", "mse", "huber"] = "l1"  # "huber": delta 1 (torch's smooth_l1 too); half of "mse" for colours in [0, 1]
    colour_weight: Schedule = 1.0
    mask: Schedule = 0.0
    eikonal: Schedule = 0.1
    eikonal_random: Schedule = 0.0  # Eikonal on points drawn uniformly from the unit ball, pruned cells too
    curvature: Schedule = 0.0
    sparsity: Schedule = 0.0
    sparsity_scale: float = 1.0  # k of exp(-k |sdf|)
    opaque: Schedule = 0.0
    distortion: Schedule = 0.0
    points: Schedule = 0.0  # signed distance 0 at the scene's sparse points; needs the stage triangulate
    patch: Schedule = 0.0  # 1 - NCC of patches between photographs, where rays cross the zero level; see PatchConfig
    points_cutoff: Schedule = 0.0  # unit-frame length beyond which a point counts as an outlier more and more; 0: never


@dataclass
class PatchConfig:
    """Patches of loss.patch."""

    rays: int = 1024  # of a step's rays at most
    size: int = 11  # px of a side, odd
    spacing: int = 1  # px between neighbours of a patch
    sources: int = 8  # views that a view's patches are compared with
    best: int = 4  # of them count, those that fit best


@dataclass
class OptimConfig:
    """AdamW with linear warm-up, a plateau and exponential decay."""

    learning_rate: float = 0.01
    sharpness_rate: float = 0.001
    photograph_rate: float = 0.001  # of what is learned for each photograph: model.exposure, model.appearance
    betas: tuple[float, float] = (0.9, 0.99)
    eps: float = 1e-15
    weight_decay: float = 0.01  # of the networks
    table_weight_decay: float = 0.0  # of the hash tables
    warmup_steps: int = 500
    hold_steps: int = 0  # steps at the full rate between warm-up and decay
    decay: float = 0.1  # learning rate at the last step over that after warm-up
    rate: Schedule = 1.0  # a further factor on all learning rates, for drops at given steps


@dataclass
class WatchdogConfig:
    """When to stop with a diagnosis instead of an empty mesh."""

    every: int = 100  # steps
    after: int = 500  # steps before which geometry is not judged
    max_sharpness_fall: float = 0.5  # stop if 1/s falls under this share of its start


@dataclass
class TrainConfig:
    """Training."""

    steps: int = 20000
    average: float = 0.0  # share of the steps, the last ones, whose parameters' mean is the model; 0: it is the last step's
    seed: int = 42
    members: int = 1  # fields, each from a seed of its own, joined as one model
    split: Literal["holdout", "all"] = "holdout"  # "all": train on every view (the DTU geometry protocol)
    use_masks: Literal["auto", "required", "never"] = "never"  # "auto": where the scene has masks
    gpus: int = 1  # GPUs of one host that train a scene: each its share of the fields, or all each field, on `samples` samples of rays of its own
    samples: int = 262144  # samples per step aimed at
    start_rays: int = 256
    max_rays: int = 8192
    random_points: int = 0  # per step, for losses that act everywhere
    sparse_points: int = 2048  # per step, for loss.points
    anneal_steps: int = 20000  # steps until the NeuS cosine is the true one
    march: MarchConfig = field(default_factory=MarchConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    patch: PatchConfig = field(default_factory=PatchConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    watchdog: WatchdogConfig = field(default_factory=WatchdogConfig)
    checkpoint_every: int = 1000  # steps
    log_every: int = 50  # steps
    backend: Literal["auto", "reference", "triton", "tcnn"] = "auto"  # "auto": triton on a GPU that can run it, else reference


@dataclass
class Config:
    """Settings of one scene and method."""

    sfm: SfmConfig = field(default_factory=SfmConfig)
    prepare: PrepareConfig = field(default_factory=PrepareConfig)
    triangulate: TriangulateConfig = field(default_factory=TriangulateConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    tsdf: TsdfConfig = field(default_factory=TsdfConfig)
    texture: TextureConfig = field(default_factory=TextureConfig)
    render: RenderConfig = field(default_factory=RenderConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)


def resolve(layers: Iterable[Mapping[str, Any] | Path], overrides: Iterable[str] = ()) -> Config:
    """Merge mappings or YAML files, then `key.path=value` strings, over the defaults.

    Raises:
        ConfigError: unknown key (names the nearest valid one), wrong type, unreadable file.
    """
    merged: Any = _defaults()
    where = "overrides"
    try:
        for layer in layers:
            where = str(layer) if isinstance(layer, Path) else "settings"
            files = preset_files(layer) if isinstance(layer, Path) else ()
            read = [_loaded(file) for file in files] if files else [OmegaConf.create(dict(layer))]  # type: ignore[arg-type]
            merged = OmegaConf.merge(merged, *read)
        where = "overrides"
        merged = OmegaConf.merge(merged, OmegaConf.from_dotlist(list(overrides)))
        config = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{where}: {str(error).splitlines()[0]} (key {error.full_key or '?'})") from error
    except OSError as error:
        raise ConfigError(f"{where}: cannot be read ({error.strerror}); check the path") from error
    except (ValueError, TypeError, IndexError, YAMLError) as error:  # IndexError: OmegaConf, of a key of brackets alone
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"{where}: not a mapping of settings ({reason}); write key: value in YAML, key=value as override"
        ) from error
    from nsr.config_checks import check_config

    assert isinstance(config, Config)
    check_config(config)
    return config


def preset_files(path: Path) -> tuple[Path, ...]:
    """A preset's file, after those that it builds on: `base: nsr` at its top names a file beside it, `nsr.yaml`.

    Raises:
        ConfigError: no file of that name, or a preset that builds on itself.
    """
    chain = [path]
    while base := _base_of(chain[0]):
        file = path.with_name(f"{base}.yaml")
        if file in chain:
            raise ConfigError(f"{path}: builds on itself through base: {base}")
        if not file.is_file():
            raise ConfigError(f"{chain[0]}: builds on '{base}', and there is no {file}")
        chain.insert(0, file)
    return tuple(chain)


def _base_of(path: Path) -> str:
    # Asked for every scene of a list; reading YAML takes milliseconds.
    return _base_read(path, path.stat().st_mtime_ns, Path.cwd()) if path.is_file() else ""


@cache
def _base_read(path: Path, *_: object) -> str:
    read = OmegaConf.load(path)
    base = read.get(BASE, "") if isinstance(read, DictConfig) else ""
    if not isinstance(base, str) or "/" in base:
        raise ConfigError(f"{path}: base must be the name of a preset beside it, not {base!r}")
    return base


def _loaded(file: Path) -> Any:
    read = OmegaConf.load(file)
    if isinstance(read, DictConfig):
        read.pop(BASE, None)
    return read


@cache
def _defaults() -> Any:
    """The defaults as OmegaConf holds them, built once (0.05 s); `OmegaConf.merge` copies what it merges into."""
    return OmegaConf.structured(Config)


def ever_positive(schedule: Schedule) -> bool:
    """Whether a schedule is above 0 anywhere."""
    return any(value > 0 for _, value in schedule) if isinstance(schedule, list) else schedule > 0


def section(config: Config, *names: str) -> dict[str, Any]:
    """The named sections as plain JSON-ready data: what a stage uses, and nothing else."""
    return {name: asdict(getattr(config, name)) for name in names}


def json_schema(kind: type = Config) -> dict[str, Any]:
    """JSON schema of a config dataclass; every key optional, unknown keys refused."""
    from nsr.config_schema import dataclass_schema

    assert is_dataclass(kind)
    return dataclass_schema(kind)
