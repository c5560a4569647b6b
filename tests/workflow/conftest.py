"""Fixtures of the workflow's tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.workflow.checkout import Checkout, make_checkout


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that share the finished run stay in one process, so that it is made once."""
    for item in items:
        if "finished" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.xdist_group("finished"))


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A checkout after a whole run; whoever changes it restores it."""
    checkout = make_checkout(tmp_path_factory.mktemp("finished") / "nsr")
    checkout.snakemake()
    return checkout


@pytest.fixture()
def fresh(tmp_path: Path) -> Checkout:
    """A checkout in which nothing has run."""
    return make_checkout(tmp_path / "nsr")
