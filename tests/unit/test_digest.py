"""Content hashes: which files are the code of a stage, and what changes a hash."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from nsr.digest import code_digest, source_digest, stage_files
from nsr.errors import ConfigError

FILES = {
    "scripts/mesh.py": "from nsr.cli import main_exit\ndef main():\n    from nsr.mesh.stage import run\n",
    "nsr/__init__.py": "",
    "nsr/cli.py": "",
    "nsr/mesh/__init__.py": "from nsr.mesh.other import x\n",
    "nsr/mesh/stage.py": "import nsr.fields.sdf\nfrom nsr.mesh import clean\n",
    "nsr/mesh/clean.py": "from nsr.kernels import encode\n",
    "nsr/mesh/other.py": "",
    "nsr/mesh/page.html": "<p>",
    "nsr/fields/__init__.py": "",
    "nsr/fields/sdf.py": "import nsr.mesh.stage\n",
    "nsr/kernels/__init__.py": "from nsr.kernels.reference import encode\n",
    "nsr/kernels/reference.py": "",
    "nsr/train/__init__.py": "",
    "nsr/train/loop.py": "",
}
USED = {
    *("nsr/mesh/stage.py", "nsr/mesh/clean.py", "nsr/mesh/page.html", "nsr/fields/sdf.py"),
    *("nsr/kernels/__init__.py", "nsr/kernels/reference.py"),
}


def tree(root: Path) -> Path:
    """A small package with one stage."""
    for name, text in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_files_of_a_stage(tmp_path: Path) -> None:
    files = stage_files("mesh", tree(tmp_path))
    assert files[0] == tmp_path / "scripts/mesh.py"
    assert {path.relative_to(tmp_path).as_posix() for path in files[1:]} == USED


def test_imports_are_found_within_every_statement(tmp_path: Path) -> None:
    wrapped = [
        "if x:\n    pass\nelif y:\n    {}\nelse:\n    {}",
        "try:\n    {}\nexcept OSError:\n    {}\nelse:\n    {}\nfinally:\n    {}",
        "for x in y:\n    {}\nelse:\n    {}",
        "while x:\n    {}",
        "with x:\n    {}",
        "match x:\n    case 1:\n        {}\n    case _:\n        {}",
        "class A:\n    async def f(self):\n        {}",
    ]
    names = [f"m{number}" for number in range("".join(wrapped).count("{}"))]
    waiting = iter(names)
    root = tree(tmp_path)
    lines = (part.format(*(f"import nsr.{next(waiting)}" for _ in range(part.count("{}")))) for part in wrapped)
    (root / "scripts/mesh.py").write_text("\n".join(lines))
    for name in names:
        (root / f"nsr/{name}.py").touch()
    assert {path.stem for path in stage_files("mesh", root)[1:]} == set(names)


@pytest.mark.parametrize("name", sorted(set(FILES)))
def test_code_digest_follows_exactly_those_files(tmp_path: Path, name: str) -> None:
    before = code_digest("mesh", tree(tmp_path / "a"))
    tree(tmp_path / "b")
    with (tmp_path / "b" / name).open("a") as file:
        file.write("\n# more")
    assert (code_digest("mesh", tmp_path / "b") != before) == (name in USED or name == "scripts/mesh.py")


def test_code_digest_ignores_place_and_time(tmp_path: Path) -> None:
    before = code_digest("mesh", tree(tmp_path / "a"))
    for path in tree(tmp_path / "b").rglob("*"):
        os.utime(path, (1, 1))
    assert code_digest("mesh", tmp_path / "b") == before


def test_missing_program_and_broken_module(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"scripts/tsdf\.py: no such stage program"):
        code_digest("tsdf", tree(tmp_path))
    (tmp_path / "scripts/report.py").write_text("def (\n")
    with pytest.raises(ConfigError, match=r"scripts/report\.py:1: not valid Python"):
        code_digest("report", tmp_path)


def sources(root: Path) -> list[Path]:
    """Two files."""
    root.mkdir(exist_ok=True)
    for name in ("a.jpg", "b.jpg"):
        (root / name).write_bytes(name.encode())
    return [root / "a.jpg", root / "b.jpg"]


def test_source_digest_follows_contents_and_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    files, cache = sources(Path("photos")), Path("cache.json")
    before = source_digest(files, cache)
    assert source_digest(reversed(files), cache) == before
    assert source_digest(files[:1], cache) != before
    os.utime(files[0], (1, 1))
    assert source_digest(files, cache) == before
    files[0].write_bytes(b"B.jpg")
    assert source_digest(files, cache) != before
    files[0].write_bytes(b"a.jpg")
    assert source_digest(files, Path("none.json")) == before
    files[1].rename("photos/c.jpg")
    assert source_digest([files[0], Path("photos/c.jpg")], cache) != before


def test_cache_saves_reading_and_is_never_needed(tmp_path: Path) -> None:
    files, cache = sources(tmp_path / "photos"), tmp_path / "deep/cache.json"
    before = source_digest(files, cache)
    assert len(json.loads(cache.read_text())) == 2
    # The remembered hash is what counts for a file of the same size and time.
    cache.write_text(json.dumps({key: "0" * 64 for key in json.loads(cache.read_text())}))
    assert source_digest(files, cache) != before
    cache.write_text("{broken")
    assert source_digest(files, cache) == before
    assert source_digest(files, tmp_path / "photos/a.jpg/cannot") == before
    assert not list(tmp_path.rglob("*.partial"))


def test_missing_source_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone\.jpg: cannot be read"):
        source_digest([tmp_path / "gone.jpg"], tmp_path / "cache.json")
