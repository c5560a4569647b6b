"""The region of interest from each kind of evidence."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from nsr.config import PrepareConfig
from nsr.conventions import Similarity, camera_centres
from nsr.data.raw import Points
from nsr.errors import DataError
from nsr.scene.hull import enclosing_ball, hull_ball
from nsr.scene.rays import nearest_point
from nsr.scene.region import Evidence, ball_of_cameras, ball_of_points, find_region, parse_ball
from tests.unit.scene_builders import around, ball_mask, make_view, tilted

CENTRE, RADIUS = np.array([5.0, -20.0, 300.0]), 40.0
# The cameras look past the object's centre, as hand-held cameras do.
VIEWS = [make_view(f"{i:02d}", pose) for i, pose in enumerate(around(CENTRE + [6.0, -4.0, 5.0], 160.0, 8))]
MANY = [make_view(f"{i:02d}", pose) for i, pose in enumerate(around(CENTRE + [6.0, -4.0, 5.0], 160.0, 24))]
PLAIN = PrepareConfig(region_margin=1.0)


def masks_of(views):
    return [ball_mask(view, CENTRE, RADIUS) for view in views]


def make_points(xyz):
    count = len(xyz)
    return Points(xyz, np.zeros((count, 3), np.uint8), np.zeros(count), np.zeros(count + 1, np.int64), np.zeros(0, np.int32))


def visual_hull_reach(views):
    """Largest distance from the ball's centre to which the cones around the ball reach, in radii, by bisection on rays."""
    z = 1 - (2 * np.arange(1500) + 1) / 1500
    angle, ring = 2.399963 * np.arange(1500), np.sqrt(1 - z * z)
    directions = np.stack([ring * np.cos(angle), ring * np.sin(angle), z], axis=1)
    eyes = (camera_centres(np.stack([view.w2c for view in views])) - CENTRE) / RADIUS
    low, high = np.ones(1500), np.full(1500, 3.0)
    for _ in range(20):
        middle = (low + high) / 2
        offset = (middle[:, None] * directions)[:, None] - eyes
        cosine = -(offset * eyes).sum(-1) / np.linalg.norm(offset, axis=-1) / np.linalg.norm(eyes, axis=-1)
        inside = (np.arccos(cosine) <= np.arcsin(1 / np.linalg.norm(eyes, axis=-1))).all(axis=1)
        low, high = np.where(inside, middle, low), np.where(inside, high, middle)
    return low.max()


@pytest.mark.parametrize(("count", "excess"), [(8, 0.10), (16, 0.05)])
def test_hull_of_a_ball(count, excess):
    # Eight silhouettes leave corners on a ball, up to 10 % here: the region must hold all that the masks allow.
    views = [make_view(f"{i:02d}", pose) for i, pose in enumerate(around(CENTRE + [6.0, -4.0, 5.0], 160.0, count))]
    centre, radius, notes = hull_ball(views, masks_of(views))
    assert np.linalg.norm(centre - CENTRE) < 0.03 * RADIUS
    assert radius == pytest.approx(visual_hull_reach(views) * RADIUS, rel=0.02)
    assert RADIUS < radius < (1 + excess) * RADIUS
    assert notes == ()


def test_hull_holds_the_whole_object_even_a_part_thinner_than_a_cell():
    views = [replace(view, K=np.diag([0.6, 0.6, 1.0]) @ view.K + [[0, 0, 19], [0, 0, 14], [0, 0, 0]]) for view in MANY]
    tip = CENTRE + np.array([0.0, 0.0, 2 * RADIUS])
    needle = masks_of(views)
    for share in np.linspace(0.5, 1, 40):
        at = CENTRE + share * (tip - CENTRE)
        needle = [np.maximum(mask, ball_mask(view, at, 2.0)) for view, mask in zip(views, needle, strict=True)]
    centre, radius, _ = hull_ball(views, needle)
    assert np.linalg.norm(tip - centre) < 1.02 * radius
    assert radius == pytest.approx(1.5 * RADIUS, rel=0.05)


def test_a_few_wrong_masks_are_left_out_and_named():
    masks = masks_of(MANY)
    masks[5] = 255 - masks[5]
    masks[9] = np.roll(masks[9], 40, axis=1)
    masks[12] = np.zeros_like(masks[12])
    centre, radius, notes = hull_ball(MANY, masks)
    assert np.linalg.norm(centre - CENTRE) < 0.03 * RADIUS
    assert abs(radius - RADIUS) < 0.05 * RADIUS
    assert len(notes) == 1 and "05" in notes[0] and "09" in notes[0] and "10" not in notes[0]


def test_ignored_pixels_carve_nothing():
    masks = masks_of(MANY)
    for index in (3, 8):
        masks[index][:, masks[index].shape[1] // 2 :] = 128
    centre, radius, _ = hull_ball(MANY, masks)
    assert np.linalg.norm(centre - CENTRE) < 0.03 * RADIUS
    assert abs(radius - RADIUS) < 0.05 * RADIUS


def test_masks_that_agree_on_nothing_and_too_few_masks():
    rng = np.random.default_rng(1)
    scattered = [ball_mask(v, CENTRE + 100 * rng.standard_normal(3), 5.0) for v in MANY]
    with pytest.raises(DataError, match=r"masks (agree on no object|contradict).*check the poses"):
        hull_ball(MANY, scattered)
    with pytest.raises(DataError, match=r"2 masks show the object, 3 are needed.*x,y,z,radius"):
        hull_ball(VIEWS[:2], masks_of(VIEWS[:2]))


def test_enclosing_ball_of_known_sets():
    corners = np.array([[x, y, z] for x in (0, 2) for y in (0, 4) for z in (0, 6)], float)
    centre, radius = enclosing_ball(corners)
    np.testing.assert_allclose(centre, (1, 2, 3), atol=0.01)
    assert radius == pytest.approx(np.sqrt(14), rel=2e-3)
    centre, radius = enclosing_ball(np.array([[0.0, 0, 0], [0, 0, 2.0]]))
    assert radius == pytest.approx(1.0, rel=2e-3)


def test_rays_meet_where_most_of_them_do():
    rng = np.random.default_rng(2)
    origins = CENTRE + rng.standard_normal((20, 3)) * 5
    directions = (CENTRE - origins) / np.linalg.norm(CENTRE - origins, axis=1, keepdims=True)
    directions[:3] = np.roll(directions[:3], 1, axis=1)
    np.testing.assert_allclose(nearest_point(origins, directions), CENTRE, atol=1e-2)
    with pytest.raises(DataError, match="one direction only.*x,y,z,radius"):
        nearest_point(origins, np.tile([[0.0, 0.0, 1.0]], (20, 1)))


def test_cameras_alone():
    aimed = [make_view(str(i), pose) for i, pose in enumerate(around(CENTRE, 160.0, 8))]
    aimed[2] = replace(aimed[2], w2c=tilted(CENTRE + [100.0, 0, 0], CENTRE))
    centre, radius = ball_of_cameras(aimed)
    np.testing.assert_allclose(centre, CENTRE, atol=1e-6)
    assert radius == pytest.approx(50.0)
    flipped = [replace(view, w2c=np.diag([1.0, -1, -1, 1]) @ view.w2c) for view in aimed]
    with pytest.raises(DataError, match="check the camera convention"):
        ball_of_cameras(flipped)


def test_sparse_points_with_clutter():
    rng = np.random.default_rng(4)
    direction = rng.standard_normal((3000, 3))
    surface = CENTRE + RADIUS * direction / np.linalg.norm(direction, axis=1, keepdims=True)
    clutter = CENTRE + rng.standard_normal((600, 3)) * 600
    ring = [tilted(CENTRE + 160 * np.array([np.cos(a), np.sin(a), 0.5]), CENTRE) for a in np.linspace(0, 6, 20)]
    views = [make_view(str(i), pose, focal=120.0) for i, pose in enumerate(ring)]
    centre, radius = ball_of_points(make_points(np.concatenate([surface, clutter])), views)
    assert np.linalg.norm(centre - CENTRE) < 0.1 * RADIUS
    assert 0.95 * RADIUS < radius < 1.4 * RADIUS
    only, exact = ball_of_points(make_points(surface), views)
    assert np.linalg.norm(only - CENTRE) < 0.1 * RADIUS
    assert 0.95 * RADIUS < exact < 1.15 * RADIUS
    far = CENTRE + 4 * (surface - CENTRE)
    centre, radius = ball_of_points(make_points(far), views)
    assert (np.linalg.norm(camera_centres(np.stack(ring)) - centre, axis=1) > radius).mean() >= 0.95
    with pytest.raises(DataError, match="9 sparse points are too few"):
        ball_of_points(make_points(surface[:9]), views)


def test_order_of_auto_and_margin():
    stated = Similarity(7.0, np.eye(3), np.ones(3))
    points = make_points(CENTRE + np.random.default_rng(0).standard_normal((500, 3)) * 9)
    masks = masks_of(VIEWS)
    full = Evidence(VIEWS, masks, points, stated)
    assert find_region(full, PrepareConfig()).similarity is stated
    assert find_region(replace(full, stated=None), PLAIN).source == "masks"
    assert find_region(replace(full, stated=None, masks=[None] * 8), PLAIN).source == "points"
    assert find_region(Evidence(VIEWS), PLAIN).source == "cameras"
    loose = find_region(full, PrepareConfig(region="masks", region_margin=1.5)).similarity.scale
    assert loose == pytest.approx(1.5 * find_region(full, PLAIN, "masks").similarity.scale)


def test_auto_passes_over_masks_that_agree_on_nothing_and_says_so():
    rng = np.random.default_rng(1)
    scattered = [ball_mask(v, CENTRE + 100 * rng.standard_normal(3), 5.0) for v in MANY]
    region = find_region(Evidence(MANY, scattered), PLAIN)
    assert region.source == "cameras"
    assert "region not found from masks" in region.notes[0]


def test_override_by_numbers_and_by_name():
    region = find_region(Evidence(VIEWS, masks_of(VIEWS)), PrepareConfig(), " 1, -2,3.5 ,4e1")
    assert region.source == "manifest"
    assert region.similarity.scale == 40.0
    assert region.similarity.t.tolist() == [1.0, -2.0, 3.5]
    assert find_region(Evidence(VIEWS, masks_of(VIEWS)), PrepareConfig(), "cameras").source == "cameras"


@pytest.mark.parametrize("text", ["1,2,3", "1,2,3,4,5", "1,2,x,4", "1,2,3,0", "1,2,3,-1", "1,2,nan,4"])
def test_bad_numbers(text):
    with pytest.raises(DataError, match=r"region '.*': must be"):
        parse_ball(text)


@pytest.mark.parametrize(
    ("name", "text"), [("format", "region of its own"), ("masks", "has no masks"), ("points", "has no points")]
)
def test_named_evidence_that_is_absent(name, text):
    with pytest.raises(DataError, match=text):
        find_region(Evidence(VIEWS), PLAIN, name)


def test_unknown_name():
    with pytest.raises(DataError, match="region 'ball': must be x,y,z,radius or one of auto, format, masks"):
        find_region(Evidence(VIEWS), PLAIN, "ball")
