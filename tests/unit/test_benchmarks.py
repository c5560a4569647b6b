"""Benchmarks explain themselves, refuse a machine without a GPU in one line, and their arithmetic is right."""

from __future__ import annotations

import argparse
import re
from importlib import import_module

import numpy as np
import pytest
import torch

from nsr.cli import run
from nsr.kernels.hashgrid import HashGridSpec
from tests.source_tree import ROOT, functions
from tests.unit.programs import the_error

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
PROGRAMS = {
    "hashgrid": [],
    "sdf_core": [],
    "mlp": [],
    "march_composite": [],
    "patch": [],
    "mesh": [],
    "train": ["--scene", "scene"],
    "multi_gpu": ["--scene", "scene"],
}
WITHOUT_GPU = ("workflow", "views", "variants")


def program(name):
    """Its module; the one with Triton kernels of its own is imported only where it measures."""
    return import_module(f"benchmarks.{name}")


def test_every_program_is_named_here():
    found = {path.stem for path in (ROOT / "benchmarks").glob("*.py") if "build_parser" in {f.name for f in functions(path)}}
    assert found == {*PROGRAMS, *WITHOUT_GPU}


@pytest.mark.parametrize("name", [*PROGRAMS, *WITHOUT_GPU])
def test_help(name, capsys):
    with pytest.raises(SystemExit) as stopped:
        program(name).build_parser().parse_args(["--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert program(name).__doc__.splitlines()[0] in text
    parser: argparse.ArgumentParser = program(name).build_parser()
    assert all(action.help for action in parser._actions)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, so nothing is refused")
@pytest.mark.parametrize("name", PROGRAMS)
def test_without_a_gpu(name, capsys):
    module = program(name)
    assert run(module.build_parser(), module.main, PROGRAMS[name]) == 2
    captured = capsys.readouterr()
    assert not captured.out
    the_error(captured.err, ("CUDA GPU",))


def test_sectors_of_known_points():
    sectors = program("hashgrid").sectors
    spec = HashGridSpec(1, 2, 12, 9, 9)
    # 32 times the same point: vertices (x, y, z) and (x + 1, y, z) are neighbours in the table, four to a sector of 32 bytes.
    x = torch.full((32, 3), 0.4)
    corners = 4 * 8 + 5, 3 + 9 * (3 + 9 * 3)
    rows = {corners[1] + dx + 9 * (dy + 9 * dz) for dx in (0, 1) for dy in (0, 1) for dz in (0, 1)}
    assert sectors(x, spec, 8) == len({row // 4 for row in rows})
    assert sectors(x, spec, 4) == len({row // 8 for row in rows})
    assert sectors(torch.cat([x, x]), spec, 8) == 2 * sectors(x, spec, 8)
    spread = torch.rand(32, 3, generator=torch.Generator().manual_seed(0))
    assert sectors(spread, spec, 8) > 10 * sectors(x, spec, 8)


def test_points_of_the_unit_ball():
    points = program("hashgrid").unit_ball_points("rays", 2048, torch.device("cpu"))
    assert points.shape == (2048, 3)
    assert points.norm(dim=1).max() <= 1 + 1e-6
    steps = points.reshape(4, 512, 3).diff(dim=1).norm(dim=2)
    torch.testing.assert_close(steps, steps[:, :1].expand_as(steps), rtol=1e-3, atol=1e-6)


def test_time_covered_by_intervals():
    covered = program("train")._covered
    assert covered([]) == 0
    assert covered([(0, 2), (1, 3), (5, 6), (5.5, 5.8)]) == 4


def test_calibration_draws_rows_evenly():
    pytest.importorskip("triton", reason="triton is not installed")
    calibration = import_module("benchmarks.triton_calibration")
    table, out = torch.zeros(50, device=DEVICE), torch.empty(256, device=DEVICE)
    calibration._atomics[(4,)](table, ENTRIES=50, EACH=8, BLOCK=64)
    assert table.sum() == 4 * 64 * 8
    assert table.min() > 20  # 41 on average
    calibration._gathers[(4,)](table, out, ENTRIES=50, EACH=8, BLOCK=64)
    assert out.min() >= 8 * table.min()
    assert out.max() <= 8 * table.max()


SMALL_GRID = ["--order", "rays", "--levels", "2", "--log2-table", "8", "--base", "3", "--finest", "12"]


def call_once(run):
    run()
    return 1.0


@pytest.mark.filterwarnings("ignore:CUDA is not available or torch_xla")
@pytest.mark.parametrize(
    ("name", "options", "rows"),
    [
        ("hashgrid", [*SMALL_GRID, "--points", "512"], 8),
        ("sdf_core", [*SMALL_GRID, "--samples", "512", "--hidden", "16", "--geometry", "3"], 4),
        ("mlp", ["--samples", "64", "--widths", "16", "16", "3"], 8),
        ("march_composite", ["--rays", "8", "--steps", "64", "--resolution", "16", "--thickness", "0.1"], 11),
        ("patch", ["--rays", "6", "--size", "5", "--views", "9", "--sources", "2", "--photo", "64", "48", "--rows", "500"], 4),
    ],
)
def test_every_case_runs_or_says_why_not(name, options, rows, monkeypatch, capsys):
    """On the CPU, with a clock that calls once: what is timed works, whatever the time."""
    pytest.importorskip("triton", reason="triton is not installed")
    module, timing = program(name), program("timing")
    monkeypatch.setattr(module, "require_gpu", lambda: DEVICE)
    monkeypatch.setattr(module, "calibrate", lambda: timing.Ceilings(1e12, 1e11, 1e11, 1e14))
    monkeypatch.setattr(timing, "milliseconds", lambda run, *, cold, **_: 1.0 if cold else call_once(run))
    module.main(module.build_parser().parse_args(options))
    lines = [line for line in capsys.readouterr().out.splitlines() if line]
    measured = [line for line in lines if re.search(r" +1\.000 +1\.000 +\d+\.\d+ +\d\.\d{3} +\d+%$", line)]
    skipped = [line for line in lines if "skipped: " in line]
    assert len(measured) + len(skipped) == rows, lines
    assert any("reference" in line for line in measured)
    if name != "mlp":
        assert any("triton" in line for line in measured)
    assert not [line for line in skipped if "tcnn" not in line and "nerfacc" not in line and name != "mlp"]


def test_mesh_of_a_shape_on_the_cpu(capsys):
    module = program("mesh")
    module.main(module.build_parser().parse_args(["--device", "cpu", "--shape", "sphere", "--resolution", "48", "32"]))
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if line.strip()[:2] in ("32", "48")]
    assert [row[0] for row in rows] == ["32", "48"], "rising, or the peak of memory would be the largest's"
    for resolution, triangles, whole, *parts in rows:
        # Marching cubes leaves about 3 triangles for each cell face that the surface's area has.
        assert float(triangles) == pytest.approx(3.0 * 4 * np.pi * 0.36 * (int(resolution) / 2) ** 2, rel=0.1)
        assert float(whole) == pytest.approx(sum(map(float, parts[:3])), abs=0.03)


def test_shapes_of_the_mesh_benchmark_are_distances():
    for sdf in program("mesh").SHAPES.values():
        points = torch.rand(2000, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 1.6 - 0.8
        points.requires_grad_()
        slope = torch.autograd.grad(sdf(points).sum(), points)[0].norm(dim=1)
        assert slope.max() < 1.7  # steeper ones would be searched for too narrowly
        assert slope.median() > 0.5


def test_a_list_of_many_scenes_is_planned(tmp_path):
    module = program("workflow")
    module.make_project(tmp_path, 2, 2, 1)
    seconds, cpu, memory, text = module.measure(tmp_path, "-n", "--quiet", "rules")
    # Of a scene: its preparation, its points, and eight jobs under each method (two surfaces evaluated); the report and the target.
    assert module.jobs_of(text) == 2 * (2 + 2 * 8) + 2
    assert seconds > 0 < cpu
    assert 50 < memory < 2000


def test_many_views_stay_within_the_limit(monkeypatch, capsys):
    module = program("views")
    monkeypatch.setattr(module.spill, "MEMORY_LIMIT", module.spill.MEMORY_LIMIT)
    options = ["--views", "12", "--size", "1600", "1200", "--limit", "0.005"]
    assert run(module.build_parser(), module.main, options) == 0
    rows = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines()[2:]}
    assert set(rows) == {"prepare", "load", "rays"}
    # Ten training views of 1600 x 1200 x 4 bytes, colours and masks, are 0.077 GB: neither fits under the limit.
    assert (rows["load"][2], rows["load"][3]) == ("0.00", "0.08")


def test_lines_of_nvidia_smi():
    text = "0, GPU-a, 97, 2031\n1, GPU-b, [N/A], 5\n0, GPU-a, 3, 2"
    found = program("multi_gpu").read_samples(text + "\n1, GP")
    assert [(sample.uuid, sample.busy, sample.memory) for sample in found] == [("GPU-a", 97.0, 2031.0), ("GPU-a", 3.0, 2.0)]
