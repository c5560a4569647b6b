"""Loss terms at points where their value is known by hand."""

import math

import pytest
import torch

from nsr.losses import colour_huber, colour_l1, colour_mse, curvature, eikonal, mask_entropy, opaque_entropy, sparsity, zero_level


def test_colour():
    rendered, observed = torch.tensor([[0.0, 0.5, 1.0]]), torch.tensor([[0.3, 0.5, 0.4]])
    assert colour_l1(rendered, observed).item() == pytest.approx(0.3)
    assert colour_mse(rendered, observed).item() == pytest.approx((0.09 + 0.36) / 3)


def test_huber_is_quadratic_to_one_and_linear_beyond():
    rendered = torch.tensor([[0.0, 0.5, 1.0], [3.0, 0.0, 0.0]], requires_grad=True)
    observed = torch.tensor([[0.3, 0.5, 0.4], [0.0, -2.0, 0.0]])
    terms = colour_huber(rendered, observed)
    torch.testing.assert_close(terms, torch.tensor([(0.09 + 0.36) / 6, (2.5 + 1.5) / 3]))
    torch.testing.assert_close(terms[0], colour_mse(rendered, observed)[0] / 2)
    torch.testing.assert_close(terms, torch.nn.functional.smooth_l1_loss(rendered, observed, reduction="none").mean(1))
    terms.sum().backward()
    torch.testing.assert_close(rendered.grad * 3, torch.tensor([[-0.3, 0.0, 0.6], [1.0, 1.0, 0.0]]))


def test_mask_entropy():
    opacity, mask = torch.tensor([0.9, 0.9, 1.0, 0.0]), torch.tensor([1.0, 0.0, 1.0, 1.0])
    expected = [-math.log(0.9), -math.log(0.1), -math.log(0.999), -math.log(0.001)]
    torch.testing.assert_close(mask_entropy(opacity, mask), torch.tensor(expected), rtol=1e-3, atol=1e-6)


def test_mask_entropy_is_binary_cross_entropy():
    opacity, mask = torch.rand(50) * 0.9 + 0.05, (torch.rand(50) > 0.5).float()
    torch.testing.assert_close(
        mask_entropy(opacity, mask), torch.nn.functional.binary_cross_entropy(opacity, mask, reduction="none")
    )


def test_opaque_entropy_is_lowest_at_the_ends():
    low, middle, high = opaque_entropy(torch.tensor([0.0, 0.5, 1.0]))
    assert middle.item() == pytest.approx(math.log(2))
    assert low < 0.01
    assert high < 0.01


def test_eikonal_and_its_gradient_at_zero():
    gradient = torch.tensor([[0.0, 0, 1], [3, 0, 4], [0, 0, 0]], requires_grad=True)
    terms = eikonal(gradient)
    torch.testing.assert_close(terms, torch.tensor([0.0, 16.0, 1.0]), atol=1e-5, rtol=1e-5)
    terms.sum().backward()
    assert gradient.grad.isfinite().all()
    torch.testing.assert_close(gradient.grad[1], torch.tensor([4.8, 0.0, 6.4]), atol=1e-5, rtol=1e-5)


def test_curvature_and_sparsity():
    assert curvature(torch.tensor([-2.0, 3.0])).tolist() == [2.0, 3.0]
    torch.testing.assert_close(sparsity(torch.tensor([0.0, -0.5]), 2.0), torch.tensor([1.0, math.exp(-1)]))


def test_zero_level_is_a_parabola_then_a_line_then_lets_go():
    sdf = torch.tensor([0.0, -0.01, 0.1, 0.5, -5.0], requires_grad=True)
    width = torch.full((5,), 0.02)
    torch.testing.assert_close(zero_level(sdf, width), torch.tensor([0.0, 0.0025, 0.09, 0.49, 4.99]))
    terms = zero_level(sdf, width, 1 / 0.1)
    torch.testing.assert_close(terms[3], torch.tensor(0.49 / 5.9))
    terms.sum().backward()
    assert sdf.grad.isfinite().all()
    assert terms.max() < 0.1, "an outlier costs less than the cutoff"
    # The pull falls with the square of the distance: 1 / (1 + h / cutoff)^2.
    torch.testing.assert_close(sdf.grad[3:], torch.tensor([1 / 5.9**2, -1 / 50.9**2]))
    torch.testing.assert_close(sdf.grad[1], torch.tensor(-0.5 / 1.025**2))
