"""A headless Chromium for tests of pages, driven by playwright; the tests skip with the reason where one of them is missing."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
]
# Chromium's own remark on reading back a software-rendered canvas; it says nothing about the page.
_NO_COMPLAINT = "GPU stall due to ReadPixels"


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser with WebGL in software."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (pip install -e .[dev])")
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip(f"no Chromium here (none of {', '.join(NAMES)} on the path; Debian: apt install chromium)")
    with sync_api.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=found, args=FLAGS)
        yield browser
        browser.close()


@contextmanager
def opened(browser: Any, path: Path, complaints: list[str], **context: Any) -> Iterator[Any]:
    """A tab of its own that shows a local file; messages of its console, errors and requests to anywhere go to `complaints`."""
    fresh = browser.new_context(**context)
    page = fresh.new_page()
    page.on("console", lambda message: _NO_COMPLAINT in message.text or complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: request.url.startswith(("file:", "data:", "blob:")) or complaints.append(request.url))
    page.goto(path.as_uri())
    yield page
    fresh.close()
