"""Sparse Adam: both back ends, against torch's AdamW where every entry has a gradient."""

import pytest
import torch

from nsr.kernels.adam import AdamSettings, AdamState, adam_step

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SETTINGS = AdamSettings((0.9, 0.99), 1e-15, 0.01)


def steps(backend, gradients, start):
    parameter = start.clone()
    state = AdamState(torch.zeros_like(start), torch.zeros_like(start))
    copy = parameter.half()
    rate = torch.tensor([0.01], device=DEVICE)
    for number, gradient in enumerate(gradients):
        gradient = gradient.clone()
        step = torch.tensor([number], dtype=torch.int32, device=DEVICE)
        adam_step(parameter, gradient, state, copy, rate=rate, step=step, settings=SETTINGS, backend=backend)
        assert not gradient.any()
        torch.testing.assert_close(copy, parameter.half())
    return parameter, state


def problem(share):
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(1300, 2, generator=generator).to(DEVICE)
    gradients = []
    for _ in range(4):
        gradient = torch.randn(1300, 2, generator=generator) * 1e-6
        gradients.append((gradient * (torch.rand(1300, 2, generator=generator) < share)).to(DEVICE))
    return gradients, start


@pytest.mark.parametrize("backend", ["reference", "triton"])
def test_dense_gradients_give_adamw(backend):
    gradients, start = problem(2.0)
    parameter, _ = steps(backend, gradients, start)
    expected = start.clone().requires_grad_()
    optimizer = torch.optim.AdamW([expected], lr=0.01, betas=SETTINGS.betas, eps=SETTINGS.eps, weight_decay=SETTINGS.weight_decay)
    for gradient in gradients:
        expected.grad = gradient.clone()
        optimizer.step()
    torch.testing.assert_close(parameter, expected.detach(), rtol=1e-5, atol=1e-6)


def test_untouched_entries_stay_and_back_ends_agree():
    gradients, start = problem(0.3)
    never = torch.stack([gradient == 0 for gradient in gradients]).all(0)
    assert 100 < never.sum() < 2000
    results = [steps(backend, gradients, start) for backend in ("reference", "triton")]
    for parameter, state in results:
        assert torch.equal(parameter[never], start[never])
        assert not state.mean[never].any()
        assert not state.square[never].any()
    torch.testing.assert_close(results[1][0], results[0][0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(results[1][1].square, results[0][1].square, rtol=1e-5, atol=0)
