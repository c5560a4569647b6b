"""Checks of sets of masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nsr.conventions import Similarity
from nsr.errors import DataError
from nsr.scene.masks import check_masks, require_masks
from nsr.scene.scene import Scene
from tests.unit.scene_builders import ball_mask, make_view, tilted

VIEW = make_view("a", tilted((0, 0, 4), (0, 0, 0)))
GOOD = ball_mask(VIEW, (0, 0, 0), 1.0)
PATHS = [Path(f"mask/{i}.png") for i in range(5)]


def test_good_masks_pass_without_a_note():
    assert check_masks(PATHS, [GOOD] * 5) == ()
    assert check_masks([], []) == ()


def test_most_masks_inverted_is_refused_naming_the_first_inverted_file():
    with pytest.raises(DataError, match=r"mask/2\.png: mask looks inverted.*in 3 of 5.*invert the masks"):
        check_masks(PATHS, [GOOD, GOOD, 255 - GOOD, 255 - GOOD, 255 - GOOD])
    assert check_masks(PATHS, [GOOD, GOOD, GOOD, 255 - GOOD, 255 - GOOD]) == ()


def test_close_object_that_fills_the_border_is_not_called_inverted():
    close = np.full_like(GOOD, 255)
    close[:10, :60] = 0
    assert check_masks(PATHS, [close] * 5) == ()


def test_ignored_border_is_not_object():
    ignored = np.full_like(GOOD, 128)
    ignored[20:50, 20:50] = GOOD[20:50, 20:50]
    assert check_masks(PATHS, [ignored] * 5) == ()


def test_empty_and_full_masks():
    empty, full = np.zeros_like(GOOD), np.full_like(GOOD, 255)
    with pytest.raises(DataError, match=r"mask/0\.png: mask without object, as 3 of 5; .*white on black"):
        check_masks(PATHS, [empty, empty, empty, GOOD, GOOD])
    with pytest.raises(DataError, match=r"mask/1\.png: mask is object everywhere, as 3 of 5"):
        check_masks(PATHS, [GOOD, full, full, full, GOOD])
    assert check_masks(PATHS, [GOOD, empty, GOOD, full, GOOD]) == (
        "1.png: mask without object",
        "3.png: mask is object everywhere",
    )


def test_method_that_needs_masks_names_the_view_without_one(tmp_path):
    scene = Scene(tmp_path, "d/s", (VIEW,), Similarity.identity())
    with pytest.raises(DataError, match=r"a\.png: this method needs masks, but 1 of 1 views have none; give a masks folder"):
        require_masks(scene)
