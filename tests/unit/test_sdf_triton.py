"""The SDF core in Triton against the reference in float64: values and every gradient (interpreter, or a GPU where there is one)."""

import pytest
import torch

from nsr.errors import BackendUnavailable
from nsr.kernels.hashgrid import HashGridSpec, TableStorage
from nsr.kernels.sdf import SdfWeights, sdf_value, sdf_with_gradient
from nsr.kernels.sdf import reference as plain

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
# Derivatives of the encoding are kept in half precision; products on a GPU run in tf32, backward in bfloat16.
VALUE, NORMAL, GRADIENT = (1e-4, 2e-3, 2e-2) if DEVICE.type == "cuda" else (2e-6, 2e-3, 2e-3)


def problem(features, hidden, out, samples=70, levels=3):
    generator = torch.Generator().manual_seed(samples)
    spec = HashGridSpec(levels, features, 8, 4, 32)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(DEVICE)

    width = 3 + levels * features
    values = [draw(spec.entries, features) * 0.1, draw(hidden, width) * 0.3, draw(hidden) * 0.1, draw(1 + out, hidden) * 0.2]
    x = (torch.rand(samples, 3, generator=generator, dtype=torch.float64) * 2 - 1).to(DEVICE)
    return spec, x, [*values, draw(1 + out)], draw(samples), draw(samples, out)


def evaluated(backend, spec, x, values, to_sdf, to_features, **options):
    kind = torch.float64 if backend == "reference" else torch.float32
    table, *net = [value.to(kind).requires_grad_() for value in values]
    out = sdf_with_gradient(x.to(kind), table, spec, SdfWeights(*net, 20.0), backend=backend, **options)
    loss = (out.sdf * to_sdf).sum() + (out.features * to_features).sum() + ((out.gradient.norm(dim=1) - 1) ** 2).sum()
    return [part.detach().double() for part in (*out, *torch.autograd.grad(loss, [table, *net]))]


def distance(found, expected):
    return float((found - expected).norm() / expected.norm().clamp(min=1e-12))


@pytest.mark.parametrize(("features", "hidden", "out"), [(2, 32, 7), (2, 64, 15), (1, 32, 0), (4, 32, 3), (2, 16, 4)])
def test_values_and_every_gradient(features, hidden, out):
    given = problem(features, hidden, out)
    found, expected = evaluated("triton", *given, active=2), evaluated("reference", *given, active=2)
    limits = [VALUE, VALUE if DEVICE.type == "cpu" else 2e-3, NORMAL] + [GRADIENT] * 5
    for name, one, other, limit in zip(
        ("sdf", "features", "gradient", "table", "W1", "b1", "W2", "b2"), found, expected, limits, strict=True
    ):
        if other.numel():
            assert distance(one, other) < limit, name


def test_value_alone_agrees_with_value_and_gradient():
    spec, x, values, *_ = problem(2, 32, 7)
    table, *net = [value.float() for value in values]
    net = SdfWeights(*net, 20.0)
    sdf, features = sdf_value(x.float(), table, spec, net, active=3, backend="triton")
    both = sdf_with_gradient(x.float(), table, spec, net, active=3, backend="triton")
    torch.testing.assert_close(sdf, both.sdf)
    torch.testing.assert_close(features, both.features)
    exact, _ = plain.value(x, table.double(), spec, SdfWeights(*(part.double() for part in net[:4]), 20.0), 3)
    assert distance(sdf.double(), exact) < VALUE


def test_positions_past_the_count_are_neither_read_nor_written():
    spec, x, values, to_sdf, to_features = problem(2, 32, 7)
    used = 33
    short = evaluated("triton", spec, x[:used], values, to_sdf[:used], to_features[:used])
    poisoned = torch.cat([x[:used], torch.full_like(x[used:], torch.nan)])
    table, *net = [value.float().requires_grad_() for value in values]
    count = torch.tensor([used], dtype=torch.int32, device=DEVICE)
    out = sdf_with_gradient(poisoned.float(), table, spec, SdfWeights(*net, 20.0), count=count, backend="triton")
    loss = (out.sdf[:used] * to_sdf[:used]).sum() + (out.features[:used] * to_features[:used]).sum()
    loss = loss + ((out.gradient[:used].norm(dim=1) - 1) ** 2).sum()
    for one, other in zip(torch.autograd.grad(loss, [table, *net]), short[3:], strict=True):
        assert distance(one.double(), other) < GRADIENT


def test_storage_is_read_and_collects_gradients():
    spec, x, values, to_sdf, to_features = problem(2, 32, 7)
    storage = TableStorage(values[0].half(), torch.zeros_like(values[0], dtype=torch.float32))
    expected = evaluated("triton", spec, x, [values[0].half().double(), *values[1:]], to_sdf, to_features)
    table = torch.full_like(values[0], torch.nan).float().requires_grad_()  # must not be read
    net = [value.float().requires_grad_() for value in values[1:]]
    for _ in range(2):
        out = sdf_with_gradient(x.float(), table, spec, SdfWeights(*net, 20.0), storage=storage, backend="triton")
        loss = (out.sdf * to_sdf).sum() + (out.features * to_features).sum() + ((out.gradient.norm(dim=1) - 1) ** 2).sum()
        loss.backward()
    assert table.grad is None
    assert distance(out.sdf.detach().double(), expected[0]) < VALUE
    assert distance(storage.gradient.double(), 2 * expected[3]) < GRADIENT


def test_no_samples():
    given = problem(2, 32, 7, samples=70)
    spec, x, values, *_ = given
    found = evaluated("triton", spec, x[:0], values, given[3][:0], given[4][:0])
    assert [len(part) for part in found[:3]] == [0, 0, 0]
    assert all(float(part.abs().max()) == 0 for part in found[3:])


def test_tiny_cuda_nn_has_no_closed_form():
    spec, x, values, *_ = problem(2, 32, 7)
    table, *net = values
    with pytest.raises(BackendUnavailable, match=r"model\.sdf\.normals=finite_difference"):
        sdf_with_gradient(x, table, spec, SdfWeights(*net, 20.0), backend="tcnn")
