"""Folders of photos: what is read, what is refused, what EXIF says."""

from __future__ import annotations

import math

import numpy as np
import pytest
from PIL import Image

from nsr.data.photos import one_size, read_photos
from nsr.errors import DataError


def save(path, size=(40, 30), *, orientation=None, **tags):
    """A noise photo with EXIF tags of the EXIF directory by number (`t41989=35`)."""
    exif = Image.Exif()
    if orientation:
        exif[0x0112] = orientation
    exif.get_ifd(0x8769).update({int(key[1:]): value for key, value in tags.items()})
    pixels = np.random.default_rng(1).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, exif=exif)


def three(folder, **options):
    for name in ("b.jpg", "a.JPG", "c.png"):
        save(folder / name, **options)


def test_photos_come_in_name_order_with_stored_size(tmp_path):
    three(tmp_path)
    (tmp_path / "notes.txt").write_text("not a photo")
    (tmp_path / ".hidden.jpg").write_text("not a photo either")
    photos = read_photos(tmp_path)
    assert [(p.path.name, p.width, p.height, p.focal, p.orientation) for p in photos] == [
        ("a.JPG", 40, 30, None, 1),
        ("b.jpg", 40, 30, None, 1),
        ("c.png", 40, 30, None, 1),
    ]
    assert one_size(photos)


def test_focal_length_from_the_35_mm_equivalent(tmp_path):
    three(tmp_path, t41989=28)
    # A 28 mm lens on a 36 x 24 mm film has its diagonal (50 px here) at 43.27 mm.
    assert read_photos(tmp_path)[0].focal == pytest.approx(28 * 50 / math.hypot(36, 24))


@pytest.mark.parametrize(("unit", "millimetres"), [(2, 25.4), (3, 10.0)])
def test_focal_length_from_the_focal_plane(tmp_path, unit, millimetres):
    three(tmp_path, t37386=6.0, t41486=254.0, t41488=unit)
    assert read_photos(tmp_path)[0].focal == pytest.approx(6.0 * 254.0 / millimetres)


def test_meaningless_exif_gives_no_focal_length(tmp_path):
    three(tmp_path, t41989=0, t37386=6.0)
    assert [p.focal for p in read_photos(tmp_path)] == [None, None, None]


def test_orientation_is_reported_and_not_applied(tmp_path):
    three(tmp_path, orientation=6)
    photo = read_photos(tmp_path)[1]
    assert (photo.orientation, photo.width, photo.height) == (6, 40, 30)


@pytest.mark.parametrize("name", ["IMG_1.HEIC", "x.dng", "x.tif", "x.webp"])
def test_other_formats_are_refused_by_name(tmp_path, name):
    three(tmp_path)
    (tmp_path / name).write_bytes(b"0")
    with pytest.raises(DataError, match=rf"{name}: .* photos are not read.*convert them to JPEG or PNG"):
        read_photos(tmp_path)


def test_unusable_folders(tmp_path):
    with pytest.raises(DataError, match="no such folder of photos"):
        read_photos(tmp_path / "nowhere")
    with pytest.raises(DataError, match="holds no .jpg or .png"):
        read_photos(tmp_path)
    (tmp_path / "clip.MP4").write_bytes(b"0")
    with pytest.raises(DataError, match="video and no photos; extract frames"):
        read_photos(tmp_path)
    save(tmp_path / "a.jpg")
    with pytest.raises(DataError, match=r"1 photo\(s\); at least 3"):
        read_photos(tmp_path)


def test_broken_header_and_repeated_name(tmp_path):
    three(tmp_path)
    (tmp_path / "d.jpg").write_bytes((tmp_path / "b.jpg").read_bytes()[:15])
    with pytest.raises(DataError, match="d.jpg: not a readable JPEG or PNG"):
        read_photos(tmp_path)
    save(tmp_path / "d.jpg")
    save(tmp_path / "b.png")
    with pytest.raises(DataError, match="b.png: b.jpg has the same name but for its ending"):
        read_photos(tmp_path)
