"""Pixels to rays, windows of the region, occupancy."""

import numpy as np
import pytest
import torch

from nsr.conventions import MASK_IGNORE, pixel_rays, project
from nsr.sampling.occupancy import OccupancyGrid
from nsr.sampling.pixels import PixelStore, ball_window
from tests.unit.look_at import look_at
from tests.unit.training_scene import SIZE, K

CPU = torch.device("cpu")


def two_views(crop=False):
    """Two photographs of different size whose pixels tell where they are: red = column, green = row, blue = view."""
    images, masks = [], []
    for view, (height, width) in enumerate([(20, 30), (10, 12)]):
        rows, columns = np.mgrid[:height, :width]
        images.append(np.stack([columns, rows, np.full_like(rows, view)], -1).astype(np.uint8))
        masks.append(np.where(columns % 2 == 0, 255, 0).astype(np.uint8))
    masks[1][:5] = MASK_IGNORE
    w2c = np.stack([look_at(np.array([2.0, 1, 0.5])), look_at(np.array([-1.5, 2, 1]))])
    Ks = np.stack([np.array([[40.0, 0.3, 14], [0, 42, 9], [0, 0, 1]]), np.array([[15.0, 0, 6], [0, 15, 5], [0, 0, 1]])])
    return PixelStore(images, masks, Ks, w2c, crop_to_ball=crop, device=CPU), Ks, w2c


def test_rays_carry_their_own_pixel_and_direction():
    store, Ks, w2c = two_views()
    batch = store.sample(500, torch.Generator().manual_seed(0))
    column, row, view = (batch.colour * 255).round().long().unbind(1)
    assert torch.equal(view, batch.view)
    for which in (0, 1):
        mine = view == which
        pixels = torch.stack([column, row], 1)[mine].numpy() + 0.5
        origin, direction = pixel_rays(Ks[which], w2c[which], pixels)
        np.testing.assert_allclose(batch.direction[mine], direction, atol=1e-6)
        np.testing.assert_allclose(batch.origin[mine], origin, atol=1e-6)
        back, _ = project(Ks[which], w2c[which], (batch.origin + 1.7 * batch.direction)[mine].numpy())
        np.testing.assert_allclose(back, pixels, atol=1e-4)
    assert torch.equal(batch.mask[view == 0] > 0, column[view == 0] % 2 == 0)
    assert torch.equal(batch.valid, ~((view == 1) & (row < 5)))


def test_every_pixel_is_equally_likely():
    store, _, _ = two_views()
    batch = store.sample(72_000, torch.Generator().manual_seed(1))
    column, row, view = (batch.colour * 255).round().long().unbind(1)
    counts = torch.bincount(torch.where(view == 0, row * 30 + column, 600 + row * 12 + column), minlength=720)
    assert counts.min() > 50
    assert counts.max() < 160
    # chi^2 of 719 degrees of freedom: mean 719, standard deviation 38
    assert float(((counts - 100.0) ** 2 / 100).sum()) == pytest.approx(719, abs=5 * 38)


def test_window_holds_the_ball_and_little_more():
    w2c = look_at(np.array([3.0, 1.0, 0.4]))
    far = np.diag([0.4, 0.4, 1]) @ K + np.array([[0, 0, 14], [0, 0, 14], [0, 0, 0]])
    directions = np.random.default_rng(0).normal(size=(20_000, 3))
    surface = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    pixels, _ = project(far, w2c, surface)
    left, top, right, bottom = ball_window(far, w2c, SIZE, SIZE)
    np.testing.assert_allclose([left, top], pixels.min(0), atol=1.2)
    np.testing.assert_allclose([right, bottom], pixels.max(0), atol=1.2)
    assert ball_window(K, look_at(np.array([0.9, 0, 0.1])), 48, 48) == (0, 0, 48, 48), "a camera inside sees it everywhere"


def test_cropped_rays_aim_at_the_ball():
    store, _, _ = two_views(crop=True)
    batch = store.sample(400, torch.Generator().manual_seed(2))
    along = -(batch.origin * batch.direction).sum(1)
    distance = (batch.origin + along[:, None] * batch.direction).norm(dim=1)
    assert distance.max() < 1.6  # corners of the rectangle around the outline


def test_occupancy_follows_the_visible_shell():
    grid = OccupancyGrid(32, CPU)
    generator = torch.Generator().manual_seed(0)

    def shell(points):
        return ((points.norm(dim=1) - 0.5).abs() < 0.1).float()

    for _ in range(150):
        grid.update(shell, threshold=0.01, decay=0.95, everywhere=True, generator=generator)
    axis = (torch.arange(32) + 0.5) / 16 - 1
    radius = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij")).norm(dim=0)
    assert grid.occupied[(radius - 0.5).abs() < 0.05].all()
    assert not grid.occupied[(radius - 0.5).abs() > 0.2].any()
    assert 0.1 < grid.share() < 0.5


def test_occupancy_comes_back_when_the_surface_moves():
    grid = OccupancyGrid(16, CPU)
    generator = torch.Generator().manual_seed(0)
    for radius in (0.4, 0.7):
        for _ in range(200):
            grid.update(
                lambda p, r=radius: ((p.norm(dim=1) - r).abs() < 0.15).float(),
                threshold=0.01, decay=0.9, everywhere=False, generator=generator,
            )  # fmt: skip
        cell = int((radius + 1) * 8)
        assert grid.occupied[cell, 8, 8]
    assert not grid.occupied[8, 8, 8]


def test_cells_outside_the_ball_are_never_occupied():
    grid = OccupancyGrid(16, CPU)
    grid.update(
        lambda p: torch.ones(len(p)), threshold=0.01, decay=0.95, everywhere=True, generator=torch.Generator().manual_seed(0)
    )
    assert not grid.occupied[0, 0, 0]
    assert grid.occupied[8, 8, 8]
