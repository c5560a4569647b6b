"""Rendered views of a trained scene as files, each marked as trained on or not."""

from __future__ import annotations

import os
import shutil
from dataclasses import asdict
from glob import escape
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from nsr.config import RenderConfig
from nsr.log import get_logger
from nsr.provenance import check_replaceable, manifest, write_json
from nsr.rendering.render import RenderedView, render_view
from nsr.rendering.volume import plain_background
from nsr.scene.scene import Scene
from nsr.train.model_file import TrainedModel


def render_scene(trained: TrainedModel, scene: Scene, out: Path, config: RenderConfig) -> dict[str, Any]:
    """Render the views that `config.views` names into the folder `out`, which is replaced as a whole at the end.

    Returns:
        The content of `render.json`: for each view its files, size, `K` and whether it was seen in training.

    Raises:
        DataError: `out` holds other files than those of an earlier render.
    """
    views = scene.split("train" if config.views == "train" else config.views)
    check_replaceable(out, _own_names(out))
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    seen = set(trained.info["train_views"])
    facts: dict[str, Any] = {
        "scene": scene.name,
        "step": trained.info["step"],
        "downscale": config.downscale,
        "behind": backdrop(trained),
        "exposure": trained.model.config.exposure,
        "views": {},
    }
    try:
        for view, w2c in zip(views, scene.unit_w2c(views) if views else (), strict=True):
            get_logger().info("rendering %s", view.name)
            K, width, height = view.shrunk(config.downscale)
            rendered = render_view(trained, K, w2c, width, height)
            files = _write_view(partial, view.name, rendered, trained.similarity.scale)
            size = {"width": width, "height": height, "K": K.tolist()}
            facts["views"][view.name] = {**files, **size, "seen_in_training": view.name in seen}
        facts |= {"settings": asdict(config), "manifest": manifest()}
        write_json(partial / "render.json", facts)
        shutil.rmtree(out, ignore_errors=True)
        os.replace(partial, out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return facts


def _own_names(folder: Path) -> list[str]:
    """Names that an earlier render left in a folder; a folder of other pictures has none."""
    suffix = "_depth.npz"
    stems = [escape(path.name.removesuffix(suffix)) for path in folder.glob("*" + suffix)]
    return ["render.json", *(stem + end for stem in stems for end in (".png", suffix, "_normal.png"))]


def backdrop(trained: TrainedModel) -> float | None:
    """Grey level in [0, 1] behind an object trained cut out by its masks; None if the model renders whole photographs."""
    kind = trained.model.config.background.kind
    if not trained.info["masked"] or kind == "learned":
        return None
    return plain_background(kind)


def _write_view(folder: Path, name: str, rendered: RenderedView, scale: float) -> dict[str, str]:
    files = {"colour": f"{name}.png", "depth": f"{name}_depth.npz", "normal": f"{name}_normal.png"}
    Image.fromarray(_bytes(rendered.colour)).save(folder / files["colour"])
    Image.fromarray(_bytes(rendered.normal * 0.5 + 0.5)).save(folder / files["normal"])
    depth = (rendered.depth * scale).astype(np.float32)
    np.savez_compressed(folder / files["depth"], depth=depth, opacity=rendered.opacity.astype(np.float16))
    return files


def _bytes(values: np.ndarray) -> np.ndarray:
    return (values.clip(0, 1) * 255 + 0.5).astype(np.uint8)
