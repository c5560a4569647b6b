"""Findings: what was judged, with a level, a sentence and the setting to change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warning", "stop"]
LEVELS: tuple[Level, ...] = ("ok", "warning", "stop")
_NAMED = 4


@dataclass(frozen=True)
class Finding:
    """One verdict.

    Attributes:
        level: "ok"; "warning", results will suffer; "stop", training would be wasted. check: name of what was judged.
        text: what was found, with numbers. change: what to do about it, empty where nothing is wrong.
    """

    level: Level
    check: str
    text: str
    change: str = ""


def worst(findings: Sequence[Finding]) -> Level:
    """The highest level among findings, "ok" if there are none."""
    return max((finding.level for finding in findings), key=LEVELS.index, default="ok")


def named(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
