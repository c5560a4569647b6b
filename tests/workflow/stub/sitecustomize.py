"""Put on PYTHONPATH by the workflow's tests: a stage program then only writes the files it is known to write.

So rules, parameters, hashes and the metadata of a finished run are real, and a whole run takes seconds. Calls are listed in
`calls.txt`. The file `faults.json` says what goes wrong: {"train posed": "hang"} or "fail"; {"report": "real"} runs the program itself.
"""

import json
import os
import sys
import time
from pathlib import Path

BESIDE = {
    "sfm": ["sfm.json", "sparse/0/cameras.bin", "sparse/0/images.bin", "sparse/0/points3D.bin"],
    "prepare": ["scene.json"],
    "triangulate": ["points.npz", "points.json"],
    "train": ["model.pt", "train.json", "metrics.jsonl"],
    "render": ["render.json"],
    "texture": ["texture.json", *(f"textured.{suffix}" for suffix in ("glb", "obj", "mtl", "jpg", "ply"))],
    "report": ["index.html", "summary.md", "summary.tex"],
    "preflight": ["index.html", "preflight.json"],
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
    if stage == "preflight":
        facts = {"scene": "/".join(out.parts[1:3]), "verdict": "ok", "findings": [], "views": 3, "costs": []}
        (out / "preflight.json").write_text(json.dumps(facts))
    if stage == "report":
        (out / "summary.tsv").write_text("dataset\tscene\tmethod\tsurface\tstatus\tchamfer\nmain\tposed\tnsr\tmesh\tok\t0.25\n")


def name_of(stage: str, arguments: list[str]) -> str:
    """Stage, scene and, for an evaluation, the surface."""
    parts = Path(arguments[arguments.index("--out") + 1]).parts
    scene = parts[2:3] if parts[0] == "results" else ()
    return " ".join([stage, *scene, *([Path(parts[-1]).stem] if stage == "evaluate_mesh" else [])])


def go_wrong(stage: str, arguments: list[str], fault: str) -> None:
    """Write half a file and wait for the kill, or say in the log why the stage cannot be done."""
    out = Path(arguments[arguments.index("--out") + 1])
    if fault == "hang":
        out.mkdir(parents=True, exist_ok=True)
        (out / BESIDE[stage][0]).write_text("half")
        Path("hanging").write_text(str(os.getpid()))
        time.sleep(600)
    Path(arguments[arguments.index("--log") + 1]).write_text("12:00:00 ERROR the photographs show nothing; take others\n")
    os._exit(2)


for place, word in enumerate(sys.orig_argv):
    path = Path(word)
    if path.suffix == ".py" and path.parent.name == "scripts":
        call, given = name_of(path.stem, sys.orig_argv[place + 1 :]), sys.orig_argv[place + 1 :]
        faults = json.loads(Path("faults.json").read_text()) if Path("faults.json").is_file() else {}
        if faults.get(call) == "real":
            break
        if call in faults:
            go_wrong(path.stem, given, faults[call])
        write_outputs(path.stem, given)
        with open("calls.txt", "a") as calls:
            calls.write(call + "\n")
        os._exit(0)
