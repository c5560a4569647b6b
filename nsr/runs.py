"""The list of runs, one scene under one method each, that the workflow hands to the programs that go over all of them."""

from __future__ import annotations

from typing import Any


def list_runs(data: Any) -> list[dict[str, Any]]:
    """The runs that the content of a list file stands for.

    Args:
        data: a list of {dataset, scene, method[, folder, ...]}, or {results, methods, scenes: ["dataset/scene", ...]}, every scene
            under every method: a thousand scenes must fit on a command line, which ends at 128 KB.

    Raises:
        ValueError, KeyError, TypeError: neither of them.
    """
    if isinstance(data, list):
        return data
    runs = []
    for name in data["scenes"]:
        dataset, scene = str(name).split("/")
        for method in data["methods"]:
            folder = f"{data['results']}/{name}/{method}"
            runs.append({"dataset": dataset, "scene": scene, "method": method, "folder": folder})
    return runs
