"""tiny-cuda-nn and nerfacc as back ends: refusals and packing anywhere, values and training where they are installed."""

import importlib.util
import sys
from types import SimpleNamespace

import pytest
import torch

from nsr.errors import BackendUnavailable
from nsr.kernels.hashgrid import HashGridSpec, hash_encode
from nsr.kernels.march import march, nerfacc_adapter
from nsr.kernels.mlp import mlp
from nsr.kernels.mlp.tcnn import pack
from nsr.kernels.sdf import SdfWeights
from nsr.kernels.sdf import reference as sdf_reference
from nsr.kernels.sdf import tcnn as sdf_tcnn
from nsr.kernels.tcnn import Native, evaluate, gradient_factor

SPEC = HashGridSpec(8, 2, 14, 8, 200)


def needs(package):
    """Marks of a test that runs this package on a GPU."""

    def mark(test):
        there = importlib.util.find_spec(package) is not None
        test = pytest.mark.skipif(not there, reason=f"{package} is not installed")(test)
        return pytest.mark.gpu(pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")(test))

    return mark


def rays(count, generator):
    origin = torch.nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=1) * 2
    aim = torch.randn(count, 3, generator=generator) * 0.4
    return origin, torch.nn.functional.normalize(aim - origin, dim=1)


def layers(sizes, generator):
    pairs = zip(sizes[:-1], sizes[1:], strict=True)
    return [torch.randn(b, a, generator=generator) * (2 / a) ** 0.5 for a, b in pairs]


def gradients(outputs, inputs, seed=7):
    """Gradients of a fixed random combination of the outputs, on the CPU."""
    generator = torch.Generator().manual_seed(seed)
    weighted = [(out * torch.randn(out.shape, generator=generator).to(out.device)).sum() for out in outputs]
    return [grad.cpu() for grad in torch.autograd.grad(sum(weighted), inputs)]


def assert_near(found, expected, share):
    """Root mean square of the difference within a share of that of the expected values.

    The largest difference measures nothing here: rounding turns single ReLU units on or off, and with them the gradients of
    single samples.
    """
    assert found.shape == expected.shape
    assert (found - expected).norm() <= share * expected.norm()


@pytest.mark.parametrize("operation", ["hash_encode", "mlp", "sdf"])
def test_missing_tinycudann_says_what_to_install(monkeypatch, operation):
    monkeypatch.setitem(sys.modules, "tinycudann", None)
    x, table = torch.rand(4, 3), torch.zeros(SPEC.entries, 2)
    net = SdfWeights(torch.zeros(16, 19), torch.zeros(16), torch.zeros(5, 16), torch.zeros(5), 100.0)
    calls = {
        "hash_encode": lambda: hash_encode(x, table, SPEC, backend="tcnn"),
        "mlp": lambda: mlp(x, [torch.zeros(16, 3), torch.zeros(3, 16)], [None, None], backend="tcnn"),
        "sdf": lambda: sdf_tcnn.value(x, table, SPEC, net, SPEC.levels),
    }
    with pytest.raises(BackendUnavailable, match=r"tinycudann is not installed; build it as environment\.yml says"):
        calls[operation]()


def test_tinycudann_that_cannot_be_loaded_gives_the_reason(monkeypatch, tmp_path):
    (tmp_path / "tinycudann.py").write_text("raise EnvironmentError('no extension for compute capability 42')\n")
    monkeypatch.delitem(sys.modules, "tinycudann", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(BackendUnavailable, match="cannot be loaded .no extension for compute capability 42."):
        hash_encode(torch.rand(4, 3), torch.zeros(SPEC.entries, 2), SPEC, backend="tcnn")


def test_missing_nerfacc_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "nerfacc", None)
    origin, direction = rays(4, torch.Generator().manual_seed(0))
    occupied = torch.ones(8, 8, 8, dtype=torch.bool)
    with pytest.raises(BackendUnavailable, match="nerfacc is not installed; pip install 'nerfacc"):
        march(origin, direction, occupied, step=0.1, jitter=torch.zeros(4), backend="nerfacc")


def test_tcnn_networks_refuse_biases():
    weights = [torch.zeros(16, 3), torch.zeros(3, 16)]
    with pytest.raises(BackendUnavailable, match=r"set model\.radiance\.bias=false"):
        mlp(torch.rand(4, 3), weights, [None, torch.zeros(3)], backend="tcnn")


def test_reference_network_without_biases_is_one_with_zeros():
    generator = torch.Generator().manual_seed(0)
    weights, x = layers([5, 16, 16, 3], generator), torch.randn(20, 5, generator=generator)
    zeros = [torch.zeros(len(weight)) for weight in weights]
    assert torch.equal(mlp(x, weights, [None] * 3), mlp(x, weights, zeros))


@pytest.mark.parametrize("sizes", [[35, 64, 64, 3], [5, 16, 20], [7, 3]])
def test_packed_weights_are_the_padded_matrices(sizes):
    """What tiny-cuda-nn does with the vector, in torch: inputs padded with ones, outputs cut."""
    generator = torch.Generator().manual_seed(1)
    weights = [weight.requires_grad_() for weight in layers(sizes, generator)]
    x = torch.randn(30, sizes[0], generator=generator)
    padded = [-(-sizes[0] // 16) * 16, *sizes[1:-1], -(-sizes[-1] // 16) * 16]
    flat = pack(weights, padded[0], padded[-1])
    matrices, at = [], 0
    for columns, rows in zip(padded[:-1], padded[1:], strict=True):
        matrices.append(flat[at : at + rows * columns].reshape(rows, columns))
        at += rows * columns
    assert at == len(flat)
    filled = torch.nn.functional.pad(x, (0, padded[0] - sizes[0]), value=1.0)
    none = [None] * len(weights)
    expected = mlp(x, weights, none)
    found = mlp(filled, matrices, none)[:, : sizes[-1]]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    for ours, theirs in zip(gradients([found], weights), gradients([expected], weights), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


class HalfProduct:
    """Stands in for a native module: `x * params` in half precision, on whole blocks of 256 rows."""

    def fwd(self, x, params):
        assert len(x) and len(x) % 256 == 0
        self.marked = x.requires_grad, params.requires_grad
        return None, x.half() * params

    def bwd(self, context, x, params, out, grad):
        assert grad.dtype == torch.float16
        to_x = (grad * params).float() if x.requires_grad else None
        return to_x, (grad * x.half()).sum(0) if params.requires_grad else None


@pytest.mark.parametrize("size", [1e-9, 1.0, 1e9])
@pytest.mark.parametrize("samples", [0, 1, 256, 300])
def test_gradients_of_any_size_pass_through_half_precision(size, samples):
    generator = torch.Generator().manual_seed(2)
    x = torch.rand(samples, 4, generator=generator).requires_grad_()
    params = torch.rand(4, generator=generator).requires_grad_()
    out = evaluate(Native(HalfProduct(), torch.float16), x, params)
    assert out.dtype == torch.float32
    assert out.shape == (samples, 4)
    to_out = torch.rand(samples, 4, generator=generator) * size
    to_x, to_params = torch.autograd.grad(out, [x, params], to_out)
    torch.testing.assert_close(to_x, to_out * params.detach(), rtol=3e-3, atol=0)
    torch.testing.assert_close(to_params, (to_out * x.detach()).sum(0), rtol=3e-3, atol=0)


def test_evaluation_asks_for_no_gradient_where_none_is_wanted():
    module, params = HalfProduct(), torch.rand(4).requires_grad_()
    evaluate(Native(module, torch.float16), torch.rand(5, 4), params)
    assert module.marked == (False, True)
    with torch.no_grad():
        evaluate(Native(module, torch.float16), torch.rand(5, 4), params)
    assert module.marked == (False, False)


def test_gradient_factor_of_nothing_and_of_infinity():
    assert gradient_factor(torch.zeros(5, 2)).isfinite()
    # Infinity stays visible to the watchdog instead of being scaled away.
    grad = torch.tensor([[float("inf")], [1.0]])
    assert not (grad * gradient_factor(grad)).isfinite().all()


@needs("tinycudann")
@pytest.mark.parametrize("active", [8, 5])
def test_tcnn_grid_matches_the_reference(active):
    generator = torch.Generator().manual_seed(3)
    table = torch.rand(SPEC.entries, 2, generator=generator) * 2 - 1
    x = torch.rand(3000, 3, generator=generator)
    results = []
    for backend in ("reference", "tcnn"):
        parameter = table.cuda().requires_grad_()
        out = hash_encode(x.cuda(), parameter, SPEC, active=active, backend=backend)
        results.append((out.detach().cpu(), *gradients([out], [parameter])))
    for expected, found in zip(*results, strict=True):
        assert_near(found, expected, 5e-3)  # half precision has 11 bits; coarse entries add up some fifty samples
    assert not results[1][0][:, 2 * active :].any()
    assert not results[1][1][SPEC.offsets[active] :].any()


@needs("tinycudann")
def test_tcnn_sdf_matches_the_reference():
    generator = torch.Generator().manual_seed(4)
    shapes = [(SPEC.entries, 2), (64, 19), (64,), (14, 64), (14,)]
    values = [torch.rand(shape, generator=generator) - 0.5 for shape in shapes]
    x = torch.rand(3000, 3, generator=generator) * 2 - 1
    results = []
    for module in (sdf_reference, sdf_tcnn):
        table, *net = [value.cuda().requires_grad_() for value in values]
        out = module.value(x.cuda(), table, SPEC, SdfWeights(*net, 100.0), 6)
        results.append([*(part.detach().cpu() for part in out), *gradients(out, [table, *net])])
    for expected, found in zip(*results, strict=True):
        assert_near(found, expected, 1e-2)


@needs("tinycudann")
@pytest.mark.parametrize("sizes", [[32, 64, 64, 3], [35, 16, 3], [19, 128, 128, 128, 20], [9, 48, 5], [9, 5]])
@pytest.mark.parametrize("samples", [1000, 0])
def test_tcnn_network_matches_the_reference(sizes, samples):
    """Fully fused widths, one that is not, and a network without hidden layers."""
    generator = torch.Generator().manual_seed(5)
    weights, x = layers(sizes, generator), torch.randn(samples, sizes[0], generator=generator)
    results = []
    for backend in ("reference", "tcnn"):
        inputs = [value.cuda().requires_grad_() for value in (x, *weights)]
        out = mlp(inputs[0], inputs[1:], [None] * len(weights), backend=backend)
        results.append((out.detach().cpu(), *gradients([out], inputs)))
    values, found = (result[0] for result in results)
    assert_near(found, values, 5e-3)
    for expected, found in zip(results[0][1:], results[1][1:], strict=True):
        assert_near(found, expected, 8e-2)  # torch in half precision, on the CPU, is off by up to 3e-2


@needs("tinycudann")
def test_tcnn_refuses_a_network_of_uneven_widths():
    weights = [torch.zeros(16, 3).cuda(), torch.zeros(32, 16).cuda(), torch.zeros(3, 32).cuda()]
    with pytest.raises(BackendUnavailable, match="equal widths"):
        mlp(torch.rand(4, 3).cuda(), weights, [None] * 3, backend="tcnn")


def assert_same_march(device, count, resolution, step):
    generator = torch.Generator().manual_seed(6)
    origin, direction = (part.to(device) for part in rays(count, generator))
    origin[: count // 8] *= 0.2  # cameras inside the ball
    occupied = (torch.rand(resolution, resolution, resolution, generator=generator) < 0.3).to(device)
    jitter = torch.rand(count, generator=generator).to(device)
    expected = march(origin, direction, occupied, step=step, jitter=jitter)
    found = march(origin, direction, occupied, step=step, jitter=jitter, backend="nerfacc")
    assert (expected.packed.counts == 0).any(), "the case of rays without samples must be covered"
    ours, theirs = ({*zip(s.packed.ray.tolist(), s.t.tolist(), strict=True)} for s in (expected, found))
    # The package's midpoints drift by up to some hundredths of a step, so that a few next to a cell's border change sides.
    assert len(ours ^ theirs) <= 5e-3 * len(ours)
    assert len(theirs) == len(found.t), "no sample twice"


def walk(origin, direction, binaries, aabbs, *, near_planes, far_planes, step_size):
    """nerfacc's rule in a loop: steps added up in float32 from the near plane on, kept where their middle is in a full cell."""
    assert aabbs.tolist() == [[-1, -1, -1, 1, 1, 1]]
    size, vals, owner = binaries.shape[1], [], []
    step = torch.tensor(step_size)
    for ray in range(len(origin)):
        t = near_planes[ray]
        while (middle := t + step / 2) < far_planes[ray]:
            cell = ((origin[ray] + middle * direction[ray] + 1) * (size / 2)).long().clamp(0, size - 1)
            if binaries[0][tuple(cell)]:
                vals.append(middle)
                owner.append(ray)
            t = t + step
    owner = torch.tensor(owner)
    counts = torch.bincount(owner, minlength=len(origin))
    info = torch.stack([counts.cumsum(0) - counts, counts], dim=1)
    return None, SimpleNamespace(vals=torch.stack(vals), ray_indices=owner, packed_info=info), None


def test_nerfacc_is_called_so_that_its_samples_are_those_of_the_reference(monkeypatch):
    monkeypatch.setattr(nerfacc_adapter, "require_nerfacc", lambda device: SimpleNamespace(traverse_grids=walk))
    assert_same_march("cpu", 40, 8, 0.02)


@needs("nerfacc")
def test_nerfacc_march_matches_the_reference():
    assert_same_march("cuda", 4000, 32, 2 * 3**0.5 / 1024)


@needs("nerfacc")
@pytest.mark.parametrize("case", ["no rays", "nothing occupied", "all rays miss"])
def test_nerfacc_march_without_samples(case):
    count = 0 if case == "no rays" else 50
    origin, direction = (part.cuda() for part in rays(count, torch.Generator().manual_seed(7)))
    occupied = torch.full((16, 16, 16), case != "nothing occupied", device="cuda")
    direction = -direction if case == "all rays miss" else direction
    found = march(origin, direction, occupied, step=0.01, jitter=torch.zeros(count, device="cuda"), backend="nerfacc")
    assert found.t.shape == (0,)
    assert found.packed.counts.tolist() == [0] * count


@needs("tinycudann")
@needs("nerfacc")
def test_training_on_both_finds_the_sphere(tmp_path):
    from nsr.train.loop import train_scene
    from nsr.train.model_file import load_model
    from tests.unit.training_scene import quick_config, sphere_scene

    config = quick_config(steps=300)
    config.model.sdf.normals, config.model.radiance.bias = "finite_difference", False
    config.train.backend, config.train.march.backend = "tcnn", "nerfacc"
    scene = sphere_scene(tmp_path / "scene")
    train_scene(scene, config, tmp_path / "out", torch.device("cuda"))
    trained = load_model(tmp_path / "out" / "model.pt", torch.device("cuda"))
    radii = torch.linspace(0.3, 0.9, 61)
    values = trained.sdf(torch.stack([radii, torch.zeros(61), torch.zeros(61)], dim=1).cuda()).cpu()
    crossing = radii[(values > 0).nonzero()[0, 0]]
    assert 0.55 < crossing < 0.65
