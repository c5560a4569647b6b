"""Photographs, renders and mesh pictures of one run, shrunk and encoded as `data:` addresses for inlining."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nsr.conventions import Array
from nsr.data.arrays import read_npz
from nsr.mesh.surface import Mesh
from nsr.report.shade import Camera, cast, error_coloured, error_values, shaded
from nsr.scene.scene import Scene, View, unit_words

WIDTH = 420  # px of a picture on the page; shown smaller, so that it is sharp on dense screens
COMPARED_WIDTH = 640  # px of a picture that is compared with another
THUMB_HEIGHT = 96  # px of a photograph in the strip of all of them
MAX_THUMBS = 60
COMPARED_VIEWS = 3  # of a scene, whose render is shown beside the photo
SURFACE_VIEWS = 2  # cameras of a scene from which surfaces are shown
ALL_PICTURES = 17_000_000  # bytes of all pictures on a page
_THUMB_BYTES = 6_000
_SMALLEST = 0.3  # share of the full width below which nobody sees anything
_QUALITIES = (78, 65, 50, 35, 20)  # the first that keeps a picture within `most_bytes`
_COMPARED, _SHADED = 3, 5  # pictures of a run for each compared view, for each camera on surfaces


@dataclass(frozen=True)
class Picture:
    """An inlined picture. Attributes: uri, a `data:` address; width, height in pixels; caption; alt for screen readers."""

    uri: str
    width: int
    height: int
    caption: str
    alt: str

    def named(self, caption: str) -> Picture:
        """The picture with another caption."""
        return replace(self, caption=caption)


@dataclass(frozen=True)
class Sizes:
    """How large the pictures of a page are. Attributes: width, compared, px as `WIDTH` and `COMPARED_WIDTH`; thumbs, of a scene."""

    width: int = WIDTH
    compared: int = COMPARED_WIDTH
    thumbs: int = MAX_THUMBS

    @classmethod
    def for_page(cls, scenes: int, runs: int) -> Sizes:
        """Full size, or smaller, so that the pictures of all scenes and runs stay under `ALL_PICTURES`, down to `_SMALLEST`."""
        share = min(1.0, float(np.sqrt(ALL_PICTURES / max(1, cls().bytes(scenes, runs)))))
        while True:
            sizes = cls(round(WIDTH * share), round(COMPARED_WIDTH * share), max(6, round(MAX_THUMBS * share**2)))
            if share <= _SMALLEST or sizes.bytes(scenes, runs) <= ALL_PICTURES:
                return sizes
            share = max(_SMALLEST, 0.97 * share)

    def bytes(self, scenes: int, runs: int) -> int:
        """What all pictures of so many scenes and runs (scene and method) take at most."""
        compared, shaded = COMPARED_VIEWS * most_bytes(self.compared), SURFACE_VIEWS * most_bytes(self.width)
        return scenes * (self.thumbs * _THUMB_BYTES + compared) + runs * (_COMPARED * compared + _SHADED * shaded)


def most_bytes(width: int) -> int:
    """Bytes in the page that a picture of a width in pixels may take: those of a busy photograph at a quality of 65."""
    return round(3_000 + 0.11 * width**2)


def encode(pixels: NDArray[np.uint8], caption: str, alt: str, width: int = WIDTH) -> Picture:
    """A picture from (H, W, 3 or 4) sRGB bytes, shrunk to `width` if wider."""
    return _encoded(Image.fromarray(pixels), caption, alt, width)


def _encoded(image: Image.Image, caption: str, alt: str, width: int, most: int | None = None) -> Picture:
    most = most_bytes(width) if most is None else most
    if image.width > width:
        image = image.resize((width, max(1, round(image.height * width / image.width))), Image.Resampling.LANCZOS)
    for quality in _QUALITIES:
        out = io.BytesIO()
        image.save(out, "WEBP", quality=quality, method=4)
        uri = "data:image/webp;base64," + base64.b64encode(out.getvalue()).decode()
        if len(uri) <= most:
            return Picture(uri, image.width, image.height, caption, alt)
    smaller = _encoded(image, caption, alt, max(1, round(0.7 * image.width)), most)
    return replace(smaller, width=image.width, height=image.height)  # as large as the others on the page, only coarser


def encode_file(path: Path, caption: str, alt: str, width: int = WIDTH, most: int | None = None) -> Picture:
    """A picture from an image file, of at most `most` bytes (None: `most_bytes`); OSError if it cannot be read."""
    with Image.open(path) as image:
        mode = "RGBA" if image.mode in ("RGBA", "LA", "PA") else "RGB"
        image.draft("RGB", (2 * width, 2 * width))  # a large JPEG need not be decoded at full size
        return _encoded(image.convert(mode), caption, alt, width, most)


def photo(view: View, width: int = WIDTH) -> list[Picture]:
    """The view's photograph, as a list of one; OSError if it cannot be read."""
    return [encode_file(view.image, "photo", f"Photograph of view {view.name}", width)]


def thumbnail(view: View) -> Picture:
    """A small photograph; OSError if it cannot be read."""
    width = max(1, round(THUMB_HEIGHT * view.width / view.height))
    return encode_file(view.image, "held out" if view.held_out else "", f"Photograph {view.name}", width, _THUMB_BYTES)


def spread(views: Sequence[View], count: int) -> list[View]:
    """Up to `count` views, evenly taken from the middle of equal parts of the list."""
    if len(views) <= count:
        return list(views)
    return [views[int((i + 0.5) * len(views) / count)] for i in range(count)]


def rendered_views(folder: Path, views: Sequence[View]) -> list[View]:
    """The views whose render lies in `folder`."""
    return [view for view in views if (folder / f"{view.name}.png").is_file()]


def comparison(folder: Path, view: View, world_unit: str, width: int = COMPARED_WIDTH) -> list[Picture]:
    """Render, normals and depth of one view, as far as their files exist.

    Raises:
        OSError, ValueError, KeyError: a file is broken.
    """
    found = [encode_file(folder / f"{view.name}.png", "render", f"Render of view {view.name}", width)]
    normal, depth = folder / f"{view.name}_normal.png", folder / f"{view.name}_depth.npz"
    if normal.is_file():
        found.append(encode_file(normal, "normals", f"Surface normals of view {view.name} as colours", width))
    if depth.is_file():
        arrays = read_npz(depth)
        values = np.asarray(arrays["depth" if "depth" in arrays else next(iter(arrays))], dtype=np.float64)
        found.append(depth_picture(values, view.name, world_unit, width))
    return found


def depth_picture(depth: Array, name: str, world_unit: str, width: int = COMPARED_WIDTH) -> Picture:
    """Depth (H, W) along z in world units, 0 or not finite where nothing was hit, as colours: near bright, far dark, nothing transparent."""
    from matplotlib import colormaps

    hit = np.isfinite(depth) & (depth > 0)
    near, far = np.percentile(depth[hit], [1, 99]) if hit.any() else (0.0, 1.0)
    share = np.clip((far - np.where(hit, depth, far)) / max(far - near, 1e-9), 0, 1)
    rgba = colormaps["viridis"](share)
    rgba[..., 3] = hit
    caption = f"depth {near:.4g} (yellow) to {far:.4g} (violet) {unit_words(world_unit)}" if hit.any() else "depth: nothing hit"
    return encode((rgba * 255 + 0.5).astype(np.uint8), caption, f"Depth of view {name} as colours", width)


def mesh_pictures(
    scene: Scene,
    view: View,
    mesh: Mesh,
    *,
    kind: str,
    evaluated: tuple[Array, Array] | None,
    largest: float,
    width: int = WIDTH,
) -> list[Picture]:
    """Shaded picture of a mesh from a scene's view, and the error-coloured one if it was evaluated.

    Args:
        scene: of the view. view: whose camera is used. mesh: unit frame. kind: "mesh" or "tsdf", for the captions.
        evaluated: sample points (P, 3) unit frame and their errors (P,), None if not measured.
        largest: error at the end of the colour map, same unit as the errors. width: of the pictures, pixels.
    """
    camera = Camera(view.K, scene.unit_w2c([view])[0], view.width, view.height).resized(min(width, view.width))
    hits = cast(mesh.vertices, mesh.faces, camera)
    found = [encode(shaded(hits), f"{kind}, shaded", f"The {kind} surface from view {view.name}, lit from the camera", width)]
    if evaluated is not None:
        values = error_values(hits, *evaluated)
        pixels = error_coloured(hits, values, largest)
        left_out = float(np.isnan(values[hits.hit]).mean()) if hits.hit.any() else 0.0
        caption = f"{kind}, error" + (f" ({left_out:.0%} of the picture grey: not evaluated)" if left_out >= 0.005 else "")
        found.append(encode(pixels, caption, f"The {kind} surface from view {view.name}, coloured by its error", width))
    return found
