"""The name of a back end in the settings becomes one that kernels know."""

import pytest
import torch

from nsr.kernels import backend


@pytest.mark.parametrize(
    ("device", "usable", "meant"),
    [("cpu", True, "reference"), ("cpu", False, "reference"), ("cuda", True, "triton"), ("cuda", False, "reference")],
)
def test_auto_is_triton_where_it_runs_on_a_gpu(monkeypatch, device, usable, meant):
    monkeypatch.setattr(backend, "triton_usable", lambda _: usable)
    assert backend.resolve_backend("auto", torch.device(device)) == meant


@pytest.mark.parametrize("name", ["reference", "triton", "tcnn", "nerfacc"])
def test_an_explicit_name_stays(name):
    assert backend.resolve_backend(name, torch.device("cpu")) == name
