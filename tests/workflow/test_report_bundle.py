"""`snakemake --report` after a whole run: the page, the tables and their captions travel in it, and it asks nothing of anybody."""

from __future__ import annotations

import re
import zipfile

import pytest

from tests.workflow.checkout import ROOT, Checkout

CAPTIONS = {path.stem: path.read_text(encoding="utf-8") for path in sorted((ROOT / "rules/captions").glob("*.rst"))}


@pytest.fixture(scope="module")
def bundle(finished: Checkout, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Files of the zipped report by their path in it."""
    path = tmp_path_factory.mktemp("bundle") / "run.zip"
    finished.snakemake("--report", str(path))
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_bundle_holds_page_and_tables(finished: Checkout, bundle: dict[str, bytes]) -> None:
    for name in ("index.html", "summary.tsv", "summary.md", "summary.tex"):
        content = (finished.root / "report" / name).read_bytes()
        assert content in bundle.values(), name


def test_bundle_explains_what_it_holds(bundle: dict[str, bytes]) -> None:
    assert set(CAPTIONS) == {"workflow", "page", "table"}
    text = b"".join(bundle.values()).decode("utf-8", errors="replace")
    for caption in CAPTIONS.values():
        words = re.sub(r"\W+", " ", caption).split()[:6]
        assert re.search(r"\W+(<[^>]*>|\\n|\W)*".join(words), text), words


def test_bundle_asks_nothing_of_anybody(bundle: dict[str, bytes]) -> None:
    [start] = [content.decode() for name, content in bundle.items() if name.endswith("report.html")]
    tags = re.findall(r"<(?:script|link|img|iframe)[^>]*(?:src|href)=\"([^\"]*)\"", start)
    assert not [address for address in tags if re.match(r"(https?:)?//", address)], tags
