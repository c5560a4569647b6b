"""Properties of the similarity, which takes meshes back to the world."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from nsr.conventions import Similarity, camera_centres, pixel_rays, project
from nsr.errors import DataError
from nsr.scene.scene import View
from tests.unit.scene_builders import tilted

NUMBER = st.floats(-100, 100)
POINTS = np.random.default_rng(5).uniform(-1, 1, (50, 3))


@st.composite
def similarities(draw):
    rotation = Rotation.from_rotvec([draw(st.floats(-3, 3)) for _ in range(3)]).as_matrix()
    return Similarity(10 ** draw(st.floats(-3, 3)), rotation, np.array([draw(NUMBER) for _ in range(3)]))


@settings(deadline=None, max_examples=60)
@given(similarities(), similarities())
def test_inverse_compose_matrix_and_dict_agree_with_apply(first, second):
    size = first.scale + np.abs(first.t).max()
    np.testing.assert_allclose(first.inverse().apply(first.apply(POINTS)), POINTS, atol=1e-12 * size / first.scale + 1e-12)
    both = second.apply(first.apply(POINTS))
    np.testing.assert_allclose(second.compose(first).apply(POINTS), both, rtol=1e-10, atol=1e-10 * np.abs(both).max())
    homogeneous = np.concatenate([POINTS, np.ones((50, 1))], 1) @ first.matrix().T
    np.testing.assert_allclose(homogeneous[:, :3], first.apply(POINTS), atol=1e-12 * size)
    again = Similarity.from_dict(first.to_dict())
    assert np.array_equal(again.apply(POINTS), first.apply(POINTS))


@settings(deadline=None, max_examples=60)
@given(similarities(), st.floats(1.5, 10), st.floats(-3, 3))
def test_unit_camera_sees_unit_points_where_the_world_camera_sees_world_points(similarity, distance, angle):
    eye = similarity.apply(distance * np.array([[np.cos(angle), np.sin(angle), 0.3]]))[0]
    w2c = tilted(eye, similarity.t)
    K = np.array([[500.0, 0, 320], [0, 510, 240], [0, 0, 1]])
    unit = similarity.camera_to_unit(w2c)
    world_pixels, world_depth = project(K, w2c, similarity.apply(0.5 * POINTS))
    unit_pixels, unit_depth = project(K, unit, 0.5 * POINTS)
    np.testing.assert_allclose(unit_pixels, world_pixels, atol=1e-5)
    np.testing.assert_allclose(unit_depth * similarity.scale, world_depth, rtol=1e-6)
    np.testing.assert_allclose(unit[:3, :3] @ unit[:3, :3].T, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(similarity.apply(camera_centres(unit[None]))[0], eye, rtol=1e-6, atol=1e-6 * similarity.scale)


def test_rays_pass_through_what_they_show():
    w2c = tilted((3.0, 1.0, 2.0), (0, 0, 0))
    K = np.array([[500.0, 1.5, 320], [0, 510, 240], [0, 0, 1]])
    pixels, depth = project(K, w2c, POINTS)
    origin, direction = pixel_rays(K, w2c, pixels)
    assert (depth > 0).all()
    offset = POINTS - origin
    np.testing.assert_allclose(np.cross(offset, direction), 0, atol=1e-12)


@pytest.mark.parametrize(
    ("scale", "R"), [(0.0, np.eye(3)), (-1.0, np.eye(3)), (np.nan, np.eye(3)), (1.0, 2 * np.eye(3)), (1.0, np.diag([1, 1, -1]))]
)
def test_what_is_no_similarity_is_refused(scale, R):
    with pytest.raises(DataError, match="similarity"):
        Similarity(scale, R, np.zeros(3))


def test_a_shrunk_view_keeps_the_field_of_view():
    K = np.array([[150.0, 0.0, 80.5], [0.0, 140.0, 60.25], [0.0, 0.0, 1.0]])
    view = View("a", Path("a.png"), None, 161, 121, K, np.eye(4))
    scaled, width, height = view.shrunk(2)
    assert (width, height) == (80, 60)
    corner = np.linalg.inv(K) @ [161.0, 121.0, 1.0]
    np.testing.assert_allclose(scaled @ corner, [80.0, 60.0, 1.0])
    assert view.shrunk(1000)[1:] == (1, 1)
