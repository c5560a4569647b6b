"""The workflow's config and its list of scenes, read and checked: every mistake is one line that names file, row and remedy."""

from __future__ import annotations

import csv
import difflib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

from nsr.ablation import PREFIX, read_ablation
from nsr.config import BASE, Config, preset_files, resolve
from nsr.config_overrides import override
from nsr.config_schema import row_schema, workflow_schema
from nsr.errors import ConfigError

Format = Literal["photos", "colmap", "neus", "blender", "nerfstudio"]
FORMATS: tuple[str, ...] = get_args(Format)
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
# Folders of a scene beside which the methods' folders lie.
RESERVED_METHODS = ("scene", "sfm", "points", "preflight")
# The sections that a method may set; the others belong to the scene, which all methods share.
METHOD_SECTIONS = ("model", "train", "mesh", "tsdf", "texture", "render", "evaluate")
_REGIONS = ("auto", "format", "masks", "points", "cameras")
PHOTOS = {".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp"}


@dataclass(frozen=True)
class SceneRow:
    """One row of the manifest. Relative paths are relative to the folder that snakemake runs in."""

    dataset: str  # name of the group that the scene belongs to; letters, digits, "_", "-" and "."
    scene: str  # name of the scene, unique in its data set
    source: str  # folder of photographs (format photos), or the folder or file that the format's reader expects
    format: Format  # what `source` is; "photos" goes through structure from motion
    masks: str = ""  # folder of masks, white object on black, one for each photograph
    ground_truth: str = ""  # file that the result is measured against, as the protocol wants it; empty: no such evaluation
    gt_cameras: str = ""  # cameras in the frame of the ground truth, for scenes whose poses come from structure from motion
    protocol: Literal["", "object-surface", "surface-distance", "dtu", "tanks-and-temples"] = ""  # how; empty: object-surface
    region: str = ""  # what the unit ball is fitted to: auto, format, masks, points, cameras or "x,y,z,radius" in world units
    overrides: str = ""  # settings of this scene alone: key=value, separated by spaces

    @property
    def name(self) -> str:
        """`dataset/scene`."""
        return f"{self.dataset}/{self.scene}"


@dataclass(frozen=True)
class WorkflowConfig:
    """What the workflow runs over and where results go."""

    scenes: str = "config/scenes.tsv"  # list of scenes
    methods: list[str] = field(default_factory=lambda: ["nsr"])  # presets, each a file config/methods/<name>.yaml
    results: str = "results"  # folder of results
    report: str = "report"  # folder of the report
    logs: str = "logs"  # folder of logs and benchmarks
    ablation: str = "config/ablation.yaml"  # variants of a preset that `snakemake ablation` compares
    golden: str = ""  # table of ranges that results must keep, e.g. config/golden.tsv; empty: none are checked
    device: Literal["auto", "cpu", "cuda"] = "auto"  # auto takes a GPU where there is one
    gpu_share: int = 1  # of how many jobs at a time a GPU may be; 2 or more for scenes so small that one leaves it idle
    gpu_price: float = 0.0  # price of one GPU for an hour, any currency, for the report's column of costs; 0: no such column
    compare: str = ""  # summary.tsv of another report; the report then says what changed
    settings: dict[str, Any] = field(default_factory=dict)  # settings of all scenes and methods, over the methods' presets


def read_workflow_config(config: Mapping[str, Any]) -> WorkflowConfig:
    """The workflow's config from what snakemake read.

    Raises:
        ConfigError: unknown key (names the nearest valid one), wrong value, or a method without a preset.
    """
    valid = [item.name for item in fields(WorkflowConfig)]
    for key in config:
        if key not in valid:
            raise ConfigError(f"config: unknown key '{key}'{_nearest(key, valid)}")
    parsed = WorkflowConfig(**config)
    if parsed.device not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"config: device '{parsed.device}' is none of auto, cpu, cuda")
    if type(parsed.gpu_share) is not int or parsed.gpu_share < 1:
        raise ConfigError(f"config: gpu_share '{parsed.gpu_share}' is no number of jobs; give a whole number from 1 up")
    if not isinstance(parsed.gpu_price, (int, float)) or not 0 <= parsed.gpu_price < math.inf:
        raise ConfigError(f"config: gpu_price '{parsed.gpu_price}' is no price; give a number from 0 up")
    if not isinstance(parsed.methods, list) or not parsed.methods:
        raise ConfigError("config: methods must be a list of at least one name, e.g. [nsr]")
    if not isinstance(parsed.settings, Mapping):
        raise ConfigError("config: settings must be a mapping, e.g. {mesh: {resolution: 256}}")
    if parsed.golden and not Path(parsed.golden).is_file():
        raise ConfigError(f"config: golden '{parsed.golden}' does not exist (relative to {Path.cwd()})")
    for method in parsed.methods:
        _check_method(str(method))
    return replace(parsed, settings=_typed(parsed.settings, asdict(resolve([parsed.settings]))))


def read_manifest(path: Path) -> tuple[SceneRow, ...]:
    """The rows of a manifest (tab-separated, header line, `#` starts a comment line), checked.

    Raises:
        ConfigError: unreadable or empty table, wrong columns, or a wrong row (see `check_row`), with the line's number.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()  # spreadsheets write a byte order mark
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); name a manifest with the config key 'scenes'") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8") from error
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line.strip() and not line.startswith("#")]
    if len(numbered) < 2:
        raise ConfigError(f"{path}: no scenes in it")
    columns = numbered[0][1].split("\t")
    _check_columns(path, columns)
    rows: dict[str, SceneRow] = {}
    for number, line in numbered[1:]:
        try:
            cells = [cell.strip() for cell in next(csv.reader([line], delimiter="\t"))]
        except csv.Error as error:
            raise ConfigError(f"{path} line {number}: {error}; remove what is no text") from error
        if len(cells) > len(columns):
            raise ConfigError(f"{path} line {number}: {len(cells)} cells under {len(columns)} columns; separate cells by one tab")
        row = SceneRow(**dict(zip(columns, cells + [""] * (len(columns) - len(cells)), strict=True)))  # type: ignore[arg-type]
        check_row(row, f"{path} line {number}")
        if row.name in rows:
            raise ConfigError(f"{path} line {number}: scene '{row.name}' is listed twice")
        rows[row.name] = row
    return tuple(rows.values())


def check_row(row: SceneRow, where: str) -> None:
    """Raise ConfigError, with `where` in front, if a row has a bad name, format, path, protocol, region or override."""
    for column in ("dataset", "scene"):
        if not NAME.fullmatch(getattr(row, column)):
            raise ConfigError(
                f"{where}: {column} '{getattr(row, column)}' is no name; use letters, digits, '_', '-', '.', first a letter or digit"
            )
    if row.format not in FORMATS:
        raise ConfigError(f"{where}: unknown format '{row.format}'{_nearest(row.format, FORMATS)}; one of {', '.join(FORMATS)}")
    if not row.source:
        raise ConfigError(f"{where}: no source")
    for column in ("source", "masks", "ground_truth", "gt_cameras"):
        value = getattr(row, column)
        if value and not _exists(Path(value)):
            raise ConfigError(f"{where}: {column} '{value}' does not exist (relative to {Path.cwd()})")
    if row.format == "photos" and not Path(row.source).is_dir():
        raise ConfigError(f"{where}: source '{row.source}' is not a folder of photographs")
    protocols = _protocols()
    if row.protocol not in protocols:
        raise ConfigError(f"{where}: unknown protocol '{row.protocol}'{_nearest(row.protocol, protocols)}")
    _check_region(row.region, where)
    try:
        _with_overrides((), row.overrides)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error


def resolve_scene(row: SceneRow, workflow: WorkflowConfig, method: str | None) -> Config:
    """Settings of a scene under a method; without a method those that all methods share.

    Raises:
        ConfigError: as `nsr.config.resolve`.
    """
    return _with_overrides((*_method_layers(workflow, method), json.dumps(workflow.settings)), row.overrides)


def source_files(row: SceneRow, masks: bool = True) -> list[str]:
    """The files that a scene is made from: photographs, cameras and, unless left out, the column `masks`; no ground truth.

    Hidden files do not count, and of a folder of photographs only the images.
    """
    paths = [Path(value) for value in (row.source, row.masks if masks else "") if value]
    found = {file for path in paths for file in (_files(path) if path.is_dir() else [path])}
    if row.format == "photos":
        found = {path for path in found if path.suffix.lower() in PHOTOS}
    return sorted(path.as_posix() for path in found - {Path(row.ground_truth)})


def truth_files(row: SceneRow) -> list[str]:
    """The files that a scene is measured against: ground truth, known cameras, and what the protocol reads beside them."""
    found = [Path(value) for value in (row.ground_truth, row.gt_cameras) if value]
    truth = Path(row.ground_truth)
    if row.protocol == "dtu" and (match := re.fullmatch(r"stl(\d+)_total\.ply", truth.name)):
        masks = truth.parent.parent.parent / "ObsMask"
        found += [masks / f"ObsMask{int(match.group(1))}_10.mat", masks / f"Plane{int(match.group(1))}.mat"]
    if row.protocol == "tanks-and-temples":
        found += [truth.with_suffix(".json"), *truth.parent.glob(f"{truth.stem}_trans.txt")]
    return [path.as_posix() for path in found]


def method_file(method: str) -> Path:
    """The preset of a method, relative to the folder that snakemake runs in."""
    return Path("config") / "methods" / f"{method}.yaml"


def write_schemas(folder: Path) -> None:
    """Write `config.schema.yaml` and `scenes.schema.yaml` into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in schema_texts().items():
        (folder / name).write_text(text, encoding="utf-8")


def schema_texts() -> dict[str, str]:
    """The generated schema files, by file name."""
    import yaml

    row = row_schema(SceneRow)
    for column in ("dataset", "scene"):
        row["properties"][column]["pattern"] = f"^{NAME.pattern}$"
    schemas = {"config.schema.yaml": workflow_schema(WorkflowConfig, Config), "scenes.schema.yaml": row}
    head = "# Generated by `make schema` from the dataclasses of nsr; do not edit.\n"
    return {name: head + yaml.safe_dump(schema, sort_keys=False, width=120) for name, schema in schemas.items()}


@cache
def _resolved(layers: tuple[str | Path, ...], stamps: tuple[object, ...]) -> Config:  # noqa: ARG001
    """Settings that scenes share: the layers (files, or settings as JSON) over the defaults; `stamps` tell versions of files."""
    return resolve(_layers(layers))


def _with_overrides(layers: tuple[str | Path, ...], overrides: str) -> Config:
    given = overrides.split()
    presets = (layer for layer in layers if isinstance(layer, Path) and layer.is_file())
    stamps = tuple((Path.cwd(), file.stat().st_mtime_ns) for preset in presets for file in preset_files(preset))
    return override(_resolved(layers, stamps), given, lambda: resolve(_layers(layers), given))


def _method_layers(workflow: WorkflowConfig, method: str | None) -> tuple[str | Path, ...]:
    if method is None:
        return ()
    if not method.startswith(PREFIX):
        return (method_file(method),)
    ablation = read_ablation(Path(workflow.ablation))
    _check_method(ablation.base)
    settings = ablation.settings(method)
    if foreign := set(settings) - set(METHOD_SECTIONS):
        raise ConfigError(
            f"{workflow.ablation}: '{min(foreign)}' belongs to the scene; a variant sets {', '.join(METHOD_SECTIONS)}"
        )
    return method_file(ablation.base), json.dumps(settings)


def _layers(layers: tuple[str | Path, ...]) -> list[Mapping[str, Any] | Path]:
    return [layer if isinstance(layer, Path) else json.loads(layer) for layer in layers]


@cache
def _protocols() -> tuple[str, ...]:
    return get_args(get_type_hints(SceneRow)["protocol"])


@cache
def _files(folder: Path) -> tuple[Path, ...]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return tuple(path for path in files if not any(part.startswith(".") for part in path.relative_to(folder).parts))


def _typed(given: Mapping[str, Any], resolved: Mapping[str, Any]) -> dict[str, Any]:
    """The given settings with the types of the resolved ones: snakemake hands nested values of `--config` on as text."""
    out: dict[str, Any] = {}
    for key, value in given.items():
        typed = resolved[key]
        if isinstance(value, Mapping):
            out[key] = _typed(value, typed)
        else:
            out[key] = list(typed) if isinstance(typed, tuple) else typed
    return out


def _check_method(method: str) -> None:
    if not NAME.fullmatch(method) or method in RESERVED_METHODS or method.startswith(PREFIX):
        raise ConfigError(
            f"config: '{method}' cannot name a method; {', '.join(RESERVED_METHODS)} and {PREFIX}... are taken, and a name is letters, digits, '_-.'"
        )
    path = method_file(method)
    if not path.is_file():
        known = sorted(other.stem for other in path.parent.glob("*.yaml"))
        raise ConfigError(f"config: method '{method}' has no preset {path}{_nearest(method, known)}")
    resolve([path])
    import yaml

    for file in preset_files(path):
        foreign = set(yaml.safe_load(file.read_text()) or {}) - {BASE, *METHOD_SECTIONS}
        if foreign:
            raise ConfigError(
                f"{file}: '{min(foreign)}' belongs to the scene; set it in config.yaml under settings, or in the manifest"
            )


def _check_columns(path: Path, columns: list[str]) -> None:
    valid = [item.name for item in fields(SceneRow)]
    for column in columns:
        if column not in valid:
            raise ConfigError(f"{path}: unknown column '{column}'{_nearest(column, valid)}")
    if len(set(columns)) < len(columns):
        raise ConfigError(f"{path}: a column is there twice")
    for column in row_schema(SceneRow)["required"]:
        if column not in columns:
            raise ConfigError(f"{path}: column '{column}' is missing; columns are separated by tabs")


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name longer than the system allows
        return False


def _check_region(region: str, where: str) -> None:
    if not region or region in _REGIONS:
        return
    try:
        numbers = [float(part) for part in region.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != 4 or not all(map(math.isfinite, numbers)) or numbers[3] <= 0:
        raise ConfigError(f"{where}: region '{region}' is neither one of {', '.join(_REGIONS)} nor 'x,y,z,radius'")


def _nearest(name: str, valid: Any) -> str:
    close = difflib.get_close_matches(name, list(valid), n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else ""
