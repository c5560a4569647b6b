"""Choice of a kernel's implementation by name, without silent fallback."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from nsr.errors import BackendUnavailable


def choose(operation: str, implementations: Mapping[str, Callable[..., Any]], backend: str) -> Callable[..., Any]:
    """The implementation of `operation` that `backend` names.

    Raises:
        BackendUnavailable: there is none of that name; the message lists those there are.
    """
    if backend not in implementations:
        raise BackendUnavailable(f"{operation}: no back end '{backend}' here; available: {', '.join(sorted(implementations))}")
    return implementations[backend]
