"""Signed distance, geometry features and closed-form gradient of a hash grid followed by one hidden layer."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

from nsr.errors import BackendUnavailable
from nsr.kernels.backend import choose
from nsr.kernels.gpu import require_triton
from nsr.kernels.hashgrid.spec import HashGridSpec
from nsr.kernels.hashgrid.storage import TableStorage
from nsr.kernels.sdf import reference
from nsr.kernels.sdf.reference import SdfWeights

__all__ = ["SdfOutput", "SdfWeights", "sdf_value", "sdf_with_gradient"]


class SdfOutput(NamedTuple):
    """`sdf` (S,), `features` (S, G), `gradient` (S, 3) of the SDF by the unit-frame position."""

    sdf: Tensor
    features: Tensor
    gradient: Tensor


def sdf_value(
    x: Tensor,
    table: Tensor,
    spec: HashGridSpec,
    net: SdfWeights,
    *,
    active: int | Tensor | None = None,
    storage: TableStorage | None = None,
    count: Tensor | None = None,
    features: bool = True,
    backend: str = "reference",
) -> tuple[Tensor, Tensor]:
    """SDF (S,) and geometry features (S, G) at unit-frame positions x (S, 3) in [-1, 1]; see `sdf_with_gradient`.

    `features`: whether these are wanted; if not they may have no columns.
    """
    run = choose("sdf_value", {"reference": _reference_value, "triton": _triton_value, "tcnn": _tcnn_value}, backend)
    active = spec.levels if active is None else active
    sdf, columns = run(x, table, spec, net, active, storage, count=count, features=features)
    return sdf, columns


def sdf_with_gradient(
    x: Tensor,
    table: Tensor,
    spec: HashGridSpec,
    net: SdfWeights,
    *,
    active: int | Tensor | None = None,
    storage: TableStorage | None = None,
    count: Tensor | None = None,
    backend: str = "reference",
) -> SdfOutput:
    """SDF, features and gradient in one evaluation.

    The network is `f = [x, encoding((x + 1) / 2)]`, `a = softplus_beta(W1 f + b1)`, `[sdf, features] = W2 a + b2`. With
    `q = W2[0] * softplus'(z)` and `v = W1^T q` the gradient is `v_x + sum over levels of J_l^T v_l`, J the encoding's
    Jacobian; its backward is of first order only, so an Eikonal loss needs no second differentiation.

    Args:
        x: (S, 3) unit frame, in [-1, 1]; not differentiated.
        table: (spec.entries, F). spec: level sizes. net: weights.
        active: active levels, from the coarsest; None: all.
        storage, count: for `triton`: where the table is read and its gradient is left; (1,) int32, positions in use, past
            which results are undefined and gradients are not read.

    Returns:
        SdfOutput; once differentiable in `table` and `net`.

    Raises:
        BackendUnavailable: see `choose`; tiny-cuda-nn has no closed-form gradient.
    """
    run = choose("sdf_with_gradient", {"reference": _reference_gradient, "triton": _triton_gradient, "tcnn": _no_tcnn}, backend)
    return SdfOutput(*run(x, table, spec, net, spec.levels if active is None else active, storage, count=count))


def _reference_value(*args: Any, **_: Any) -> tuple[Tensor, Tensor]:
    return reference.value(*args[:5])


def _reference_gradient(*args: Any, **_: Any) -> tuple[Tensor, Tensor, Tensor]:
    return reference.value_and_gradient(*args[:5])


def _triton_value(*args: Any, **options: Any) -> tuple[Tensor, Tensor]:
    require_triton(args[0].device)
    from nsr.kernels.sdf import triton

    return triton.value(*args, **options)


def _triton_gradient(*args: Any, count: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    require_triton(args[0].device)
    from nsr.kernels.sdf import triton

    return triton.value_and_gradient(*args, count=count)


def _tcnn_value(*args: Any, **_: Any) -> tuple[Tensor, Tensor]:
    from nsr.kernels.sdf import tcnn

    return tcnn.value(*args[:5])


def _no_tcnn(*_: Any, **__: Any) -> tuple[Tensor, Tensor, Tensor]:
    raise BackendUnavailable(
        "sdf_with_gradient: back end 'tcnn' has no closed-form gradient; set model.sdf.normals=finite_difference, or use "
        "backend=triton or reference"
    )
