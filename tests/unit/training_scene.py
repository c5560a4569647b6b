"""A small prepared scene with a known surface: a coloured sphere of radius 0.6 (unit frame), photographed from around."""

import numpy as np
from PIL import Image

from nsr.config import Config, resolve
from nsr.conventions import Similarity, pixel_rays
from nsr.scene.scene import Scene, View, save_scene
from tests.unit.look_at import look_at

RADIUS, SIZE = 0.6, 48
FREQUENCY = 7  # of the pattern on the sphere, radians a length of the unit frame
# The world is scaled, turned and shifted, so that a mistake of frames cannot stay hidden.
SIMILARITY = Similarity(2.5, np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]), np.array([3.0, -1.0, 0.5]))
K = np.array([[60.0, 0, SIZE / 2], [0, 60.0, SIZE / 2], [0, 0, 1]])


def photograph(w2c_unit, frequency=None, gain=1.0):
    """Colours (H, W, 3), times `gain` (3,), and mask (H, W), both uint8, of the sphere before grey: colour is a smooth pattern of position."""
    xs, ys = np.meshgrid(np.arange(SIZE) + 0.5, np.arange(SIZE) + 0.5)
    origin, direction = pixel_rays(K, w2c_unit, np.stack([xs, ys], -1).reshape(-1, 2))
    along = -(origin * direction).sum(1)
    square = along**2 - (origin**2).sum(1) + RADIUS**2
    hit = square > 0
    point = origin + direction * (along - np.sqrt(np.maximum(square, 0)))[:, None]
    colour = np.where(hit[:, None], 0.5 + 0.4 * np.sin((frequency or FREQUENCY) * point), 0.4)
    image = ((colour * gain).clip(0, 1).reshape(SIZE, SIZE, 3) * 255).astype(np.uint8)
    return image, (hit.reshape(SIZE, SIZE) * 255).astype(np.uint8)


def sphere_scene(root, *, masks=True, views=12, invert=False, frequency=None, gains=None):
    """Write the scene folder and return the `Scene`; `invert` swaps object and background in the masks, `gains` (views, 3) are exposures."""
    (root / "images").mkdir(parents=True)
    (root / "masks").mkdir()
    out = []
    world = SIMILARITY.inverse()
    for index in range(views):
        angle = 2 * np.pi * index / views
        height = 0.9 if index % 2 else -0.5
        centre = 2.4 * np.array([np.cos(angle), np.sin(angle), height]) / np.linalg.norm([1, height])
        w2c_unit = look_at(centre)
        image, mask = photograph(w2c_unit, frequency, 1.0 if gains is None else gains[index])
        name = f"view{index:02d}"
        Image.fromarray(image).save(root / "images" / f"{name}.png")
        mask_path = None
        if masks:
            mask_path = root / "masks" / f"{name}.png"
            Image.fromarray(255 - mask if invert else mask).save(mask_path)
        w2c = world.camera_to_unit(w2c_unit)  # from the unit frame's cameras back to the world's
        out.append(View(name, root / "images" / f"{name}.png", mask_path, SIZE, SIZE, K, w2c, held_out=index % 6 == 0))
    scene = Scene(root, "test/sphere", tuple(out), SIMILARITY)
    save_scene(scene)
    return scene


def quick_config(**train) -> Config:
    """Settings for a few seconds on one core; keyword arguments go into `train`."""
    settings = {
        "model": {
            "encoding": {"levels": 4, "log2_table": 10, "base_resolution": 8, "finest_resolution": 32, "level_steps": 20},
            "sdf": {"hidden": 16, "geometry_features": 4},
            "radiance": {"hidden": 16, "layers": 1, "view_degree": 1},
            "background": {"kind": "random"},
        },
        "train": {
            "steps": 60,
            "samples": 1500,
            "start_rays": 128,
            "max_rays": 512,
            "anneal_steps": 20,
            "use_masks": "auto",
            "march": {"steps": 64, "grid_resolution": 16, "grid_warmup": 16},
            "loss": {"mask": 0.1},
            "optim": {"warmup_steps": 10},
            "watchdog": {"every": 10, "after": 30},
            "checkpoint_every": 20,
            "log_every": 5,
        },
    }
    return resolve([settings, {"train": train}])
