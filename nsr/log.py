"""One logger for the whole package, to stderr and, inside `log_to(path)`, to a file as well."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_FORMAT = "%(asctime)s %(levelname)s %(message)s"


def get_logger() -> logging.Logger:
    """The package's logger."""
    return logging.getLogger("nsr")


def first_speaks() -> bool:
    """Whether this process tells what goes on: of several that do one stage together (torchrun) the first one, alone always."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def log_to(path: Path | None) -> Iterator[logging.Logger]:
    """Send the package's messages to stderr and, if given, to `path` (its folder is made) for the block's duration."""
    logger = get_logger()
    logger.setLevel(logging.INFO)
    handlers: list[logging.Handler] = [logging.StreamHandler()]
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        handlers.append(logging.FileHandler(path, mode="w", encoding="utf-8"))
    for handler in handlers:
        handler.setFormatter(logging.Formatter(_FORMAT, datefmt="%H:%M:%S"))
        logger.addHandler(handler)
    try:
        yield logger
    finally:
        for handler in handlers:
            logger.removeHandler(handler)
            handler.close()
