"""Reading and writing of photographs and masks."""

from __future__ import annotations

import re

import numpy as np
import pytest
from PIL import Image

from nsr.errors import DataError
from nsr.scene import images
from nsr.scene.images import exif_orientation, load_image, load_mask, load_rgba, load_view_images, load_view_masks, save_png
from tests.unit.scene_builders import make_view, tilted

RNG = np.random.default_rng(0)
PICTURE = RNG.integers(0, 256, (20, 30, 3)).astype(np.uint8)


def saved(path, array, **options):
    Image.fromarray(array).save(path, **options)
    return path


def test_png_round_trip_keeps_every_pixel_and_leaves_no_partial_file(tmp_path):
    save_png(tmp_path / "a.png", PICTURE)
    assert np.array_equal(load_image(tmp_path / "a.png"), PICTURE)
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_save_png_into_missing_folder_is_one_line(tmp_path):
    with pytest.raises(DataError, match=r"no/a\.png: cannot be written .*check the folder"):
        save_png(tmp_path / "no" / "a.png", PICTURE)


def test_grey_16_bit_and_alpha_photos_become_rgb(tmp_path):
    grey = saved(tmp_path / "g.png", PICTURE[..., 0])
    assert np.array_equal(load_image(grey), np.repeat(PICTURE[..., :1], 3, axis=2))
    deep = saved(tmp_path / "d.png", PICTURE[..., 0].astype(np.uint16) * 257)
    assert np.array_equal(load_image(deep)[..., 1], PICTURE[..., 0])
    rgba = np.concatenate([PICTURE, np.full((20, 30, 1), 7, np.uint8)], axis=2)
    path = saved(tmp_path / "a.png", rgba)
    assert np.array_equal(load_image(path), PICTURE)
    assert np.array_equal(load_rgba(path), rgba)


def test_photo_without_alpha_has_no_alpha_mask(tmp_path):
    with pytest.raises(DataError, match=r"a\.png: has no alpha channel.*give mask images"):
        load_rgba(saved(tmp_path / "a.png", PICTURE))


def test_exif_orientation_is_reported_and_not_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = saved(tmp_path / "a.jpg", PICTURE, exif=exif, quality=95)
    assert exif_orientation(path) == 6
    assert load_image(path).shape == (20, 30, 3)


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_truncated_photo_names_file_and_remedy(tmp_path, suffix):
    path = saved(tmp_path / f"cut.{suffix}", PICTURE)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    with pytest.raises(DataError, match=rf"cut\.{suffix}: unreadable or truncated image .*copy the file again"):
        load_image(path)


def test_file_that_is_no_image_missing_file_and_huge_image(tmp_path, monkeypatch):
    (tmp_path / "t.png").write_text("no picture")
    with pytest.raises(DataError, match=r"t\.png: not an image.*copy the file again"):
        load_image(tmp_path / "t.png")
    with pytest.raises(DataError, match=r"none\.png: no such image file"):
        load_image(tmp_path / "none.png")
    monkeypatch.setattr(images, "MAX_PIXELS", 599)
    with pytest.raises(DataError, match=r"p\.png: 30x20 is over 599 pixels; scale"):
        load_image(saved(tmp_path / "p.png", PICTURE))


def test_mask_values(tmp_path):
    grey = np.array([[0, 1, 127, 128, 129, 255]], np.uint8)
    expected = [[0, 0, 0, 128, 255, 255]]
    assert load_mask(saved(tmp_path / "l.png", grey)).tolist() == expected
    assert load_mask(saved(tmp_path / "rgb.png", np.repeat(grey[..., None], 3, axis=2))).tolist() == expected
    assert load_mask(saved(tmp_path / "01.png", np.array([[0, 1, 1]], np.uint8))).tolist() == [[0, 255, 255]]
    assert load_mask(saved(tmp_path / "bool.png", np.array([[False, True]]))).tolist() == [[0, 255]]
    assert load_mask(saved(tmp_path / "deep.png", np.array([[0, 65535]], np.uint16))).tolist() == [[0, 255]]
    clear = np.array([[[255, 255, 255, 0], [255, 255, 255, 255], [0, 0, 0, 255]]], np.uint8)
    assert load_mask(saved(tmp_path / "rgba.png", clear)).tolist() == [[0, 255, 0]]


def test_mask_of_another_size_names_both_sizes(tmp_path):
    path = saved(tmp_path / "m.png", PICTURE[..., 0])
    assert load_mask(path, (30, 20)).shape == (20, 30)
    with pytest.raises(DataError, match=re.escape("the mask is 30x20, its photo 20x30; make the masks again")):
        load_mask(path, (20, 30))


def test_view_loaders(tmp_path):
    view = make_view("v", tilted((0, 0, 3), (0, 0, 0)), 30, 20)
    from dataclasses import replace

    mask = np.where(PICTURE[..., 0] > 99, 255, 0).astype(np.uint8)
    view = replace(view, image=saved(tmp_path / "i.png", PICTURE), mask=saved(tmp_path / "m.png", mask))
    assert np.array_equal(load_view_images([view, view])[1], PICTURE)
    assert np.array_equal(load_view_masks([view])[0], mask)
    with pytest.raises(DataError, match=r"i\.png: not 31x20 as the scene says; run prepare again"):
        load_view_images([replace(view, width=31)])
    with pytest.raises(DataError, match=r"i\.png: has no mask"):
        load_view_masks([replace(view, mask=None)])
