"""Signed distance, geometry features and closed-form gradient of a hash grid followed by one hidden layer."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from nsr.kernels.backend import choose
from nsr.kernels.hashgrid.spec import HashGridSpec
from nsr.kernels.sdf import reference
from nsr.kernels.sdf.reference import SdfWeights

__all__ = ["SdfOutput", "SdfWeights", "sdf_value", "sdf_with_gradient"]


class SdfOutput(NamedTuple):
    """`sdf` (S,), `features` (S, G), `gradient` (S, 3) of the SDF by the unit-frame position."""

    sdf: Tensor
    features: Tensor
    gradient: Tensor


def sdf_value(
    x: Tensor, table: Tensor, spec: HashGridSpec, net: SdfWeights, *, active: int | None = None, backend: str = "reference"
) -> tuple[Tensor, Tensor]:
    """SDF (S,) and geometry features (S, G) at unit-frame positions x (S, 3) in [-1, 1]; see `sdf_with_gradient`."""
    run = choose("sdf_value", {"reference": reference.value}, backend)
    sdf, features = run(x, table, spec, net, spec.levels if active is None else active)
    return sdf, features


def sdf_with_gradient(
    x: Tensor, table: Tensor, spec: HashGridSpec, net: SdfWeights, *, active: int | None = None, backend: str = "reference"
) -> SdfOutput:
    """SDF, features and gradient in one evaluation.

    The network is `f = [x, encoding((x + 1) / 2)]`, `a = softplus_beta(W1 f + b1)`, `[sdf, features] = W2 a + b2`. With
    `q = W2[0] * softplus'(z)` and `v = W1^T q` the gradient is `v_x + sum over levels of J_l^T v_l`, J the encoding's
    Jacobian; its backward is of first order only, so an Eikonal loss needs no second differentiation.

    Args:
        x: (S, 3) unit frame, in [-1, 1]; not differentiated.
        table: (spec.entries, F). spec: level sizes. net: weights.
        active: active levels, from the coarsest; None: all.

    Returns:
        SdfOutput; once differentiable in `table` and `net`.
    """
    run = choose("sdf_with_gradient", {"reference": reference.value_and_gradient}, backend)
    return SdfOutput(*run(x, table, spec, net, spec.levels if active is None else active))
