"""Some dozens of damaged files of every kind; `python -m tests.fuzz` reads thousands."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz import damaged, fuzz
from tests.fuzz_readers import READERS

INPUTS = 40


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", list(READERS))
def test_damaged_files_end_in_the_projects_errors(name: str, tmp_path: Path) -> None:
    assert 0 < fuzz(name, tmp_path, INPUTS) <= INPUTS


def test_damage() -> None:
    data = b"abcdef12gh"
    assert damaged(data, [("set", 0.2, 0, b"XY")]) == b"abXYef12gh"
    assert damaged(data, [("insert", 0.2, 0, b"XY")]) == b"abXYcdef12gh"
    assert damaged(data, [("delete", 0.2, 0.2, b"")]) == b"abf12gh"
    assert damaged(data, [("cut", 0.5, 0, b"")]) == b"abcde"
    assert damaged(data, [("double", 0.0, 0.1, b"")]) == b"ababcdef12gh"
    assert damaged(data, [("number", 0.0, 0, b"nan"), ("cut", 1.0, 0, b"")]) == b"abcdefnangh"
