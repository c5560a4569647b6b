"""How fine the hash grid is, by the photographs: cells much smaller than a pixel can only hold noise."""

from __future__ import annotations

from dataclasses import replace

from nsr.config import Config
from nsr.log import get_logger
from nsr.scene.pixels import pixel_width
from nsr.scene.scene import Scene


def with_detail(config: Config, scene: Scene) -> Config:
    """The settings with `model.encoding.finest_resolution` for this scene, as `model.encoding.cells_per_pixel` says.

    Never finer than the setting and never coarser than `model.encoding.base_resolution`; the settings themselves where
    `cells_per_pixel` is 0.
    """
    encoding = config.model.encoding
    if encoding.cells_per_pixel == 0:
        return config
    width = pixel_width(scene)
    finest = max(encoding.base_resolution, min(encoding.finest_resolution, round(encoding.cells_per_pixel * 2.0 / width)))
    get_logger().info("finest cells: %d on a side of the region, %.2f pixels wide", finest, 2.0 / finest / width)
    return replace(config, model=replace(config.model, encoding=replace(encoding, finest_resolution=finest)))
