"""Read back what the stages wrote: one `Run` per scene and method, where a missing piece is missing and never an error."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nsr.data.files import inside
from nsr.errors import DataError
from nsr.provenance import parse_json
from nsr.runs import list_runs
from nsr.scene.scene import SCENE_FILE, Scene, load_scene

SURFACES = ("mesh", "tsdf")
_LOG_LINE = re.compile(r"^\d\d:\d\d:\d\d (WARNING|ERROR|CRITICAL) (.*)$")
_OBJECTS = ("metrics", "settings", "manifest")  # of stages' json files, where they have them
_LOG_TAIL = 1 << 20  # bytes read from the end of a log


@dataclass(frozen=True)
class Surface:
    """One surface of a run.

    Attributes:
        kind: "mesh" (marching cubes) or "tsdf" (fused depth).
        file: its mesh file in the world frame, None if there is none.
        info: what the extraction wrote (`<kind>.json`), {} if missing.
        evaluation: what the evaluation wrote (`evaluate/<kind>.json`), {} if missing.
        samples: the evaluated points and distances (`evaluate/<kind>.npz`), None if missing.
    """

    kind: str
    file: Path | None
    info: dict[str, Any]
    evaluation: dict[str, Any]
    samples: Path | None


@dataclass(frozen=True)
class Failure:
    """A stage without a usable result.

    Attributes:
        stage: its name. reason: the line of its log, or what is wrong with its result.
        damaged: the file of results that cannot be read, None: the stage itself ended with an error.
    """

    stage: str
    reason: str
    damaged: Path | None = None


@dataclass(frozen=True)
class Run:
    """Everything on disk about one scene and method; absent json files are {}.

    Attributes:
        dataset, scene, method: its place in the results. folder: results of the method.
        prepared: the scene, None if it cannot be read. sfm, train, render, views: the stages' json files.
        curve: rows of `metrics.jsonl` in step order. surfaces: one per kind, always all of `SURFACES`.
        textured: the mesh with texture (`texture/textured.glb`), None if there is none. texture: what its stage wrote (`texture/texture.json`).
        failures: stages whose log ends in an error or whose json file cannot be read. warnings: of logs, of the scene, and of files that cannot be read.
        ground_truth: exact mesh named by the runs file, None if it names none.
        seconds: wall-clock time of each stage that was timed.
    """

    dataset: str
    scene: str
    method: str
    folder: Path
    prepared: Scene | None
    sfm: dict[str, Any]
    train: dict[str, Any]
    render: dict[str, Any]
    views: dict[str, Any]
    curve: tuple[dict[str, Any], ...]
    surfaces: tuple[Surface, ...]
    textured: Path | None = None
    texture: Mapping[str, Any] = field(default_factory=dict)
    failures: tuple[Failure, ...] = ()
    warnings: tuple[str, ...] = ()
    ground_truth: Path | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """ "dataset/scene"."""
        return f"{self.dataset}/{self.scene}"


def collect(results: Path, runs: Path, logs: Path | None = None) -> list[Run]:
    """Read every run that the runs file lists, in its order.

    Args:
        results: folder of all results. runs: JSON list of {dataset, scene, method[, folder][, ground_truth]}, or as `list_runs`.
        logs: folder of the logs, `logs` beside `results` if None; it need not exist.

    Raises:
        DataError: the runs file is missing, no such list, or empty, or a name in it is no path below `results`.
    """
    try:
        rows = list_runs(parse_json(runs.read_text(encoding="utf-8")))
        named = [(str(row["dataset"]), str(row["scene"]), str(row["method"]), row) for row in rows]
    except OSError as error:
        raise DataError(f"{runs}: cannot be read ({error.strerror}); name the list of runs with --runs") from error
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{runs}: not a JSON list of {{dataset, scene, method}} ({error})") from error
    if not named:
        raise DataError(f"{runs}: lists no run; add scenes to the manifest")
    for dataset, scene, method, row in named:
        try:
            inside(results, f"{dataset}/{scene}/{method}")
        except DataError as error:
            raise DataError(f"{runs}: names no run below {results} ({error})") from error
        if any(not isinstance(row.get(key) or "", str) for key in ("folder", "ground_truth")):
            raise DataError(f"{runs}: folder and ground_truth of {dataset}/{scene} must be paths; make the file again")
    logs = results.parent / "logs" if logs is None else logs
    return [_read_run(results, logs, dataset, scene, method, row) for dataset, scene, method, row in named]


def _read_run(results: Path, logs: Path, dataset: str, scene: str, method: str, row: Mapping[str, Any]) -> Run:
    warnings: list[str] = []
    folder = _run_folder(results, dataset, scene, method, row.get("folder"))
    prepared = _read_scene(folder.parent / "scene", warnings)
    places = [logs / dataset / scene, logs / dataset / scene / method]
    failures, logged = read_logs(places)
    textured = folder / "texture" / "textured.glb"
    truth = Path(row["ground_truth"]) if row.get("ground_truth") else None
    return Run(
        dataset=dataset,
        scene=scene,
        method=method,
        folder=folder,
        prepared=prepared,
        sfm=_read_json(folder.parent / "sfm" / "sfm.json", "sfm", failures),
        train=_read_json(folder / "train.json", "train", failures),
        render=_read_json(folder / "render" / "render.json", "render", failures),
        views=_read_json(folder / "evaluate" / "views.json", "evaluate_views", failures),
        curve=_read_lines(folder / "metrics.jsonl", warnings),
        surfaces=tuple(_read_surface(folder, kind, failures) for kind in SURFACES),
        textured=textured if textured.is_file() else None,
        texture=_read_json(textured.with_name("texture.json"), "texture", failures),
        failures=tuple(failures),  # after the files above have been read
        warnings=(*(prepared.notes if prepared else ()), *warnings, *logged),
        ground_truth=truth if truth and os.path.isfile(truth) else None,
        seconds=_read_benchmarks([logs / "benchmarks" / dataset / scene, logs / "benchmarks" / dataset / scene / method]),
    )


def _run_folder(results: Path, dataset: str, scene: str, method: str, named: str | None) -> Path:
    """The named folder as it is or inside `results`, whichever exists; else the folder of the standard layout."""
    candidates = [Path(named), results / named] if named else []
    # Not `Path.is_dir`, which raises where a name is longer than a system allows.
    return next((path for path in candidates if os.path.isdir(path)), results / dataset / scene / method)


def _read_scene(folder: Path, warnings: list[str]) -> Scene | None:
    if not (folder / SCENE_FILE).is_file():
        return None
    try:
        return load_scene(folder)
    except DataError as error:
        warnings.append(str(error))
        return None


def _read_surface(folder: Path, kind: str, failures: list[Failure]) -> Surface:
    mesh, samples = folder / f"{kind}.ply", folder / "evaluate" / f"{kind}.npz"
    return Surface(
        kind=kind,
        file=mesh if mesh.is_file() else None,
        info=_read_json(folder / f"{kind}.json", kind, failures),
        evaluation=_read_json(folder / "evaluate" / f"{kind}.json", f"evaluate_{kind}", failures),
        samples=samples if samples.is_file() else None,
    )


def _read_json(path: Path, stage: str, failures: list[Failure]) -> dict[str, Any]:
    """The object in a JSON file of a stage; {} if the file is missing, {} and a failure of the stage if it is broken."""
    if not path.is_file():
        return {}
    try:
        data = parse_json(path.read_text(encoding="utf-8"))
        if not isinstance(data, dict):
            raise ValueError("not an object")
        if wrong := [key for key in _OBJECTS if not isinstance(data.get(key, {}), dict)]:
            raise ValueError(f"{', '.join(wrong)}: not an object")
    except (OSError, ValueError) as error:
        failures.append(Failure(stage, f"{path}: damaged ({error}); delete it and run again", path))
        return {}
    return data


def _read_lines(path: Path, warnings: list[str]) -> tuple[dict[str, Any], ...]:
    """Rows of a JSON-lines file by rising step; a step logged twice (resumed run) counts once, the later line wins."""
    if not path.is_file():
        return ()
    rows: dict[float, dict[str, Any]] = {}
    broken = 0
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = parse_json(line)
            rows[float(row["step"])] = row
        except (ValueError, KeyError, TypeError, OverflowError):
            broken += bool(line.strip())
    if broken:
        warnings.append(f"{path.name}: {broken} unreadable lines left out")
    return tuple(rows[step] for step in sorted(rows))


def read_logs(folders: list[Path]) -> tuple[list[Failure], list[str]]:
    """Errors (the last one of each stage) and warnings (each once) of the log files of one run."""
    failures: list[Failure] = []
    warnings: dict[str, None] = {}
    for path in (log for folder in folders for log in sorted(folder.glob("*.log"))):
        text = path.read_bytes()[-_LOG_TAIL:].decode("utf-8", errors="replace")
        found = [match.groups() for line in text.splitlines() if (match := _LOG_LINE.match(line))]
        errors = [message for level, message in found if level != "WARNING"]
        warnings |= {f"{path.stem}: {message}": None for level, message in found if level == "WARNING"}
        if errors:
            reason = errors[-1]
            if reason.startswith("unexpected error"):  # the traceback's last line says which
                reason = text.strip().splitlines()[-1].strip()
            failures.append(Failure(path.stem, reason))
    return failures, list(warnings)


def _read_benchmarks(folders: list[Path]) -> dict[str, float]:
    """Seconds per stage from the workflow's benchmark files (column `s`, first row)."""
    seconds: dict[str, float] = {}
    for path in (file for folder in folders for file in sorted(folder.glob("*.tsv"))):
        try:
            with path.open(encoding="utf-8", newline="") as handle:
                row = next(csv.DictReader(handle, delimiter="\t"), {})
            seconds[path.stem] = float(row.get("s") or "")
        except (ValueError, csv.Error):
            continue
    return seconds
