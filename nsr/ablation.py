"""Variants of a preset, each trained with several seeds, so that a default is what a table says: the file that lists them.

    base: nsr                     # preset that all variants start from
    seeds: [1, 2, 3]
    variants:                     # the first is what the others are compared with; settings as in a preset
      default: {}
      no-mask-term: {train: {loss: {mask: 0}}}

A run of it is a method of the workflow like any other, called `ablation.<variant>.seed<number>`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from nsr.errors import ConfigError

PREFIX = "ablation."
PATTERN = r"ablation\.[A-Za-z0-9_-]+\.seed[0-9]+"
_VARIANT = re.compile(r"[A-Za-z0-9_-]+")
_KEYS = ("base", "seeds", "variants")


@dataclass(frozen=True)
class Ablation:
    """Attributes: base, name of a preset; seeds; variants, settings over the preset by name, the first is the reference."""

    base: str
    seeds: tuple[int, ...]
    variants: Mapping[str, Mapping[str, Any]]

    def runs(self) -> list[str]:
        """Names of all runs, the seeds of a variant one after another."""
        return [run_name(variant, seed) for variant in self.variants for seed in self.seeds]

    def settings(self, run: str) -> dict[str, Any]:
        """Settings of a run over its preset, the seed among them.

        Raises:
            ConfigError: the file lists no such run.
        """
        if run not in self.runs():
            raise ConfigError(f"ablation: no run '{run}'; there are {', '.join(self.runs()[:4])}, ...")
        variant, seed = split_name(run)
        own = self.variants[variant]
        return {**own, "train": {**own.get("train", {}), "seed": seed}}


def run_name(variant: str, seed: int) -> str:
    """The method's name of a run."""
    return f"{PREFIX}{variant}.seed{seed}"


def split_name(run: str) -> tuple[str, int]:
    """Variant and seed of a run."""
    variant, _, seed = run.removeprefix(PREFIX).rpartition(".seed")
    return variant, int(seed)


def read_ablation(path: Path) -> Ablation:
    """The file, checked but for its settings, which only the whole config can judge.

    Raises:
        ConfigError: unreadable, no YAML, or a wrong key or value.
    """
    try:
        return _read(path, path.stat().st_mtime_ns)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); name a file of variants, config key 'ablation'") from error


@cache
def _read(path: Path, _: int) -> Ablation:
    import yaml

    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: no YAML ({' '.join(str(error).split())})") from error
    if not isinstance(data, dict) or set(data) != set(_KEYS):
        raise ConfigError(f"{path}: needs the keys {', '.join(_KEYS)} and no others")
    base, seeds, variants = (data[key] for key in _KEYS)
    if not isinstance(seeds, list) or not seeds or not all(type(seed) is int and seed >= 0 for seed in seeds):
        raise ConfigError(f"{path}: seeds must be a list of whole numbers from 0 up, e.g. [1, 2, 3]")
    if len(set(seeds)) < len(seeds):
        raise ConfigError(f"{path}: a seed is there twice")
    if not isinstance(variants, dict) or not variants:
        raise ConfigError(f"{path}: variants must map at least one name to settings, e.g. {{default: {{}}}}")
    for name, settings in variants.items():
        if not _VARIANT.fullmatch(str(name)):
            raise ConfigError(f"{path}: '{name}' cannot name a variant; use letters, digits, '_' and '-'")
        if not isinstance(settings, dict) or not all(isinstance(part, dict) for part in settings.values()):
            raise ConfigError(f"{path}: variant '{name}' needs settings by section, e.g. {{train: {{steps: 5000}}}}, or {{}}")
    return Ablation(str(base), tuple(seeds), {str(name): settings for name, settings in variants.items()})
