"""Settings of the stages from a source to a prepared scene; part of `nsr.config`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass
class SfmConfig:
    """Structure from motion (pycolmap) and its health gate."""

    camera_model: str = "SIMPLE_RADIAL"  # COLMAP name
    single_camera: bool = True  # all photos share one set of intrinsics
    max_image_size: int = 1600  # px, longest side for feature extraction
    max_features: int = 8192  # per photo
    first_octave: int = -1  # -1: upsample once (more features), 0: faster
    matcher: Literal["exhaustive", "sequential"] = "exhaustive"
    min_registered: float = 0.8  # gate: share of the photos in the largest model
    max_reprojection: float = 1.5  # gate: mean reprojection error, px
    min_spread: float = 20.0  # gate: largest angle between two viewing directions of the object, degrees


@dataclass
class PrepareConfig:
    """From a source to the one scene format."""

    max_size: int = 0  # px, longest side after preparation; 0 keeps the size
    region: Literal["auto", "format", "masks", "points", "cameras"] = "auto"  # what the unit ball is fitted to
    region_margin: float = 1.05  # radius of the unit ball over the radius of what it must hold
    holdout_every: int = 8  # every n-th view is held out; 0 holds out none
    alpha_background: float = 1.0  # grey level in [0, 1] under transparent pixels


@dataclass
class TriangulateConfig:
    """Sparse points for `train.loss.points`: triangulated with the scene's cameras where it came without, then filtered."""

    split: Literal["train", "all"] = "train"  # photographs used; "all" lets those of held-out views shape the surface
    max_image_size: int = 1600  # px, longest side for feature extraction
    max_features: int = 8192  # per photo
    first_octave: int = -1  # -1: upsample once (more features), 0: faster
    peak_threshold: float = 0.002  # contrast of a feature; COLMAP's 0.0067 finds few on smooth surfaces
    neighbours: int = 12  # photographs that each one is matched with, nearest by direction first
    max_pair_angle: float = 60.0  # degrees between two cameras, seen from the region's centre, that are still matched
    max_epipolar: float = 2.0  # px, between a feature and the epipolar line of its match
    max_ratio: float = 0.8  # of the descriptors' distances, best match over the next one near the line
    max_reprojection: float = 1.0  # px, mean of a point
    min_angle: float = 3.0  # degrees, largest angle between two lines of sight of a point
    min_track: int = 3  # photographs that see a point
