"""Several fields of a scene, each trained from a seed of its own, joined as one model.

What differs from seed to seed (how deep a pit under a highlight is, where a cloud of colour hangs) is not in the photographs, and a mean
has less of it. After deep ensembles (Lakshminarayanan et al. 2017, section 2.4): of signed distances the median is taken for surfaces, so that one field's
accident moves them little, of rendered images the mean for views.
"""

from __future__ import annotations

import gc
import json
import shutil
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch

from nsr.config import Config, section
from nsr.errors import CheckpointError
from nsr.job import current
from nsr.log import get_logger
from nsr.provenance import hash_json, manifest, parse_json, write_json, write_text
from nsr.scene.scene import Scene
from nsr.scene.spill import Spill
from nsr.train.checkpoint import alone_in, load_dict
from nsr.train.data import TrainingData, load_training_data
from nsr.train.detail import with_detail
from nsr.train.loop import train_scene
from nsr.train.memory import shortage_named
from nsr.train.model_file import join_models
from nsr.train.ranks import ALONE, Ranks


def member_config(config: Config, number: int) -> Config:
    """Settings of one field: its own seed, the first one's is the model's; those of neighbouring models share none."""
    seed = (config.train.seed + number * 0x51ED270B) % 2**31
    return replace(config, train=replace(config.train, members=1, seed=seed))


def train_members(scene: Scene, config: Config, out: Path, device: torch.device, ranks: Ranks = ALONE) -> dict[str, Any]:
    """Train the `train.members` fields of a scene, or continue where a killed run of the same settings and data stopped.

    They are trained one after another; where several ranks can have equally many, each trains its own and they are the same as those
    of one rank, else all ranks train each together.

    Writes the same files as `train_scene`, which it is for one field; the models of several stay in `checkpoint/member0` and so on.

    Returns:
        The content of `train.json`; {} on other ranks.

    Raises:
        TrainingDiverged, CheckpointError, DataError, OutOfMemory.
    """
    if config.train.members == 1:
        return train_scene(scene, config, out, device, ranks)
    config = with_detail(config, scene)
    with shortage_named("photographs", "lower prepare.max_size"):
        data = load_training_data(scene, config.model, config.train, device, Spill(out / "checkpoint"))
    folders = [out / "checkpoint" / f"member{number}" for number in range(config.train.members)]
    at_once = ranks.count if len(folders) % ranks.count == 0 else 1  # fields that are trained at a time, each by one rank
    if at_once > 1 and ranks.first:
        get_logger().info("%d fields, %d on each of %d ranks", len(folders), len(folders) // ranks.count, ranks.count)
    with alone_in(out / "checkpoint") if ranks.first else nullcontext():
        ranks.wait()
        for number, folder in enumerate(folders):
            if number % at_once == ranks.rank % at_once:
                _train_field(scene, member_config(config, number), folder, device, ALONE if at_once > 1 else ranks, data)
        ranks.wait()
        return _joined(out, folders, config, data, ranks.count, at_once) if ranks.first else {}


def _train_field(scene: Scene, config: Config, folder: Path, device: torch.device, ranks: Ranks, data: TrainingData) -> None:
    """Train a field unless it is there already."""
    spent = _spent(folder, config, data)
    if spent is not None:
        current().carry(spent)
    if not ranks.least(spent is not None):
        get_logger().info("%s", folder.name)
        train_scene(scene, config, folder, device, ranks, data)
        gc.collect()  # of the field, which holds its own parts in circles
        if ranks.first:
            shutil.rmtree(folder / "checkpoint")  # larger than all models together, and not read again


def _spent(folder: Path, config: Config, data: TrainingData) -> dict[str, Any] | None:
    """The cost of a run of these settings and data that has ended there; None if none has."""
    try:
        written = parse_json((folder / "train.json").read_text())["manifest"]
        identity, cost = written["identity"], dict(written["cost"])
        same = identity["data"] == data.digest and identity["settings"] == hash_json(section(config, "model", "train"))
        if not same or not cost:
            return None
        load_dict(folder / "model.pt", torch.device("cpu"))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    except CheckpointError as error:
        get_logger().warning("trained again: %s", error)
        return None
    return cost


def _joined(out: Path, folders: Sequence[Path], config: Config, data: TrainingData, ranks: int, at_once: int) -> dict[str, Any]:
    """Make one result of the fields', which `ranks` processes trained, `at_once` of them at a time."""
    parts = [parse_json((folder / "train.json").read_text()) for folder in folders]
    join_models([folder / "model.pt" for folder in folders], out / "model.pt", config.train)
    write_text(out / "metrics.jsonl", "".join(json.dumps(record) + "\n" for record in _records(folders, parts, at_once)))
    settings = section(config, "model", "train")
    seconds = max(sum(part["seconds"] for part in parts[first::at_once]) for first in range(at_once))
    summary = parts[-1] | {
        "steps": sum(part["steps"] for part in parts),
        "samples_a_step": min(part["samples_a_step"] for part in parts),
        "ranks": ranks,
        "shortages": [{"member": number, **shortage} for number, part in enumerate(parts) for shortage in part["shortages"]],
        "seconds": seconds,
        "samples_per_second": sum(part["samples_per_second"] * part["seconds"] for part in parts) / max(seconds, 1e-9),
        "peak_memory_mb": max(part["peak_memory_mb"] for part in parts),
        "psnr_train": mean(part["psnr_train"] for part in parts),
        "sharpness": mean(part["sharpness"] for part in parts),
        "exposure": {name: np.mean([part["exposure"][name] for part in parts], axis=0).tolist() for name in parts[0]["exposure"]},
        "resumed": any(part["resumed"] for part in parts),
        "settings": settings,
        "manifest": manifest(identity={"settings": hash_json(settings), "data": data.digest}, seed=config.train.seed),
    }
    write_json(out / "train.json", summary)
    return summary


def _records(folders: Sequence[Path], parts: Sequence[dict[str, Any]], at_once: int) -> list[dict[str, Any]]:
    """Metrics of all fields, of which `at_once` were trained at a time; steps are counted through, and seconds of one after another."""
    found, steps, seconds = list[dict[str, Any]](), 0, [0.0] * at_once
    for number, (folder, part) in enumerate(zip(folders, parts, strict=True)):
        before = seconds[number % at_once]
        for line in (folder / "metrics.jsonl").read_text().splitlines():
            record = json.loads(line)
            found.append({**record, "step": record["step"] + steps, "seconds": record["seconds"] + before, "member": number})
        steps += part["steps"]
        seconds[number % at_once] += part["seconds"]
    return found
