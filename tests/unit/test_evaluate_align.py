"""Similarity from known cameras: exactness, degeneracy, matching of names, refusal of wrong cameras."""

from __future__ import annotations

import numpy as np
import pytest

from nsr.conventions import Similarity, camera_centres
from nsr.errors import EvaluationError
from nsr.evaluate.align import align_to_cameras, match_views, read_neus_centres, umeyama
from nsr.scene.scene import Scene, View, save_scene

K = np.array([[100.0, 2.0, 50.0], [0.0, 110.0, 40.0], [0.0, 0.0, 1.0]])


def random_rotation(rng):
    q = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    return q * np.sign(np.linalg.det(q))


def random_cameras(rng, count):
    w2c = np.tile(np.eye(4), (count, 1, 1))
    for matrix in w2c:
        matrix[:3, :3] = random_rotation(rng)
        matrix[:3, 3] = rng.normal(size=3)
    return w2c


def views_of(w2c, names):
    return [View(name, None, None, 100, 80, K, matrix) for name, matrix in zip(names, w2c, strict=True)]


def write_neus(path, w2c):
    path.parent.mkdir(parents=True, exist_ok=True)
    mats = {}
    for k, matrix in enumerate(w2c):
        mats[f"world_mat_{k}"] = np.eye(4)
        mats[f"world_mat_{k}"][:3] = -2.5 * K @ matrix[:3]  # a projection has no scale or sign of its own
        mats[f"world_mat_inv_{k}"] = np.eye(4)
    np.savez(path, **mats)
    return path


@pytest.mark.parametrize("seed", range(5))
def test_umeyama_recovers_a_random_similarity(seed):
    rng = np.random.default_rng(seed)
    true = Similarity(float(rng.uniform(0.01, 50)), random_rotation(rng), rng.normal(size=3) * 100)
    points = rng.normal(size=(3 + seed, 3))
    found = umeyama(points, true.apply(points))
    assert found.scale == pytest.approx(true.scale, rel=1e-9)
    np.testing.assert_allclose(found.R, true.R, atol=1e-8)
    np.testing.assert_allclose(found.t, true.t, atol=1e-7)


def test_umeyama_is_the_least_squares_optimum_and_never_a_reflection():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(20, 3))
    target = points * [1.0, 1.0, -1.0] + 0.05 * rng.normal(size=(20, 3))
    found = umeyama(points, target)
    assert np.linalg.det(found.R) == pytest.approx(1.0)
    best = ((found.apply(points) - target) ** 2).sum()
    for _ in range(200):
        angle = 0.02 * rng.normal(size=3)
        skew = np.array([[0, -angle[2], angle[1]], [angle[2], 0, -angle[0]], [-angle[1], angle[0], 0]])
        turn = np.linalg.qr(np.eye(3) + skew)[0]
        turn = turn * np.sign(np.diag(turn))
        other = Similarity(found.scale * np.exp(0.02 * rng.normal()), turn @ found.R, found.t + 0.02 * rng.normal(size=3))
        assert ((other.apply(points) - target) ** 2).sum() >= best


def test_planar_points_are_enough_and_a_line_is_not():
    rng = np.random.default_rng(1)
    true = Similarity(2.0, random_rotation(rng), np.ones(3))
    plane = rng.normal(size=(5, 3)) * [1, 1, 0]
    np.testing.assert_allclose(umeyama(plane, true.apply(plane)).R, true.R, atol=1e-8)
    line = np.outer(np.arange(5.0), [1, 2, 3])
    with pytest.raises(EvaluationError, match="one line"):
        umeyama(line, true.apply(line))
    with pytest.raises(EvaluationError, match="2 common points"):
        umeyama(plane[:2], plane[:2])


def test_neus_centres_are_those_of_the_cameras(tmp_path):
    w2c = random_cameras(np.random.default_rng(2), 12)
    np.testing.assert_allclose(read_neus_centres(write_neus(tmp_path / "c.npz", w2c)), camera_centres(w2c), atol=1e-9)


def test_alignment_through_a_file(tmp_path):
    rng = np.random.default_rng(3)
    true = Similarity(7.0, random_rotation(rng), np.array([1.0, 2.0, 3.0]))
    known = random_cameras(rng, 9)
    scene = true.camera_to_unit(known)  # the same cameras in the frame that `true` maps to the known one
    path = write_neus(tmp_path / "cameras_sphere.npz", known)
    found = align_to_cameras(views_of(scene, [f"{k:06d}" for k in range(9)]), path)
    np.testing.assert_allclose(found.similarity.matrix(), true.matrix(), atol=1e-8)
    assert found.rms < 1e-8
    assert found.views == 9
    # Three photographs did not register: the image folder, or else the numbers, tell which.
    some = [0, 2, 3, 5, 7, 8]
    found = align_to_cameras(views_of(scene[some], [f"img_{k:03d}" for k in some]), path)
    np.testing.assert_allclose(found.similarity.matrix(), true.matrix(), atol=1e-8)
    images = tmp_path / "image"
    images.mkdir()
    names = list("qwertyuio")
    for name in names:
        (images / f"{name}.jpg").touch()
    in_order = sorted(names)
    found = align_to_cameras(views_of(scene[some], [in_order[k] for k in some]), path)
    np.testing.assert_allclose(found.similarity.matrix(), true.matrix(), atol=1e-8)


def test_alignment_with_a_prepared_scene(tmp_path):
    rng = np.random.default_rng(4)
    known, names = random_cameras(rng, 5), list("abcde")
    true = Similarity(0.5, random_rotation(rng), np.ones(3))
    views = [View(n, tmp_path / n, None, 100, 80, K, m) for n, m in zip(names, known, strict=True)]
    save_scene(Scene(tmp_path, "d/s", tuple(views), Similarity.identity()))
    mixed = views_of(true.camera_to_unit(known)[::-1], names[::-1])
    for path in (tmp_path, tmp_path / "scene.json"):
        np.testing.assert_allclose(align_to_cameras(mixed, path).similarity.matrix(), true.matrix(), atol=1e-8)
    assert match_views(["z", "a"], tmp_path)[0] is None


def test_cameras_that_do_not_fit_or_match_are_refused(tmp_path):
    rng = np.random.default_rng(5)
    known = random_cameras(rng, 8)
    path = write_neus(tmp_path / "c.npz", known)
    with pytest.raises(EvaluationError, match="do not fit"):
        align_to_cameras(views_of(known[::-1], [f"{k}" for k in range(8)]), path)
    with pytest.raises(EvaluationError, match="cannot be matched"):
        align_to_cameras(views_of(known[:5], list("abcde")), path)
    with pytest.raises(EvaluationError, match="cannot be matched"):
        align_to_cameras(views_of(known[:3], ["a7", "a8", "a9"]), path)
    with pytest.raises(EvaluationError, match="no such file"):
        read_neus_centres(tmp_path / "none.npz")
    (tmp_path / "bad.npz").write_bytes(b"bad")
    with pytest.raises(EvaluationError, match=r"bad\.npz: not a NeuS camera file"):
        read_neus_centres(tmp_path / "bad.npz")
