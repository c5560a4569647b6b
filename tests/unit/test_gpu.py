"""On a GPU: the same values and gradients as on the CPU, and a training run. Marked `gpu`; skipped where there is none."""

import pytest
import torch

from nsr.kernels.composite import composite, transmittance_weights
from nsr.kernels.hashgrid import HashGridSpec
from nsr.kernels.march import march
from nsr.kernels.packed import Packed
from nsr.kernels.sdf import SdfWeights, sdf_with_gradient

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")]


def test_sdf_core_matches_the_cpu_in_double_precision():
    spec = HashGridSpec(8, 2, 14, 8, 256)
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    values = [draw(spec.entries, 2), draw(64, 19), draw(64), draw(14, 64), draw(14)]
    x = torch.rand(5000, 3, dtype=torch.float64, generator=generator) * 2 - 1
    results = []
    for device in ("cpu", "cuda"):
        table, *net = [v.to(device).requires_grad_() for v in values]
        out = sdf_with_gradient(x.to(device), table, spec, SdfWeights(*net, 20.0))
        loss = out.sdf.square().mean() + out.features.mean() + (out.gradient.norm(dim=1) - 1).square().mean()
        results.append([*out, *torch.autograd.grad(loss, [table, *net])])
    for on_cpu, on_gpu in zip(*results, strict=True):
        torch.testing.assert_close(on_gpu.cpu(), on_cpu, rtol=1e-9, atol=1e-9)


def test_march_and_composite_match_the_cpu():
    generator = torch.Generator().manual_seed(1)
    origin = torch.nn.functional.normalize(torch.randn(3000, 3, generator=generator), dim=1) * 2
    direction = torch.nn.functional.normalize(torch.randn(3000, 3, generator=generator) * 0.4 - origin, dim=1)
    occupied = torch.rand(32, 32, 32, generator=generator) < 0.3
    jitter = torch.rand(3000, generator=generator)
    here = march(origin, direction, occupied, step=0.01, jitter=jitter)
    there = march(origin.cuda(), direction.cuda(), occupied.cuda(), step=0.01, jitter=jitter.cuda())
    # Midpoints within rounding of a cell's border may fall to either side.
    assert abs(len(here.t) - len(there.t)) <= 1e-4 * len(here.t)
    packed = Packed.from_counts(torch.randint(0, 50, (2000,), generator=generator))
    alpha = torch.rand(int(packed.counts.sum()), generator=generator) * 0.3
    values = torch.rand(len(alpha), 3, generator=generator)
    on_gpu = Packed(*(part.cuda() for part in packed))
    weights = transmittance_weights(alpha.cuda(), on_gpu)
    torch.testing.assert_close(weights.cpu(), transmittance_weights(alpha, packed), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(
        composite(weights, values.cuda(), on_gpu).cpu(), composite(weights.cpu(), values, packed), rtol=1e-4, atol=1e-5
    )


def test_training_runs_and_its_model_loads_on_the_cpu(tmp_path):
    from nsr.train.loop import train_scene
    from nsr.train.model_file import load_model
    from tests.unit.training_scene import quick_config, sphere_scene

    scene = sphere_scene(tmp_path / "scene")
    summary = train_scene(scene, quick_config(steps=150), tmp_path / "out", torch.device("cuda"))
    assert summary["device"] == torch.cuda.get_device_name()
    assert summary["peak_memory_mb"] > 0
    trained = load_model(tmp_path / "out" / "model.pt", torch.device("cpu"))
    # The sphere of radius 0.6 of the synthetic scene, after a few steps from radius 0.5.
    radii = torch.linspace(0.3, 0.9, 61)
    values = trained.sdf(torch.stack([radii, torch.zeros(61), torch.zeros(61)], dim=1))
    crossing = radii[(values > 0).nonzero()[0, 0]]
    assert 0.55 < crossing < 0.65


@pytest.fixture()
def four_gigabytes():
    """A limit of torch's for this process, as a small card has."""
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(4e9 / total)
    yield torch.device("cuda")
    torch.cuda.set_per_process_memory_fraction(1.0)


def test_a_card_without_room_for_a_step_gets_a_smaller_one(tmp_path, four_gigabytes, caplog):
    """No error is made up: the allocator itself has no more."""
    from nsr.train.loop import train_scene
    from tests.unit.training_scene import quick_config, sphere_scene

    config = quick_config(samples=1 << 26, start_rays=256, max_rays=512, steps=20)
    summary = train_scene(sphere_scene(tmp_path / "scene"), config, tmp_path, four_gigabytes)
    assert summary["steps"] == 20 and 8192 <= summary["samples_a_step"] < 1 << 26
    assert "too little for train.samples=67108864" in caplog.text
    assert summary["peak_memory_mb"] < 4000


def test_memory_that_another_takes_in_the_middle_of_training_halves_the_step(tmp_path, four_gigabytes, monkeypatch, caplog):
    from nsr.train import loop
    from nsr.train.memory import free_bytes
    from tests.unit.training_scene import quick_config, sphere_scene

    step, taken, needs = loop.training_step, [], []

    def crowded(*arguments, **options):
        if len(needs) == 4 and not taken:
            torch.cuda.empty_cache()
            room = free_bytes(four_gigabytes) - int(0.6 * max(needs))
            taken.append(torch.empty(room, dtype=torch.uint8, device=four_gigabytes))
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        result = step(*arguments, **options)
        needs.append(torch.cuda.max_memory_allocated() - before)
        return result

    monkeypatch.setattr(loop, "training_step", crowded)
    config = quick_config(samples=1 << 19, start_rays=8192, max_rays=8192, steps=12, backend="reference")
    summary = loop.train_scene(sphere_scene(tmp_path / "scene"), config, tmp_path, four_gigabytes)
    assert taken and summary["steps"] == 12
    assert [shortage["step"] for shortage in summary["shortages"]][:1] == [5]
    assert summary["samples_a_step"] <= 1 << 18
    assert "step 5: GPU memory ran out; trying again" in caplog.text
