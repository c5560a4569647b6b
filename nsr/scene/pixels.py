"""How much of the object a pixel covers."""

from __future__ import annotations

import numpy as np

from nsr.conventions import camera_centres
from nsr.scene.scene import Scene


def pixel_width(scene: Scene, downscale: int = 1) -> float:
    """Width of a pixel of the shrunk views at the distance of the region's centre, unit-frame length; the median view's."""
    centres = camera_centres(scene.unit_w2c(scene.views))
    focal = [view.shrunk(downscale)[0][0, 0] for view in scene.views]
    return float(np.median(np.linalg.norm(centres, axis=1) / focal))
