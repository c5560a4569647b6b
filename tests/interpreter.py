"""Triton's interpreter without work that it repeats, and with as few operations as a test can do with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest


def prepare_language_once_a_launch() -> None:
    """Let a device function that is called find the language as the launch left it.

    The interpreter looks through its whole language for functions to replace, at a launch and again at every call of a device
    function, a tenth of the time of a training step. What it would find the second time is replaced already. Where Triton has no
    such function any more, nothing is done.
    """
    from triton.runtime import interpreter

    prepare: Callable[[Any], Any] | None = getattr(interpreter, "_patch_lang", None)
    scope: Callable[[], Any] | None = getattr(interpreter, "_LangPatchScope", None)
    if prepare is None or scope is None:
        return
    core = interpreter.tl.core

    def once(function: Any) -> Any:
        languages = [value for value in function.__globals__.values() if value is interpreter.tl or value is core]
        return prepare(function) if any(core.is_builtin(language.load) for language in languages) else scope()

    interpreter._patch_lang = once


def large_blocks(patch: pytest.MonkeyPatch) -> None:
    """Sizes of the field's kernels for the interpreter, which takes as long for an operation on 256 numbers as on 16.

    For tests of what is built on these kernels; theirs run with the sizes of a GPU.
    """
    from nsr.kernels.hashgrid import triton as hashgrid
    from nsr.kernels.sdf import triton as sdf

    patch.setattr(hashgrid, "_HALVES_BLOCK", 256)
    patch.setattr(hashgrid, "_RUN", 2)
    patch.setattr(hashgrid, "_RUN_BLOCK", 128)
    for shape in ("FORWARD", "BACKWARD_EXACT"):
        patch.setattr(sdf, shape, getattr(sdf, shape)._replace(block=128))
