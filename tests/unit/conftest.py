"""What several test files share."""

from __future__ import annotations

from pathlib import Path

import pytest

from nsr.kernels.gpu import interpreted
from tests.interpreter import large_blocks
from tests.unit import dataset_writers as writers
from tests.unit.programs import Refusal, call, settings
from tests.unit.training_scene import sphere_scene


@pytest.fixture
def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Refusal:
    """Calls a program that must fail; see `Refusal`."""
    return Refusal(tmp_path, capsys)


@pytest.fixture
def few_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under Triton's interpreter, kernels of the field with few and long operations; see `large_blocks`."""
    if interpreted():
        large_blocks(monkeypatch)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `scene`, `run` (a model of two steps with its checkpoint), and the true surface `sphere.ply`."""
    import trimesh

    root = tmp_path_factory.mktemp("trained")
    scene = sphere_scene(root / "scene")
    assert call("train", "--scene", scene.root, "--out", root / "run", "--device", "cpu", *settings(checkpoint_every=1)) == 0
    trimesh.creation.icosphere(subdivisions=2, radius=1.5).apply_translation((3.0, -1.0, 0.5)).export(root / "sphere.ply")
    return root


@pytest.fixture
def neus(tmp_path: Path) -> Path:
    """A NeuS folder of six views with masks."""
    return writers.write_neus(tmp_path / "source", writers.make_views(6))
