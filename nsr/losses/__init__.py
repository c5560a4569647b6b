"""Loss terms: pure functions of tensors, unreduced (one number per ray, sample or point) unless said otherwise."""

from nsr.kernels.neus.reference import distortion
from nsr.losses.image import colour_huber, colour_l1, colour_mse, mask_entropy, opaque_entropy
from nsr.losses.shape import curvature, eikonal, sparsity, zero_level

__all__ = [
    "colour_huber",
    "colour_l1",
    "colour_mse",
    "curvature",
    "distortion",
    "eikonal",
    "mask_entropy",
    "opaque_entropy",
    "sparsity",
    "zero_level",
]
