"""The name of a back end in the settings becomes one that kernels know."""

import pytest
import torch

from nsr.errors import BackendUnavailable
from nsr.kernels import backend, gpu


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


@pytest.fixture
def no_interpreter(monkeypatch):
    """As on a machine that compiles the kernels; the answers remembered for the interpreter are forgotten before and after."""
    monkeypatch.setattr(gpu, "interpreted", lambda: False)
    gpu._obstacle.cache_clear()
    yield monkeypatch
    gpu._obstacle.cache_clear()


@pytest.mark.parametrize(("capability", "refused"), [((6, 1), True), ((7, 5), True), ((8, 0), False), ((9, 0), False)])
def test_gpus_older_than_ampere_are_named(no_interpreter, capability, refused):
    pytest.importorskip("triton", reason="triton is not installed")
    no_interpreter.setattr(torch.cuda, "is_available", lambda: True)
    no_interpreter.setattr(torch.cuda, "get_device_capability", lambda *_: capability)
    no_interpreter.setattr(torch.cuda, "get_device_name", lambda *_: "Old GPU")
    device = torch.device("cuda", 0)
    assert gpu.triton_usable(device) is not refused
    if refused:
        with pytest.raises(BackendUnavailable, match=rf"Old GPU has compute capability {capability[0]}\.{capability[1]}.*Ampere"):
            gpu.require_triton(device)


def test_the_cpu_is_no_place_for_compiled_kernels(no_interpreter):
    pytest.importorskip("triton", reason="triton is not installed")
    with pytest.raises(BackendUnavailable, match="needs a CUDA GPU, the device is 'cpu'; use device=cuda, or backend=reference"):
        gpu.require_triton(torch.device("cpu"))
