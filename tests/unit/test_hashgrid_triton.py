"""The hash encoding in Triton against the reference in float64: interpreted on the CPU, compiled where there is a GPU."""

from types import SimpleNamespace

import pytest
import torch

from nsr.kernels.hashgrid import HashGridSpec, TableStorage, hash_encode, reference

pytest.importorskip("triton", reason="triton is not installed")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
FEATURES = pytest.mark.parametrize("features", [1, 2, 4, 8])
# Scales 3, 7, 15, 31 and 63: two dense levels, three hashed ones; x = 1/2 lies on a cell border of each of them.
LEVELS, LOG2_TABLE, BASE, FINEST = 5, 9, 4, 64
TOLERANCE = {"rtol": 2e-4, "atol": 2e-4}


@pytest.fixture
def kernels():
    """The module under test, imported where Triton is known to be there."""
    from nsr.kernels.hashgrid import triton

    return triton


def grid(features=2):
    spec = HashGridSpec(LEVELS, features, LOG2_TABLE, BASE, FINEST)
    assert 0 < sum(spec.dense) < spec.levels
    return spec, normal(1, spec.entries, features)


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def positions(samples=37):
    """Random points, corners of the cube, and points on the borders of cells."""
    special = torch.tensor([[0.0, 0, 0], [1, 1, 1], [0, 1, 0.5], [0.5, 0.5, 0.5], [0.5, 0.2, 1]])
    random = torch.rand(samples - len(special), 3, generator=torch.Generator().manual_seed(2))
    return torch.cat([special, random]).to(DEVICE)


def number(value):
    return torch.tensor([value], dtype=torch.int32, device=DEVICE)


def exact(x, table, spec, active, pull):
    """Encoding (S, L F) and pulled slope (S, 3) by the reference in float64; `pull` is (S, L F)."""
    corners = reference.find_corners(x.double(), spec, active)
    planes = reference.gather_planes(table, corners.index)
    rows = pull[:, : active * spec.features].T.reshape(active, spec.features, -1).transpose(0, 1)
    slope = reference.pulled_slope(planes, rows, corners.fraction, corners.scale).T
    return reference.interpolate(planes, corners.fraction, spec), slope


def close(got, expected, **tolerance):
    torch.testing.assert_close(got.double(), expected.double(), **(tolerance or TOLERANCE))


def relative(got, expected):
    """Largest error over the largest value."""
    got, expected = got.detach().double(), expected.detach().double()
    return float((got - expected).abs().max() / expected.abs().max())


@FEATURES
@pytest.mark.parametrize("active", [1, LEVELS])
def test_values_and_table_gradient(kernels, features, active):
    spec, table = grid(features)
    x, weight = positions(), normal(3, 37, LEVELS * features)
    ours, true = table.clone().requires_grad_(), table.double().requires_grad_()
    encoded = kernels.encode(x, ours, spec, active)
    expected, _ = exact(x, true, spec, active, weight.double())
    close(encoded, expected)
    assert (encoded[:, active * features :] == 0).all()
    (encoded * weight).sum().backward()
    (expected * weight).sum().backward()
    close(ours.grad, true.grad)
    assert (ours.grad[spec.offsets[active] :] == 0).all()
    assert (ours.grad[: spec.offsets[active]] != 0).any()


@FEATURES
@pytest.mark.parametrize("active", [2, LEVELS])
def test_slope_and_its_gradients(kernels, features, active):
    spec, table = grid(features)
    x, push = positions(), normal(4, 37, 3)
    ours, true = table.clone().requires_grad_(), table.double().requires_grad_()
    pull = normal(5, 37, LEVELS * features)
    our_pull, true_pull = pull.clone().requires_grad_(), pull.double().requires_grad_()
    slope = kernels.pulled_slope(x, ours, our_pull, spec, active)
    _, expected = exact(x, true, spec, active, true_pull)
    assert relative(slope, expected) < 1e-5
    (slope * push).sum().backward()
    (expected * push).sum().backward()
    assert relative(ours.grad, true.grad) < 1e-5
    assert relative(our_pull.grad, true_pull.grad) < 1e-5
    assert (our_pull.grad[:, active * features :] == 0).all()
    assert (ours.grad[spec.offsets[active] :] == 0).all()


def test_the_door_leads_here_and_takes_levels_from_the_device():
    spec, table = grid()
    x = positions()
    expected = hash_encode(x, table, spec, active=3)
    close(hash_encode(x, table, spec, active=number(3), backend="triton"), expected)
    close(hash_encode(x, table, spec, active=3, backend="triton"), expected)


@pytest.mark.parametrize("samples", [0, 1, 300])
def test_numbers_of_samples(kernels, samples):
    spec, table = grid()
    table.requires_grad_()
    x = torch.rand(samples, 3, generator=torch.Generator().manual_seed(6)).to(DEVICE)
    pull = normal(7, samples, 2 * LEVELS).requires_grad_()
    encoded, slope = kernels.encode(x, table, spec, 2), kernels.pulled_slope(x, table, pull, spec, 2)
    expected, true_slope = exact(x, table.detach().double(), spec, 2, pull.detach().double())
    close(encoded, expected)
    close(slope, true_slope)
    (encoded.sum() + slope.sum()).backward()
    assert table.grad.shape == table.shape
    assert pull.grad.shape == pull.shape
    assert bool((table.grad != 0).any()) == (samples > 0)


@FEATURES
def test_jacobian(kernels, features):
    spec, table = grid(features)
    x, active = positions(21), 3
    cube = kernels.UNIT_FRAME
    options = {"active": number(active), "count": number(21)}
    value, jacobian = kernels.gather(2 * x - 1, table, spec, cube, jacobian=True, **options)
    expected, _ = exact(x, table.double(), spec, active, normal(0, 21, LEVELS * features).double())
    close(value.T, expected)
    assert jacobian.dtype == torch.float16
    for row in range(active * features):
        pull = torch.zeros(21, LEVELS * features, dtype=torch.float64, device=DEVICE)
        pull[:, row] = 1
        _, slope = exact(x, table.double(), spec, active, pull)
        # Half of it: the unit frame is twice as long as the unit cube. Ten bits of mantissa.
        close(jacobian[:, row].T, slope / 2, rtol=1e-3, atol=1e-3)
    assert (jacobian[:, active * features :] == 0).all()
    without, none = kernels.gather(2 * x - 1, table, spec, cube, jacobian=False, **options)
    assert torch.equal(without, value)
    assert none.numel() == 0


def test_jacobian_is_the_quotient_of_differences(kernels):
    spec, table = grid()
    # Well inside a cell of every level in use: the interpolant is linear along each axis there.
    x = torch.tensor([[0.3, 0.28, 0.72], [0.41, 0.69, 0.13]], device=DEVICE)
    options = {"active": number(2), "count": number(2)}
    _, jacobian = kernels.gather(x, table, spec, kernels.UNIT_CUBE, jacobian=True, **options)
    for axis in range(3):
        shift = 0.01 * torch.eye(3, device=DEVICE)[axis]
        ahead, behind = (
            kernels.gather(x + s, table, spec, kernels.UNIT_CUBE, jacobian=False, **options)[0] for s in (shift, -shift)
        )
        close(jacobian[axis], (ahead - behind) / 0.02, rtol=2e-3, atol=2e-2)


@FEATURES
@pytest.mark.parametrize("active", [2, LEVELS])
def test_scatter_is_the_adjoint_of_gather(kernels, features, active):
    spec, table = grid(features)
    x, samples = positions(), 37
    grad, pull, push = normal(8, LEVELS * features, samples), normal(9, LEVELS * features, samples), normal(10, 3, samples)
    options = {"active": number(active), "count": number(samples)}
    value_only, both = torch.zeros_like(table), torch.zeros_like(table)
    kernels.scatter(2 * x - 1, grad, spec, kernels.UNIT_FRAME, sink=value_only, **options)
    kernels.scatter(2 * x - 1, grad, spec, kernels.UNIT_FRAME, sink=both, pull=pull, push=push, **options)
    true = table.double().requires_grad_()
    encoded, slope = exact(x, true, spec, active, pull.T.double())
    (first,) = torch.autograd.grad((encoded * grad.T).sum(), true, retain_graph=True)
    (second,) = torch.autograd.grad((slope * push.T).sum() / 2, true)
    close(value_only, first)
    assert relative(both, first + second) < 1e-5
    assert (both[spec.offsets[active] :] == 0).all()


def test_strides_of_the_gradient_do_not_matter(kernels):
    spec, table = grid()
    x, grad, push = positions(), normal(11, 37, 2 * LEVELS), normal(12, 37, 3)
    options = {"active": number(3), "count": number(37), "pull": normal(13, 2 * LEVELS, 37)}
    across, along = torch.zeros_like(table), torch.zeros_like(table)
    kernels.scatter(x, grad.T, spec, kernels.UNIT_CUBE, sink=across, push=push.T, **options)
    kernels.scatter(x, grad.T.contiguous(), spec, kernels.UNIT_CUBE, sink=along, push=push.T.contiguous(), **options)
    close(across, along, rtol=1e-5, atol=1e-5)


def test_rows_past_the_count_are_neither_written_nor_read(kernels, monkeypatch):
    spec, table = grid()
    x, count = positions(300), 40
    options = {"active": number(3), "count": number(count)}
    marked = SimpleNamespace(
        float16=torch.float16, empty=lambda *shape, **kind: torch.full(shape, float("nan"), **kind)
    )  # fmt: skip
    with monkeypatch.context() as patch:
        patch.setattr(kernels, "torch", marked)
        value, jacobian = kernels.gather(x, table, spec, kernels.UNIT_CUBE, jacobian=True, **options)
    # The last block in use is filled up with zeros.
    end = 256
    assert value[:, end:].isnan().all()
    assert jacobian[:, :, end:].isnan().all()
    assert (value[:, count:end] == 0).all()
    assert (jacobian[:, :, count:end] == 0).all()
    assert value[:, :count].isfinite().all()
    assert jacobian[:, :, :count].isfinite().all()
    grad, pull, push = normal(14, 2 * LEVELS, 300), normal(15, 2 * LEVELS, 300), normal(16, 3, 300)
    expected, sink = torch.zeros_like(table), torch.zeros_like(table)
    short = {"active": number(3), "count": number(count), "pull": pull[:, :count].contiguous(), "push": push[:, :count]}
    kernels.scatter(x[:count].contiguous(), grad[:, :count], spec, kernels.UNIT_CUBE, sink=expected, **short)
    grad[:, count:], pull[:, count:], push[:, count:], x[count:] = (float("nan"),) * 4
    kernels.scatter(x, grad, spec, kernels.UNIT_CUBE, sink=sink, pull=pull, push=push, **options)
    close(sink, expected, rtol=1e-5, atol=1e-5)
    encoded = kernels.encode(x, table.requires_grad_(), spec, 3, count=number(count))
    encoded.backward(grad.T)
    assert table.grad.isfinite().all()


@pytest.mark.parametrize("features", [1, 2, 8])
def test_half_storage(kernels, features):
    spec, table = grid(features)
    x, pull, weight = positions(), normal(17, 37, LEVELS * features), normal(18, 37, LEVELS * features)
    storage = TableStorage(table.half(), torch.zeros_like(table))
    parameter = table.clone().requires_grad_()
    our_pull = pull.clone().requires_grad_()
    encoded = kernels.encode(x, parameter, spec, LEVELS, storage)
    slope = kernels.pulled_slope(x, parameter, our_pull, spec, LEVELS, storage)
    # Of the same halves the result is exact; against the float32 table it has their rounding, 2^-11 of an entry.
    rounded, rounded_slope = exact(x, table.half().double(), spec, LEVELS, pull.double())
    close(encoded, rounded)
    assert relative(slope, rounded_slope) < 1e-5
    true, true_pull = table.double().requires_grad_(), pull.double().requires_grad_()
    expected, expected_slope = exact(x, true, spec, LEVELS, true_pull)
    close(encoded, expected, rtol=0, atol=float(table.abs().max()) * 2**-11)
    assert relative(slope, expected_slope) < 2e-3
    ((encoded * weight).sum() + slope.sum()).backward()
    ((expected * weight).sum() + expected_slope.sum()).backward()
    assert parameter.grad is None
    # The table's gradient does not depend on the table.
    assert relative(storage.gradient, true.grad) < 1e-5
    assert relative(our_pull.grad, true_pull.grad) < 2e-3


def test_the_sink_accumulates(kernels):
    spec, table = grid()
    table.requires_grad_()
    x, weight, pull = positions(), normal(19, 37, 2 * LEVELS), normal(20, 37, 2 * LEVELS)
    storage = TableStorage(table.detach(), torch.zeros_like(table, requires_grad=False))
    (kernels.encode(x, table, spec, 3, storage) * weight).sum().backward()
    first = storage.gradient.clone()
    (kernels.encode(x, table, spec, 3, storage) * weight).sum().backward()
    close(storage.gradient, 2 * first)
    kernels.pulled_slope(x, table, pull, spec, 3, storage).sum().backward()
    assert table.grad is None
    true = table.detach().double().requires_grad_()
    encoded, slope = exact(x, true, spec, 3, pull.double())
    ((2 * encoded * weight).sum() + slope.sum()).backward()
    assert relative(storage.gradient, true.grad) < 1e-5


@pytest.mark.parametrize("active", [2, LEVELS])
def test_a_table_of_halves_has_the_same_derivatives(kernels, active):
    """Two kernels: halves are read in pairs, floats one by one."""
    spec, table = grid()
    table = table.half()
    options = {"active": number(active), "count": number(37), "jacobian": True}
    x = 2 * positions() - 1
    halves = kernels.gather(x, table, spec, kernels.UNIT_FRAME, **options)
    floats = kernels.gather(x, table.float(), spec, kernels.UNIT_FRAME, **options)
    close(halves[0], floats[0], rtol=1e-5, atol=1e-5)
    close(halves[1], floats[1], rtol=2e-3, atol=2e-3)
    assert (halves[0][active * 2 :] == 0).all()
    assert (halves[1][:, active * 2 :] == 0).all()


def test_samples_that_stay_in_a_cell_are_added_up(kernels):
    """Three rays of small steps, one of which stands still; a run of samples crosses from one ray into the next."""
    spec, table = grid()
    ends = torch.rand(3, 2, 3, generator=torch.Generator().manual_seed(5))
    ends[1, 1] = ends[1, 0]
    t = torch.linspace(0, 1, 33)[:, None]
    x = torch.cat([start + (end - start) * t for start, end in ends]).to(DEVICE)
    grad, pull, push = normal(21, 2 * LEVELS, len(x)), normal(22, 2 * LEVELS, len(x)), normal(23, 3, len(x))
    sink = torch.zeros_like(table)
    options = {"active": number(LEVELS), "count": number(len(x) - 2), "pull": pull, "push": push}
    kernels.scatter(x, grad, spec, kernels.UNIT_CUBE, sink=sink, **options)
    true = table.double().requires_grad_()
    encoded, slope = exact(x[:-2], true, spec, LEVELS, pull.T[:-2].double())
    ((encoded * grad.T[:-2]).sum() + (slope * push.T[:-2]).sum()).backward()
    assert relative(sink, true.grad) < 1e-5
