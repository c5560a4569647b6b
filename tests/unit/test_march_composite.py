"""Marching and compositing against loops over rays and samples."""

import math

import numpy as np
import torch

from nsr.kernels.composite import composite, transmittance_weights
from nsr.kernels.march import march
from nsr.kernels.march.reference import ball_interval
from nsr.kernels.packed import Packed
from nsr.losses import distortion


def rays(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    origin = torch.nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=1) * 2.5
    aim = torch.randn(count, 3, generator=generator) * 0.6
    return origin, torch.nn.functional.normalize(aim - origin, dim=1)


def test_march_matches_a_loop():
    origin, direction = rays(40)
    occupied = torch.rand(8, 8, 8, generator=torch.Generator().manual_seed(5)) < 0.4
    jitter = torch.rand(40, generator=torch.Generator().manual_seed(6))
    step = 0.07
    samples = march(origin, direction, occupied, step=step, jitter=jitter)
    expected_t, expected_ray = [], []
    for ray in range(40):
        o, d = origin[ray].numpy().astype(float), direction[ray].numpy().astype(float)
        along = -o @ d
        square = along**2 - o @ o + 1
        if square <= 0:
            continue
        near, far = max(0, along - math.sqrt(square)), along + math.sqrt(square)
        i = 0
        while (t := near + (i + float(jitter[ray])) * step) < far:
            i += 1
            cell = np.clip(((o + t * d + 1) * 4).astype(int), 0, 7)
            if occupied[tuple(cell)]:
                expected_t.append(t)
                expected_ray.append(ray)
    assert samples.packed.ray.tolist() == expected_ray
    np.testing.assert_allclose(samples.t, expected_t, atol=2e-6)
    assert samples.packed.counts.sum() == len(expected_t)
    assert (samples.packed.counts == 0).any(), "the case of rays without samples must be covered"


def test_ball_interval_of_misses_and_inside():
    origin = torch.tensor([[0.0, 0, 0], [0, 0, -3], [0, 2, -3], [0, 0, 3]])
    direction = torch.tensor([[0.0, 0, 1]] * 4)
    near, far = ball_interval(origin, direction)
    torch.testing.assert_close(near[:2], torch.tensor([0.0, 2.0]))
    torch.testing.assert_close(far[:2], torch.tensor([1.0, 4.0]))
    assert far[2] < near[2], "a ray beside the ball"
    assert far[3] < 0, "a ray that leaves the ball behind"


def ragged(seed=0):
    counts = torch.tensor([3, 0, 5, 1, 0, 7])
    alpha = torch.rand(16, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return Packed.from_counts(counts), alpha


def naive_weights(alpha, packed):
    out = []
    for start, count in zip(packed.starts.tolist(), packed.counts.tolist(), strict=True):
        passed = torch.ones((), dtype=alpha.dtype)
        for a in alpha[start : start + count]:
            out.append(passed * a)
            passed = passed * (1 - a)
    return torch.stack(out)


def test_weights_and_their_gradient_on_ragged_rays():
    packed, alpha = ragged()
    alpha.requires_grad_()
    ours, naive = transmittance_weights(alpha, packed), naive_weights(alpha, packed)
    torch.testing.assert_close(ours, naive)
    pull = torch.randn(16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(torch.autograd.grad(ours, alpha, pull)[0], torch.autograd.grad(naive, alpha, pull)[0])


def test_weights_of_opaque_and_clear_samples():
    packed = Packed.from_counts(torch.tensor([3]))
    weights = transmittance_weights(torch.tensor([0.0, 1.0, 1.0]), packed)
    torch.testing.assert_close(weights, torch.tensor([0.0, 1.0, 0.0]), atol=1e-9, rtol=0)


def test_weights_of_many_rays_keep_their_precision():
    # One running sum serves all rays: late rays must not lose digits to the early ones.
    counts = torch.full((3000,), 100)
    packed = Packed.from_counts(counts)
    alpha = torch.full((300_000,), 0.9)
    alpha[-100:] = 0.01
    last = transmittance_weights(alpha, packed)[-100:]
    torch.testing.assert_close(last.double(), 0.01 * 0.99 ** torch.arange(100, dtype=torch.float64), rtol=1e-4, atol=0)


def test_composite_sums_each_ray():
    packed, alpha = ragged(2)
    values = torch.randn(16, 4, dtype=torch.float64)
    out = composite(alpha, values, packed)
    for ray, (start, count) in enumerate(zip(packed.starts.tolist(), packed.counts.tolist(), strict=True)):
        torch.testing.assert_close(out[ray], (alpha[start : start + count, None] * values[start : start + count]).sum(0))


def test_nothing_to_composite():
    packed = Packed.from_counts(torch.zeros(3, dtype=torch.int64))
    weights = transmittance_weights(torch.zeros(0), packed)
    assert composite(weights, torch.zeros(0, 2), packed).tolist() == [[0, 0]] * 3
    assert distortion(weights, torch.zeros(0), 0.1, packed).tolist() == [0, 0, 0]


def test_distortion_is_the_double_sum():
    packed, weights = ragged(3)
    t = torch.cat([torch.sort(torch.rand(int(c), dtype=torch.float64))[0] for c in packed.counts])
    ours = distortion(weights, t, 0.1, packed)
    for ray, (start, count) in enumerate(zip(packed.starts.tolist(), packed.counts.tolist(), strict=True)):
        w, x = weights[start : start + count], t[start : start + count]
        expected = (w[:, None] * w * (x[:, None] - x).abs()).sum() + (w**2).sum() * 0.1 / 3
        torch.testing.assert_close(ours[ray], expected)
