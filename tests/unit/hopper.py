"""Run as a program: what is compiled before the first step, for a Hopper GPU that is not there; prints it as JSON.

A stand-in for the driver names the GPU; Triton compiles for it, and nothing can be launched.
"""

import json
import sys
import time
from pathlib import Path
from unittest.mock import patch

import torch

from nsr.fields.model import SurfaceModel
from nsr.kernels import gpu
from nsr.kernels.ahead import compile_ahead
from nsr.rendering.volume import background_colour, render_samples
from nsr.sampling.occupancy import OccupancyGrid
from nsr.train.graph import GraphTrainer
from nsr.train.patch import load_patches
from tests.unit.graph_settings import ancestors, patches, photographs, pixel_store, tiny_config

CPU = torch.device("cpu")


class Driver:
    """As much of a driver as compilation asks for."""

    def get_current_device(self):
        return 0

    def get_current_stream(self, device):
        return 0

    def get_current_target(self):
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", 90, 32)


def stand_in():
    from triton.runtime import driver

    driver.set_active(Driver())
    gpu._obstacle = lambda kind, index: ""


def full_of_garbage(*size, **options):
    """Memory as a kernel that is not launched leaves it, at its worst for indices and sums."""
    out = torch.zeros(*size, **options)
    return out.fill_(float("nan") if out.is_floating_point() else torch.iinfo(out.dtype).max if out.dtype != torch.bool else True)


def rehearsed(scene, kind):
    """Names of the kernels a rehearsal asks for, without compiling them, and whether it left everything as it was."""
    from triton.runtime.jit import JITFunction

    recipes = {"ancestors": lambda: ancestors(tiny_config("random")), "photographs": lambda: photographs(tiny_config("learned"))}
    config = recipes.get(kind, lambda: patches(tiny_config(kind)))()
    pixels = pixel_store(scene, CPU)
    seen = None if kind in recipes else load_patches(scene, scene.split("train"), pixels, config.train.patch)
    model = SurfaceModel(config.model, torch.Generator().manual_seed(1), "triton", views=len(pixels.tables.starts))
    parts = model, OccupancyGrid(8, CPU), pixels, config.train, CPU
    names, graphs, preload, empty = set(), [], JITFunction.preload, torch.empty

    def everything():
        graph = graphs[0]
        saved = graph.state()
        grids, live = list(graph.occupancy.state().values()), [saved["live"], saved["seen"], graph.step, graph.active]
        return [t.detach().clone() for t in [*model.parameters(), *live, *sum(saved["tables"], []), *grids]]

    JITFunction.preload = lambda kernel, data: names.add(f"{kernel.fn.__module__}.{kernel.fn.__name__}")
    try:
        compile_ahead(lambda: graphs.append(GraphTrainer(*parts, patches=seen)), CPU)
        before = everything()
        torch.empty = full_of_garbage
        compile_ahead(graphs[0].rehearse, CPU)
    finally:
        JITFunction.preload, torch.empty = preload, empty
    same = all(torch.equal(one, other) for one, other in zip(everything(), before, strict=True))
    return {"kernels": sorted(names), "same": same and not graphs[0].optimizer.state and not graphs[0].facts}


def compiled():
    """Two kernels compiled, then asked for again."""
    from nsr.kernels.points import points_in_ball, points_in_cells
    from nsr.kernels.points.triton import _in_ball

    step, out = torch.zeros(1, dtype=torch.int32), torch.ones(64, 3)

    def use():
        points_in_ball(out, seed=1, step=step, backend="triton")
        points_in_ball(out, seed=2, step=step, backend="triton")
        points_in_cells(torch.arange(8), 2, seed=1, step=step, backend="triton")

    counts = [compile_ahead(use, CPU) for _ in range(2)]
    (kernel,) = _in_ball.device_caches[0][0].values()
    return {"counts": counts, "untouched": bool((out == 1).all()), "binary": len(kernel.asm["cubin"])}


def compiled_after_a_failure():
    """Compilations of a kernel that Triton refuses the first time, and of one that it always refuses."""
    from triton import CompilationError
    from triton.runtime.jit import JITFunction

    from nsr.kernels.points import points_in_ball

    step, tries, preload = torch.zeros(1, dtype=torch.int32), [], JITFunction.preload

    def refusing(times):
        def again(kernel, data):
            tries.append(kernel)
            if len(tries) <= times:
                raise CompilationError("source", None, "injected")
            return preload(kernel, data)

        return again

    found = []
    for times, count in ((1, 63), (9, 1)):  # sizes that Triton specialises apart
        tries.clear()
        with patch.object(JITFunction, "preload", refusing(times)):
            try:
                compile_ahead(lambda size=count: points_in_ball(torch.ones(size, 3), seed=1, step=step, backend="triton"), CPU)
                found.append([len(tries), ""])
            except CompilationError as error:
                found.append([len(tries), str(error)])
    return found


def single():
    """Kernels of rendering, and of its gradients, compiled for one ray with one sample: Triton makes constants of sizes of 1."""
    from nsr.kernels.march import Samples
    from nsr.kernels.packed import Packed

    config = photographs(tiny_config("learned"))
    model = SurfaceModel(config.model, torch.Generator().manual_seed(1), "triton", views=1)
    view = torch.zeros(1, dtype=torch.int64)
    origin, direction = torch.tensor([[0.0, 0.0, -2.0]]), torch.tensor([[0.0, 0.0, 1.0]])
    samples = Samples(torch.full((1,), 1.5), Packed.from_counts(torch.ones(1, dtype=torch.int64)))

    def render():
        behind = background_colour(model, origin, direction, None, view)
        out = render_samples(
            model, origin, direction, samples, step=0.1, cosine_ratio=1.0, background=behind, view=view
        )  # fmt: skip
        (out.colour.sum() + out.sdf.sum() + out.gradient.sum()).backward()

    return compile_ahead(render, CPU)


def single_parsed_slowly():
    """What `single` compiles; how often a kernel is parsed for it, and by how many threads at once, at most."""
    from triton.runtime.jit import JITFunction

    parse, inside, seen = JITFunction.parse, [], []

    def slowly(kernel):
        inside.append(kernel)
        seen.append(len(inside))
        time.sleep(0.01)
        inside.pop()
        return parse(kernel)

    with patch.object(JITFunction, "parse", slowly):
        count = single()
        restored = JITFunction.parse is slowly
    return {"single": count, "parsed": {"times": len(seen), "at once": max(seen), "restored": restored}}


if __name__ == "__main__":
    stand_in()
    from nsr.scene.scene import load_scene

    read = load_scene(Path(sys.argv[1]))
    json.dump(
        {
            **{kind: rehearsed(read, kind) for kind in sys.argv[2:]},
            "compiled": compiled(),
            "refused": compiled_after_a_failure(),
            **single_parsed_slowly(),
        },
        sys.stdout,
    )
