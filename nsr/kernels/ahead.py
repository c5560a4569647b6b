"""Triton kernels compiled side by side before their first use.

Triton compiles a kernel when it is launched for the first time, so that the first step of a program waits for one kernel after
another. Its compiler runs outside Python's lock, and the C compiler of the launchers and `ptxas` are processes of their own:
threads are enough to use all cores, and there is no second process that would need the GPU too.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch

from nsr.kernels.gpu import interpreted
from nsr.log import get_logger


def compile_ahead(rehearsal: Callable[[], None], device: torch.device) -> int:
    """Compile what `rehearsal` would launch, in as many threads as the process has cores, and launch none of it.

    No list of kernels is kept: the rehearsal runs, and at each launch Triton says which specialisation it needs. Whatever the
    rehearsal leaves in memory is worthless, as no kernel wrote it; torch must not use a kernel's integers as indices.

    Returns:
        Kernels made ready: compiled, or read from Triton's cache on disk, which takes some milliseconds each. Those that the
        process has already, and all under the interpreter, do not count.
    """
    if interpreted():
        return 0
    from triton import CompilationError

    threads = ThreadPoolExecutor(len(os.sched_getaffinity(0)), initializer=_enter, initargs=(_current(device),))
    with _parsed_in_turn(), threads as pool:
        waiting: dict[str, tuple[Any, Future[None]]] = {}

        def ask(**facts: Any) -> bool:
            """Triton's hook before a compilation: true means that there shall be none. Begun ones of the threads pass."""
            if getattr(_THREAD, "compiles", False):
                return False
            data = facts["compile"]["specialization_data"]
            if data not in waiting:
                kernel = facts["fn"].jit_function
                waiting[data] = kernel, pool.submit(_compile, kernel, data, device)
            return True

        with _nothing_launched(ask):
            rehearsal()
    # A kernel that is really wrong fails again here; what else stops a compilation (memory, a full disk) may have passed.
    for data, (kernel, future) in waiting.items():
        try:
            future.result()
        except CompilationError as error:
            get_logger().warning("compiling %s again, alone, after: %s", kernel.fn.__name__, error)
            _compile(kernel, data, device)
    return len(waiting)


_THREAD = threading.local()


def _current(device: torch.device) -> int | None:
    return torch.cuda.current_device() if device.type == "cuda" else None


def _enter(index: int | None) -> None:
    """Begin a thread that compiles; a new thread knows no current GPU."""
    _THREAD.compiles = True
    if index is not None:
        torch.cuda.set_device(index)


def _compile(kernel: Any, specialization: str, device: torch.device) -> None:
    compiled = kernel.preload(specialization)
    if device.type == "cuda":
        _ = compiled.run  # builds the launcher and loads the kernel onto the GPU, which Triton leaves to the first launch


@contextmanager
def _parsed_in_turn() -> Iterator[None]:
    """No two threads parse the source of a kernel at once.

    Before 3.11.8 and 3.12.2, Python counts the depth of a syntax tree for all threads together: two in `ast.parse` end in a
    `SystemError` now and then (CPython issue 106905). Parsing takes some milliseconds, compiling what was parsed a second.
    """
    from triton.runtime.jit import JITFunction

    parse, turn = JITFunction.parse, threading.Lock()

    def wait_and_parse(kernel: Any) -> Any:
        with turn:
            return parse(kernel)

    JITFunction.parse = wait_and_parse
    try:
        yield
    finally:
        JITFunction.parse = parse


@contextmanager
def _nothing_launched(ask: Callable[..., bool]) -> Iterator[None]:
    """Launches only look for their kernel: `ask` hears of those that the process does not have."""
    from triton import knobs
    from triton.runtime.jit import JITFunction

    launch, hook = JITFunction.run, knobs.runtime.jit_cache_hook

    def look(kernel: Any, *args: Any, **options: Any) -> Any:
        return launch(kernel, *args, **{**options, "warmup": True})

    JITFunction.run, knobs.runtime.jit_cache_hook = look, ask
    try:
        yield
    finally:
        JITFunction.run, knobs.runtime.jit_cache_hook = launch, hook
