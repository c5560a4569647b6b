"""The hash encoding against a slow twin that follows the paper corner by corner."""

import itertools
import math

import pytest
import torch

from nsr.errors import BackendUnavailable
from nsr.kernels.hashgrid import HashGridSpec, hash_encode

SPECS = [HashGridSpec(4, 2, 8, 3, 24), HashGridSpec(3, 1, 6, 2, 16), HashGridSpec(2, 4, 12, 4, 8), HashGridSpec(1, 2, 5, 9, 9)]


def naive_encode(x, table, spec):
    """One position, one level, one corner at a time (Mueller et al. 2022, section 3)."""
    rows = []
    for point in x:
        features = []
        for level in range(spec.levels):
            growth = 1.0 if spec.levels == 1 else (spec.finest / spec.base) ** (1 / (spec.levels - 1))
            scale = spec.base * growth**level - 1
            side = math.ceil(round(scale, 9)) + 1
            size = min((side**3 + 7) // 8 * 8, 2**spec.log2_table)
            total = torch.zeros(spec.features, dtype=x.dtype)
            position = [float(point[d]) * scale + 0.5 for d in range(3)]
            cell = [math.floor(p) for p in position]
            for corner in itertools.product((0, 1), repeat=3):
                i, j, k = (cell[d] + corner[d] for d in range(3))
                if side**3 <= size:
                    index = (i + j * side + k * side * side) % size
                else:
                    index = ((i * 1) ^ (j * 2654435761) ^ (k * 805459861)) % 2**32 % size
                weight = math.prod(position[d] - cell[d] if corner[d] else 1 - position[d] + cell[d] for d in range(3))
                total = total + weight * table[spec.offsets[level] + index]
            features.append(total)
        rows.append(torch.cat(features))
    return torch.stack(rows)


def positions(spec):
    generator = torch.Generator().manual_seed(1)
    random = torch.rand(12, 3, generator=generator, dtype=torch.float64)
    # Corners of the cube, a vertex of the coarsest level and points on its cell borders.
    special = torch.tensor([[0.0, 0, 0], [1, 1, 1], [0, 1, 0.5]], dtype=torch.float64)
    border = torch.full((1, 3), 0.5 / max(spec.scales[0], 1), dtype=torch.float64)
    return torch.cat([random, special, border])


@pytest.mark.parametrize("spec", SPECS)
def test_values_and_table_gradient_match_the_naive_twin(spec):
    table = torch.randn(
        spec.entries, spec.features, dtype=torch.float64, generator=torch.Generator().manual_seed(2), requires_grad=True
    )
    x = positions(spec)
    ours, naive = hash_encode(x, table, spec), naive_encode(x, table, spec)
    torch.testing.assert_close(ours, naive, rtol=1e-12, atol=1e-12)
    pull = torch.randn(ours.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    (got,) = torch.autograd.grad(ours, table, pull)
    (expected,) = torch.autograd.grad(naive, table, pull)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


def test_inactive_levels_are_zero_and_get_no_gradient():
    spec = SPECS[0]
    table = torch.randn(spec.entries, 2, requires_grad=True)
    encoded = hash_encode(torch.rand(20, 3), table, spec, active=2)
    assert encoded.shape == (20, 8)
    assert (encoded[:, 4:] == 0).all()
    assert (encoded[:, :4] != 0).any()
    encoded.sum().backward()
    assert (table.grad[spec.offsets[2] :] == 0).all()


def test_layout_of_the_usual_grid_has_the_published_size():
    # 13 969 152 parameters at base 32: the number that tiny-cuda-nn reports for instant-nsr-pl's grid.
    spec = HashGridSpec(16, 2, 19, 32, 2048)
    assert spec.entries * 2 == 13_969_152
    assert sum(spec.dense) == 4
    assert spec.resolutions[0] == 32
    assert spec.resolutions[-1] == 2048


def test_no_samples():
    spec = SPECS[0]
    table = torch.zeros(spec.entries, 2, requires_grad=True)
    encoded = hash_encode(torch.zeros(0, 3), table, spec)
    assert encoded.shape == (0, 8)
    encoded.sum().backward()
    assert (table.grad == 0).all()


def test_wrong_shapes_and_unknown_back_end_are_named():
    spec = SPECS[0]
    with pytest.raises(ValueError, match=r"table \(5, 2\)"):
        hash_encode(torch.zeros(4, 3), torch.zeros(5, 2), spec)
    with pytest.raises(BackendUnavailable, match="hash_encode: no back end 'cuda-magic' here; available: reference"):
        hash_encode(torch.zeros(4, 3), torch.zeros(spec.entries, 2), spec, backend="cuda-magic")
