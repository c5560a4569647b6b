"""Valid files that stages write or that say what becomes of results, and their readers, for `tests.fuzz_readers`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from nsr.errors import DataError

GOLDEN = "# ours\ndataset\tscene\tmethod\tresult\tmetric\tlow\thigh\nd\ts\tnsr\tmesh\tchamfer\t0.5\t1.5\nd\tt\tnsr\ttrain\tseconds\t\t9e2\n"
ABLATION = "base: nsr\nseeds: [1, 2]\nvariants:\n  default: {}\n  no-mask: {train: {loss: {mask: [[0, 1], [10, 0.5]]}}}\n"
PUBLISHED = "# mm\nmethod\tscan\tchamfer\tsource\nNeuS\t24\t1.00\tTable 1\nNeuS\tscan037\t1.37\tTable 1\n"
SUMMARY = (
    "dataset\tscene\tmethod\tsurface\tstatus\tchamfer\tf_0.5\tpsnr\tunit\tprotocol\n"
    "d\ts\tnsr\tmesh\tok\t0.75\t0.4\t27.1\tmm\tdtu 1\nd\tt\tnsr\ttsdf\tfailed\t\t\t\t\t\n"
)
LOG = "10:00:01 INFO started\n10:00:02 WARNING few points\n10:00:03 INFO done\n"
METRICS = "".join(f'{{"step": {step}, "seconds": 0.5, "loss": 0.25, "psnr": 20}}\n' for step in range(50, 500, 50))
_RUN = {"dataset": "d", "scene": "s", "method": "m"}
_STAGES = {
    "train.json": {
        "steps": 100,
        "seconds": 2.5,
        "device": "cpu",
        "train_views": ["a"],
        "manifest": {"cost": {"wall_seconds": 2.5}},
    },
    "mesh.json": {"triangles": 320, "steps": [{"step": "extracted", "triangles": 400}], "notes": []},
    "evaluate/mesh.json": {"protocol": "object-surface", "version": 1, "metrics": {"chamfer": 0.75}, "unit": {"name": "mm"}},
    "evaluate/views.json": {"protocol": "held-out-views", "metrics": {"psnr": 27.1}, "per_view": {"a": {"psnr": 27.1}}},
}


def read_golden(folder: Path) -> Any:
    """Golden ranges."""
    from nsr.evaluate.golden import read_ranges

    return read_ranges(folder / "golden.tsv")


def make_checked(folder: Path) -> list[Path]:
    """A result inside its range."""
    (folder / "evaluate").mkdir()
    (folder / "golden.tsv").write_text(GOLDEN)
    (folder / "evaluate" / "mesh.json").write_text(json.dumps({"metrics": {"psnr": 20.5, "chamfer": 1.0}}))
    return [folder / "evaluate" / "mesh.json"]


def read_checked(folder: Path) -> None:
    """A result against its range."""
    from nsr.evaluate.golden import check_results

    check_results(folder / "golden.tsv", [{"dataset": "d", "scene": "s", "method": "nsr", "folder": str(folder)}], folder / "out")


def read_ablation(folder: Path) -> Any:
    """Variants, and the settings of all runs."""
    from nsr import ablation

    ablation._read.cache_clear()  # two files written within a tick of the clock look the same to it
    found = ablation.read_ablation(folder / "ablation.yaml")
    return [found.settings(run) for run in found.runs()[:20]]


def read_published(folder: Path) -> Any:
    """Published numbers beside a scene of ours."""
    from nsr.report.published import matrices

    row = {"dataset": "d", "scene": "scan24", "method": "nsr", "status": "ok", "chamfer": 0.75, "protocol": "d 1"}
    return matrices([row], folder)


def read_summary(folder: Path) -> Any:
    """An earlier summary, and what changed since then."""
    from nsr.report.compare import changes, changes_tsv, read_summary

    rows = read_summary(folder / "summary.tsv")
    now = {"dataset": "d", "scene": "s", "method": "nsr", "surface": "mesh", "status": "ok", "chamfer": 0.5, "psnr": 28.0}
    return changes_tsv(changes([now], rows))


def make_runs(folder: Path) -> list[Path]:
    """Lists of runs of both forms."""
    (folder / "runs.json").write_text(json.dumps([{**_RUN, "folder": "d/s/m", "ground_truth": "truth.ply"}]))
    (folder / "short.json").write_text(json.dumps({"results": "r", "methods": ["m", "n"], "scenes": ["d/s", "d/t"]}))
    return [folder / "runs.json", folder / "short.json"]


def read_runs(folder: Path) -> None:
    """Lists of runs, by the golden check and by the report."""
    from nsr.evaluate import golden
    from nsr.report.collect import collect

    for name in ("runs.json", "short.json"):
        golden.read_runs(folder / name)
        collect(folder, folder / name)


def _make_run(folder: Path) -> Path:
    (folder / "runs.json").write_text(json.dumps([_RUN]))
    for place in ("r/d/s/m/evaluate", "logs/d/s/m", "logs/benchmarks/d/s/m"):
        (folder / place).mkdir(parents=True)
    (folder / "logs/d/s/m/train.log").write_text(LOG)
    return folder / "r/d/s/m"


def make_stages(folder: Path) -> list[Path]:
    """Results of the stages of a run."""
    run = _make_run(folder)
    for name, content in _STAGES.items():
        (run / name).write_text(json.dumps(content))
    return [run / name for name in _STAGES]


def make_metrics(folder: Path) -> list[Path]:
    """The curve of a training."""
    path = _make_run(folder) / "metrics.jsonl"
    path.write_text(METRICS)
    return [path]


def make_logs(folder: Path) -> list[Path]:
    """A stage's log and its time."""
    _make_run(folder)
    time = folder / "logs/benchmarks/d/s/m/train.tsv"
    time.write_text("s\th:m:s\tmax_rss\n2.5\t0:00:02\t500.25\n")
    return [folder / "logs/d/s/m/train.log", time]


def read_collected(folder: Path) -> None:
    """What the report collects of a run, and its tables; what it says of a damaged file counts as refused."""
    from nsr.report.collect import collect
    from nsr.report.spent import spent
    from nsr.report.tables import summary_rows, to_text

    (run,) = collect(folder / "r", folder / "runs.json")
    to_text(summary_rows([run]))
    spent([run])
    said = [failure.reason for failure in run.failures] + [text for text in run.warnings if "unreadable" in text]
    if said:
        raise DataError(said[0])


def read_logged(folder: Path) -> None:
    """The same of logs and times; a warning or a time that is gone counts as refused."""
    from nsr.report.collect import collect

    (run,) = collect(folder / "r", folder / "runs.json")
    if run.warnings != ("train: few points",) or "train" not in run.seconds:
        raise DataError("the log or the time was not read")


def make_rendered(*patterns: str) -> Any:
    """A maker of two rendered views beside their photographs, masks and ground truth, that names some of the rendered files."""

    def make(folder: Path) -> list[Path]:
        import trimesh

        from nsr.conventions import MASK_BACKGROUND, MASK_OBJECT, Similarity
        from nsr.scene.scene import Scene, View, save_scene

        root, render = folder / "scene", folder / "render"
        root.mkdir()
        render.mkdir()
        K, w2c = np.array([[20.0, 0, 8], [0, 20, 6], [0, 0, 1]]), np.eye(4)
        w2c[2, 3] = 3
        mask = np.full((12, 16), MASK_BACKGROUND, dtype=np.uint8)
        mask[3:9] = MASK_OBJECT
        views, facts = [], {}
        for name in "ab":
            Image.fromarray(np.full((12, 16, 3), 100, dtype=np.uint8)).save(root / f"{name}.png")
            Image.fromarray(mask).save(root / f"{name}_mask.png")
            views.append(View(name, root / f"{name}.png", root / f"{name}_mask.png", 16, 12, K, w2c, held_out=True))
            pixels = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(render / f"{name}.png")
            np.savez_compressed(render / f"{name}_depth.npz", depth=np.full((12, 16), 2, dtype=np.float32))
            places = {"colour": f"{name}.png", "depth": f"{name}_depth.npz"}
            facts[name] = {**places, "seen_in_training": False, "K": K.tolist()}
        save_scene(Scene(root, "t/s", tuple(views), Similarity.identity()))
        content = {"views": facts, "behind": 0.5, "exposure": "affine"}
        (render / "render.json").write_text(json.dumps(content))
        trimesh.creation.icosphere(subdivisions=1).export(folder / "truth.ply")
        return sorted(path for pattern in patterns for path in render.glob(pattern))

    return make


def read_rendered(folder: Path) -> Any:
    """The evaluation of rendered views."""
    from nsr.config import Config
    from nsr.evaluate.views import Truth, evaluate_views_stage

    truth = Truth(folder / "truth.ply")
    return evaluate_views_stage(folder / "render", folder / "scene", folder / "views.json", Config(), truth)


def make_checkpoint(folder: Path) -> list[Path]:
    """A checkpoint."""
    import torch

    from nsr.train.checkpoint import CHECKPOINT_VERSION, save_checkpoint

    content = {"identity": {"settings": "x", "data": "y"}, "step": 5, "model": {"weight": torch.zeros(4)}}
    save_checkpoint({"version": CHECKPOINT_VERSION, **content}, folder / "last.pt")
    return [folder / "last.pt"]


def read_checkpoint(folder: Path) -> None:
    """What a training would go on from, as it was saved; a checkpoint that it passes over counts as refused."""
    import torch

    from nsr.train.checkpoint import find_resumable

    found = find_resumable(folder / "last.pt", {"settings": "x", "data": "y"}, torch.device("cpu"))
    if found is None:
        raise DataError("not resumed")
    assert found["step"] == 5 and torch.equal(found["model"]["weight"], torch.zeros(4)), "another state than was saved"
