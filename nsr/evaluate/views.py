"""The protocol "held-out-views", version 1: rendered views against the photographs.

PSNR = -10 log10 of the mean squared error over pixels and channels, values in [0, 1]. SSIM is that of Wang et al. 2004
(Gaussian window, sigma 1.5, K1 = 0.01, K2 = 0.03), mean over the channels. Pixels to ignore take part in neither, and
`psnr_masked`, `ssim_masked` are over the object's pixels alone. LPIPS needs weights that no package ships (`nsr.evaluate.lpips`);
it sees whole pictures, and for `lpips_masked` both with grey 0.5 around the object. With a ground-truth mesh the depth is
compared, too, on the pixels that do not have to be ignored, in percent of the object radius. A smaller render is compared
with the photograph shrunk to its size. `psnr_corrected` and `psnr_masked_corrected` are those of the render with the best
factor for each view and channel, `psnr_affine` with the best matrix and offset, for models of that kind of exposure: why,
`nsr.evaluate.exposure` says. The result says whether the views were kept from training, and what was left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nsr.config import Config, section
from nsr.conventions import MASK_IGNORE, MASK_OBJECT, Array, Similarity
from nsr.data.files import inside
from nsr.errors import DataError, EvaluationError
from nsr.evaluate.align import align_to_cameras
from nsr.evaluate.depth import TrueDepth, read_depth
from nsr.evaluate.exposure import corrected
from nsr.evaluate.lpips import SMALLEST, Lpips, load_lpips
from nsr.evaluate.points import read_truth
from nsr.evaluate.result import build_result, check_result_name, write_result
from nsr.log import get_logger
from nsr.mesh.surface import Mesh
from nsr.provenance import parse_json
from nsr.scene.scene import Scene, View, load_scene

PROTOCOL, VERSION = "held-out-views", 1
MAX_PSNR = 100.0  # dB, of identical images
_SSIM_WINDOW = 11  # px, support of the Gaussian: the smallest image side

FloatImage = NDArray[np.float64]
Mask = NDArray[np.bool_]


def psnr(image: FloatImage, reference: FloatImage, pixels: Mask) -> float | None:
    """PSNR in dB over the marked pixels (H, W) of images (H, W, 3) in [0, 1]; None without any, at most `MAX_PSNR`."""
    if not pixels.any():
        return None
    error = float(((image - reference)[pixels] ** 2).mean())
    return min(MAX_PSNR, -10.0 * float(np.log10(max(error, 1e-30))))


def ssim(image: FloatImage, reference: FloatImage, pixels: Mask) -> float | None:
    """Mean structural similarity over the marked pixels (H, W) of images (H, W, 3) in [0, 1].

    None where no pixel is marked, or the images are smaller than the window of 11 px. All pixels feed the windows.
    """
    from skimage.metrics import structural_similarity

    if not pixels.any() or min(image.shape[:2]) < _SSIM_WINDOW:
        return None
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1.0, "channel_axis": 2}
    mean, values = structural_similarity(image, reference, full=True, **options)
    # Over whole images the mean leaves out a border in which windows hang over; keep to it.
    return float(mean) if pixels.all() else float(values[pixels].mean())


@dataclass(frozen=True)
class Truth:
    """Ground truth of the depth. Attributes: file, mesh or not; the views' cameras in its frame, None if it is the scene's."""

    ground_truth: Path
    gt_cameras: Path | None = None


@dataclass(frozen=True)
class _Pictures:
    """A rendered view and its photograph (H, W, 3) in [0, 1], the pixels (H, W) that count, the object's, None if unknown;
    and what stands behind a cut-out object, see `corrected`, None if nothing does."""

    image: FloatImage
    reference: FloatImage
    counted: Mask
    target: Mask | None
    backdrop: FloatImage | None = None


def evaluate_views_stage(render: Path, scene: Path, out: Path, config: Config, truth: Truth | None = None) -> dict[str, Any]:
    """Compare all views of a render folder with their photographs, and with a ground-truth mesh; writes `out` and returns it.

    Raises:
        DataError: no render there, an unreadable file. EvaluationError: a view that the scene does not have, or known
            cameras that do not fit.
    """
    check_result_name(out)
    loaded, (listed, behind), exposure = load_scene(scene), read_render(render), read_exposure(render)
    views = {view.name: view for view in loaded.views}
    if unknown := sorted(set(listed) - set(views)):
        raise EvaluationError(f"{render / 'render.json'}: view '{unknown[0]}' is not in scene {loaded.name}; render it again")
    left_out: dict[str, str] = {}
    lpips, depth = _lpips(config, left_out), _true_depth(loaded, truth, left_out)
    per_view: dict[str, dict[str, Any]] = {}
    for name, facts in listed.items():
        pictures = read_pictures(inside(render, facts["colour"]), views[name], behind)
        per_view[name] = (
            image_metrics(pictures, lpips)
            | exposed_metrics(pictures, exposure)
            | {"seen_in_training": bool(facts["seen_in_training"])}
        )
        if depth is not None:
            path = inside(render, facts.get("depth", f"{name}_depth.npz"))
            if (rendered := read_depth(path)).shape != pictures.counted.shape:
                raise DataError(f"{path}: not of the size of the colour of view '{name}'; run render again")
            per_view[name] |= depth.compare(rendered, _camera(render, name, facts), views[name].w2c, pictures.counted)
    keys = dict.fromkeys(key for found in per_view.values() for key in found if key != "seen_in_training")
    metrics = {key: mean for key in keys if (mean := _mean(per_view, key)) is not None}
    kind, notes = training_statement(per_view)
    result = build_result(
        protocol=PROTOCOL,
        version=VERSION,
        settings=section(config, "evaluate"),
        metrics=metrics,
        notes=notes + _mask_notes(loaded, behind),
        scene=loaded.name,
        views=kind,
        left_out=left_out,
        per_view=per_view,
    )
    write_result(out, result)
    get_logger().info(
        "%s: %s over %d views (%s)", render, ", ".join(f"{k} {v:.3f}" for k, v in metrics.items()), len(per_view), kind
    )
    return result


def read_render(folder: Path) -> tuple[dict[str, dict[str, Any]], float | None]:
    """Views and backdrop of a folder's `render.json`.

    Returns:
        Name -> facts, among them `colour` (file) and `seen_in_training`; and the grey level in [0, 1] behind an object that
        was trained cut out by its masks, None if the model renders the whole photograph.

    Raises:
        DataError: no such file, or not one of the render stage.
    """
    path = folder / "render.json"
    try:
        facts_of_all = parse_json(path.read_text())
        views, behind = facts_of_all["views"], facts_of_all.get("behind")
        for facts in views.values():
            facts["colour"], facts["seen_in_training"]
        if behind is not None and not 0 <= behind <= 1:
            raise ValueError("'behind' is no grey level in [0, 1]")
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; run render first") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: not a file of the render stage ({error!r}); run render again") from error
    return dict(views), behind


def _camera(folder: Path, name: str, facts: Mapping[str, Any]) -> Array:
    """`K` (3, 3) of a rendered view."""
    try:
        K = np.asarray(facts["K"], dtype=np.float64)
        if K.shape != (3, 3) or not np.isfinite(K).all() or min(K[0, 0], K[1, 1]) <= 0 or (K[2] != (0, 0, 1)).any():
            raise ValueError("not a camera matrix")
    except (KeyError, ValueError, TypeError, OverflowError) as error:
        raise DataError(f"{folder / 'render.json'}: K of view '{name}' cannot be used ({error}); run render again") from error
    return K


def read_exposure(folder: Path) -> str:
    """`model.exposure` of what rendered a folder that `read_render` reads; "none" where it does not say."""
    return str(parse_json((folder / "render.json").read_text()).get("exposure", "none"))


def read_pictures(rendered: Path, view: View, behind: float | None = None) -> _Pictures:
    """A rendered view and its photograph at the same size.

    With a grey level `behind`, the photograph is cut out by its mask before that grey.

    Raises:
        DataError: an image cannot be read.
    """
    image = _read(rendered, "RGB", None)
    size = (image.shape[1], image.shape[0])
    reference = _read(view.image, "RGB", size)
    if view.mask is None:
        return _Pictures(image, reference, np.ones(image.shape[:2], dtype=bool), None)
    values = np.rint(_read(view.mask, "L", None) * 255.0).astype(np.uint8)
    # A shrunk pixel counts unless an ignored one is in it, and is the object's if all of it is.
    counted, backdrop = _shrunk_mask(values != MASK_IGNORE, size), None
    if behind is not None:
        object_share = _shrunk_share(values == MASK_OBJECT, size)[..., None]
        reference = reference * object_share + behind * (1 - object_share)
        backdrop = np.concatenate([np.repeat(behind * (1 - object_share), 3, axis=2), object_share], axis=2)
    return _Pictures(image, reference, counted, counted & _shrunk_mask(values == MASK_OBJECT, size), backdrop)


def image_metrics(pictures: _Pictures, lpips: Lpips | None = None) -> dict[str, float | None]:
    """PSNR, SSIM and, with a network, LPIPS of one view, whole and over the object; None for what cannot be said."""
    image, reference, target = pictures.image, pictures.reference, pictures.target
    found: dict[str, float | None] = {
        "psnr": psnr(image, reference, pictures.counted),
        "ssim": ssim(image, reference, pictures.counted),
        "psnr_masked": None if target is None else psnr(image, reference, target),
        "ssim_masked": None if target is None else ssim(image, reference, target),
    }
    if lpips is None or min(image.shape[:2]) < SMALLEST:
        return found
    ignored = ~pictures.counted[..., None]
    found["lpips"] = lpips(np.where(ignored, 0.5, image), np.where(ignored, 0.5, reference))
    if target is not None and target.any():
        found["lpips_masked"] = lpips(*(np.where(target[..., None], picture, 0.5) for picture in (image, reference)))
    return found


def exposed_metrics(pictures: _Pictures, exposure: str) -> dict[str, float | None]:
    """PSNR of one view with the best exposure for it, whole and over the object, see `corrected`.

    Args:
        exposure: `model.exposure`; of "affine" the best affine map is tried, too.
    """
    image, reference, counted, target = pictures.image, pictures.reference, pictures.counted, pictures.target

    def best(pixels: Mask, kind: Literal["gain", "affine"]) -> float | None:
        return psnr(corrected(image, reference, pixels, kind=kind, backdrop=pictures.backdrop), reference, pixels)

    found = {"psnr_corrected": best(counted, "gain"), "psnr_masked_corrected": None if target is None else best(target, "gain")}
    return found | ({"psnr_affine": best(counted, "affine")} if exposure == "affine" else {})


def training_statement(per_view: Mapping[str, Mapping[str, Any]]) -> tuple[str, list[str]]:
    """ "held_out" if no view was trained on, else "training", and the notes that say so."""
    seen = sorted(name for name, facts in per_view.items() if facts["seen_in_training"])
    if not per_view:
        return "held_out", ["no view was rendered: nothing was compared"]
    if not seen:
        return "held_out", []
    if len(seen) == len(per_view):
        return "training", ["all views were trained on: these numbers say nothing about new views"]
    return "training", [f"{len(seen)} of {len(per_view)} views were trained on: {', '.join(seen)}"]


def _mask_notes(scene: Scene, behind: float | None) -> list[str]:
    if behind is not None and scene.has_masks:
        return [
            f"the model was trained on masked photographs: psnr and ssim compare with the object cut out before grey {behind:g}"
        ]
    return [] if scene.has_masks else ["the scene has no masks: psnr_masked is left out where a view has none"]


def _lpips(config: Config, left_out: dict[str, str]) -> Lpips | None:
    """The network, or None and the reason in `left_out`."""
    if config.evaluate.lpips_weights:
        return load_lpips(Path(config.evaluate.lpips_weights))
    left_out["lpips"] = "no installed package ships its AlexNet weights; set evaluate.lpips_weights to a folder with them"
    return None


def _true_depth(scene: Scene, truth: Truth | None, left_out: dict[str, str]) -> TrueDepth | None:
    """Depth of the ground truth, or None and the reason in `left_out`."""
    if truth is None:
        left_out["depth"] = "no ground truth"
        return None
    mesh = read_truth(truth.ground_truth)
    if not isinstance(mesh, Mesh):
        left_out["depth"] = "the ground truth is a point cloud"
        return None
    known = truth.gt_cameras
    return TrueDepth(mesh, align_to_cameras(scene.views, known).similarity if known else Similarity.identity())


def _mean(per_view: Mapping[str, Mapping[str, Any]], key: str) -> float | None:
    values = [facts[key] for facts in per_view.values() if facts.get(key) is not None]
    return float(np.mean(values)) if values else None


def _read(path: Path, mode: str, size: tuple[int, int] | None) -> FloatImage:
    """Image in [0, 1], shrunk to `size` (width, height) by averaging if it has another."""
    try:
        with Image.open(path) as image:
            converted = image.convert(mode)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such image; run the stage that writes it again") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: image cannot be read ({error}); run the stage that writes it again") from error
    if size is not None and converted.size != size:
        converted = converted.resize(size, Image.Resampling.BOX)
    return np.asarray(converted, dtype=np.float64) / 255.0


def _shrunk_mask(mask: Mask, size: tuple[int, int]) -> Mask:
    """The mask at another size; True where all of the covered pixels are."""
    return np.asarray(_shrunk_share(mask, size) > 0.999)


def _shrunk_share(mask: Mask, size: tuple[int, int]) -> FloatImage:
    """Share in [0, 1] of the covered pixels of the mask that are True, at another size."""
    share = Image.fromarray(mask.astype(np.float32))
    return np.asarray(share if share.size == size else share.resize(size, Image.Resampling.BOX), dtype=np.float64)
