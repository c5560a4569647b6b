"""Put on PYTHONPATH by the workflow's tests: a stage program then only writes the files it is known to write.

So rules, parameters, hashes and the metadata of a finished run are real, and a whole run takes seconds.
"""

import json
import os
import sys
from pathlib import Path

BESIDE = {
    "sfm": ["sfm.json", "sparse/0/cameras.bin", "sparse/0/images.bin", "sparse/0/points3D.bin"],
    "prepare": ["scene.json"],
    "triangulate": ["points.npz", "points.json"],
    "train": ["model.pt", "train.json", "metrics.jsonl"],
    "render": ["render.json"],
    "texture": ["texture.json", *(f"textured.{suffix}" for suffix in ("glb", "obj", "mtl", "jpg", "ply"))],
    "report": ["index.html", "summary.md", "summary.tex"],
}


def write_outputs(stage: str, arguments: list[str]) -> None:
    """Write what `stage` writes, the call in each file, under or beside `--out`."""
    out = Path(arguments[arguments.index("--out") + 1])
    if stage in BESIDE:
        files = [out / name for name in BESIDE[stage]]
    else:
        files = [out] + {"mesh": [out.with_suffix(".json")], "tsdf": [out.with_suffix(".json")]}.get(stage, [])
        files += [out.with_suffix(".npz")] if stage == "evaluate_mesh" else []
    call = json.dumps({"stage": stage, "arguments": arguments})
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(call)
    if stage == "report":
        (out / "summary.tsv").write_text("dataset\tscene\tmethod\tsurface\tstatus\tchamfer\nmain\tposed\tnsr\tmesh\tok\t0.25\n")


for place, word in enumerate(sys.orig_argv):
    path = Path(word)
    if path.suffix == ".py" and path.parent.name == "scripts":
        write_outputs(path.stem, sys.orig_argv[place + 1 :])
        os._exit(0)
