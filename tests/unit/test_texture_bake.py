"""Atlas, visibility, blending and filling against a ball whose colour is known everywhere."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import trimesh

from nsr.config import TextureConfig
from nsr.errors import DataError
from nsr.mesh.surface import Mesh
from nsr.mesh.texture.atlas import TexturedMesh, face_pieces, simplified, unwrap
from nsr.mesh.texture.bake import bake
from nsr.mesh.texture.blend import Best, blended, exposure_gains, weighted_median
from nsr.mesh.texture.check import draw, psnr, seam_edges, seam_error
from nsr.mesh.texture.fill import extended, spread
from nsr.mesh.texture.photo import bilinear, depth_map, look, occlusion_edges, prepare_photo
from nsr.mesh.texture.texels import on_surface, rasterise
from nsr.mesh.visibility import raycasting_scene
from tests.unit.painted import around, ball, paint, photograph, pinhole, shots, with_normals

SIZE = 256
CONFIG = TextureConfig(size=SIZE, padding=4, feather=4.0)


def rays_of(mesh: Mesh):
    return raycasting_scene(mesh.vertices, mesh.faces, np.zeros(3), 1)


def texel_error(textured: TexturedMesh, true=paint, where=None) -> np.ndarray:
    """Absolute error (P,) of the texels, mean of the channels, against the paint at their surface points."""
    texels = rasterise(textured.atlas, SIZE, 1)
    points = on_surface(textured.atlas.mesh, texels, textured.atlas.mesh.vertices).astype(np.float64)
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    error = np.abs(textured.image.reshape(-1, 3)[texels.index] - true(points)).mean(axis=1)
    return error if where is None else error[where(points)]


@pytest.fixture(scope="module")
def atlas():
    return unwrap(ball(), SIZE, 4)


@pytest.fixture(scope="module")
def baked(atlas):
    return bake(atlas, rays_of(atlas.mesh), shots(around(12)), CONFIG)


def test_atlas_keeps_faces_and_does_not_overlap(atlas):
    mesh, uv = atlas.mesh, atlas.uv[atlas.corners]
    a, b = uv[:, 1] - uv[:, 0], uv[:, 2] - uv[:, 0]
    area = 0.5 * np.abs(a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0])
    # A face's place has its area up to one common scale and some distortion: so it is the place of this face, not of another.
    ratio = area / mesh.face_areas()
    assert np.median(np.abs(ratio / np.median(ratio) - 1)) < 0.1
    texels = rasterise(atlas, SIZE, 1)
    inside = np.bincount(texels.face, minlength=len(mesh.faces))
    centres = uv.mean(axis=1) * SIZE
    at = np.floor(centres).astype(int)
    owner = np.full(SIZE * SIZE, -1)
    owner[texels.index] = texels.face
    found = owner[at[:, 1] * SIZE + at[:, 0]]
    near = np.linalg.norm(centres[found] - centres, axis=1)
    assert near.max() < 6.0, "the texel under a face's centre belongs to a face elsewhere"
    # The border adds to the charts' area, nothing else.
    assert 1.0 < inside.sum() / (area.sum() * SIZE**2) < 1.6
    assert len({tuple(row) for row in atlas.corners}) == len(mesh.faces)


def test_texels_lie_on_their_faces(atlas):
    texels = rasterise(atlas, SIZE, 1)
    centre = np.stack([texels.index % SIZE, texels.index // SIZE], axis=1) + 0.5
    uv = np.einsum("pk,pkc->pc", texels.weights, atlas.uv[atlas.corners[texels.face]]) * SIZE
    away = np.linalg.norm(uv - centre, axis=1)
    assert texels.weights.min() > -1e-5
    assert np.median(away) < 1e-3
    assert away.max() < 2 * np.sqrt(2) + 0.01  # the border shows the chart's edge


def test_charts_keep_their_distance(atlas):
    from scipy.ndimage import distance_transform_edt

    texels = rasterise(atlas, SIZE, 1)
    label = connected(atlas.corners)
    owner = np.full(SIZE * SIZE, -1)
    owner[texels.index] = label[texels.face]
    plane = owner.reshape(SIZE, SIZE)
    assert len(set(label.tolist())) > 1
    for chart in set(label.tolist()):
        distance = distance_transform_edt(plane != chart)
        others = (plane >= 0) & (plane != chart)
        assert distance[others].min() >= 1.0
    assert (plane[0] < 0).any()


def connected(faces):
    """Chart of each face: those that share a place in the texture."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    n = faces.max() + 1
    graph = coo_matrix((np.ones(2 * len(faces)), (faces[:, :2].ravel(), faces[:, 1:].ravel())), shape=(n, n))
    return connected_components(graph, directed=False)[1][faces[:, 0]]


def test_texture_is_the_paint(baked):
    textured, coloured, facts = baked
    error = texel_error(textured)
    assert np.percentile(error, 99) < 3.0
    assert np.median(error) < 1.0
    assert facts["seen"] == 1.0
    assert np.abs(coloured.colours - paint(coloured.vertices)).mean() < 1.5
    assert all(np.abs(np.array(gain) - 1).max() < 0.01 for gain in facts["gains"].values())


def test_drawn_from_a_new_camera_it_is_the_photograph(baked):
    camera = pinhole((2.2, -2.9, 1.3))
    image, mask = photograph(camera)
    drawn, hit = draw(baked[0], rays_of(baked[0].atlas.mesh), camera, 1)
    assert psnr(drawn, image, hit & (mask > 0)) > 38.0
    flipped = replace(baked[0], image=np.ascontiguousarray(baked[0].image[::-1]))
    assert psnr(draw(flipped, rays_of(baked[0].atlas.mesh), camera, 1)[0], image, hit & (mask > 0)) < 22.0


def test_seams_are_found_and_small(baked):
    textured = baked[0]
    one, other = seam_edges(textured.atlas)
    # An edge's two places are of equal length up to the charts' distortion.
    lengths = np.linalg.norm(one[:, 1] - one[:, 0], axis=1) / np.linalg.norm(other[:, 1] - other[:, 0], axis=1)
    assert 0.8 < np.median(lengths) < 1.25
    facts = seam_error(textured)
    assert facts["edges"] == len(one) > 50
    assert facts["mean"] < 1.5
    noise = np.random.default_rng(0).integers(0, 256, textured.image.shape).astype(np.uint8)
    assert seam_error(replace(textured, image=noise))["mean"] > 20


def test_without_masks_the_background_stays_out(atlas):
    textured, _, _ = bake(atlas, rays_of(atlas.mesh), shots(around(12), masks=False), CONFIG)
    assert np.percentile(texel_error(textured), 99) < 3.0


def test_what_hides_a_surface_does_not_colour_it():
    # A wall and a plate before it: the camera in front sees the plate, the one from the side what is behind it.
    def square(half, y):
        return np.array([[-half, y, -half], [half, y, -half], [half, y, half], [-half, y, half]], dtype=float)

    faces = np.array([[0, 1, 2], [0, 2, 3]])
    mesh = with_normals(np.concatenate([square(1.0, 0.0), square(0.3, -1.0)]), np.concatenate([faces, faces + 4]))
    depth = depth_map(rays_of(mesh), pinhole((0.0, -4.0, 0.0)), 1)[0]
    image = np.zeros((200, 240, 3), dtype=np.uint8)
    image[..., 2] = 255
    image[depth < 3.5] = (255, 0, 0)
    photo = prepare_photo(image, None, depth, pinhole((0.0, -4.0, 0.0)), 3.0)
    grid = np.stack(np.meshgrid(np.linspace(-0.95, 0.95, 60), [0.0], np.linspace(-0.95, 0.95, 60)), -1).reshape(-1, 3)
    normals = np.tile(np.float32([0, -1, 0]), (len(grid), 1))
    sight = look(photo, grid.astype(np.float32), normals, 75.0)
    shadow = (np.abs(grid[:, [0, 2]]) < 0.4).all(axis=1)  # the plate at 3/4 of the distance hides 4/3 of its size
    seen = np.zeros(len(grid), dtype=bool)
    seen[sight.index] = True
    assert not seen[shadow].any()
    assert seen[~shadow].mean() > 0.75
    assert sight.colour[:, 0].max() == 0
    behind = look(photo, grid.astype(np.float32), -normals, 75.0)
    assert not len(behind.index)


def test_occlusion_edges_are_jumps_not_slopes():
    rows, columns = np.mgrid[:40, :40]
    plane = (1.0 / (0.5 + 0.004 * columns + 0.002 * rows)).astype(np.float32)  # a slanted plane
    assert not occlusion_edges(plane, 300.0).any()
    step = np.where(columns < 20, plane, plane + 0.1).astype(np.float32)
    assert np.array_equal(np.flatnonzero(occlusion_edges(step, 300.0)[5]), [19, 20])
    step[:, :10] = np.inf
    assert np.array_equal(np.flatnonzero(occlusion_edges(step, 300.0)[5]), [*range(11), 19, 20])


def test_quality_prefers_near_and_frontal_photographs():
    point, normal = np.float32([[0, 0, 1]]), np.float32([[0, 0, 1]])

    def quality(position, angle=75.0):
        camera = pinhole(position)
        photo = prepare_photo(np.zeros((200, 240, 3), np.uint8), None, np.full((200, 240), 9.0, np.float32), camera, 1.0)
        found = look(photo, point, normal, angle).quality
        return float(found[0]) if len(found) else 0.0

    front, far, slanted = quality((0.01, 0, 4.0)), quality((0.01, 0, 7.0)), quality((2.0, 0, 3.5))
    assert front > slanted > 0
    assert front / far == pytest.approx(4.0, rel=0.01)  # pixels per area: distances 3 and 6
    assert quality((4.0, 0, 1.5)) == 0.0
    assert quality((4.0, 0, 1.5), 89.0) > 0


def test_a_spoiled_photograph_is_outvoted(atlas):
    def spoil(number, image):
        if number == 3:
            image = image.copy()
            image[60:140, 80:160] = (255, 0, 255)
        return image

    cameras = around(24)
    robust = bake(atlas, rays_of(atlas.mesh), shots(cameras, change=spoil), CONFIG)[0]
    plain = bake(atlas, rays_of(atlas.mesh), shots(cameras, change=spoil), replace(CONFIG, outlier=0.0))[0]
    assert texel_error(robust).max() < 12.0
    assert texel_error(plain).max() > 40.0


def test_exposure_is_evened_out(atlas):
    factors = np.random.default_rng(1).uniform(0.8, 1.2, (16, 3))

    def change(number, image):
        return np.rint(np.clip(image * factors[number], 0, 255)).astype(np.uint8)

    cameras, rays = around(16), rays_of(atlas.mesh)
    textured, _, facts = bake(atlas, rays, shots(cameras, change=change), CONFIG)
    found = np.array([facts["gains"][f"v{k}"] for k in range(16)])
    product = found * factors / np.exp(np.log(factors).mean(axis=0))
    assert np.abs(product - 1).max() < 0.04
    uneven = bake(atlas, rays, shots(cameras, change=change), replace(CONFIG, exposure=False))[0]
    mean = np.exp(np.log(factors).mean(axis=0))
    even_error = texel_error(textured, lambda p: paint(p) * mean)
    assert even_error.mean() < 0.3 * texel_error(uneven, lambda p: paint(p) * mean).mean()


def test_gains_are_one_where_nothing_is_shared():
    best = Best(10, 2)
    assert np.array_equal(exposure_gains(best, 3), np.ones((3, 3)))


def test_best_keeps_the_best_and_weights_them():
    best = Best(1, 2)
    for number, (quality, level) in enumerate([(1.0, 10), (4.0, 100), (2.0, 200), (0.5, 255)]):
        index = np.zeros(1, dtype=np.int64)
        best._enter(slice(0, 1), number, index, np.float32([quality]), np.full((1, 3), level, dtype=np.uint8))
    assert sorted(best.view[0].tolist()) == [1, 2]
    out = blended(best, np.ones((4, 3), np.float32), sharpness=2.0, outlier=0.0)
    assert out[0] == pytest.approx([(100 + 0.25 * 200) / 1.25] * 3)


def test_weighted_median_is_numpys_for_equal_weights():
    values = np.random.default_rng(2).uniform(size=(50, 5, 3)).astype(np.float32)
    assert np.array_equal(weighted_median(values, np.ones((50, 5), np.float32)), np.median(values, axis=1))
    heavy = np.ones((50, 5), np.float32)
    heavy[:, 2] = 10
    assert np.array_equal(weighted_median(values, heavy), values[:, 2])


def test_unseen_parts_continue_the_seen_ones(atlas):
    """Cameras on one side only: the back gets the mesh's own colours, shifted so that they meet the photographs."""
    front = [pinhole((4 * np.cos(a), 4 * np.sin(a), b)) for a in (-0.5, 0.0, 0.5) for b in (-1.0, 1.0)]
    own = np.rint(np.clip(paint(atlas.mesh.vertices) + 20, 0, 255)).astype(np.uint8)
    coloured = replace(atlas, mesh=replace(atlas.mesh, colours=own))
    textured, _, facts = bake(coloured, rays_of(atlas.mesh), shots(front), CONFIG)
    assert 0.3 < facts["seen"] < 0.7
    back = texel_error(textured, where=lambda p: p[:, 0] < -0.5)
    assert np.median(back) < 6.0  # not 20
    plain, _, _ = bake(atlas, rays_of(atlas.mesh), shots(front), CONFIG)
    assert plain.image.min() >= 0
    assert seam_error(plain)["p95"] < 8.0


def test_extension_is_harmonic():
    """On a strip whose ends are known the colour runs straight from one end to the other."""
    x = np.arange(21.0)
    vertices = np.concatenate([np.stack([x, 0 * x, 0 * x], 1), np.stack([x, 0 * x + 1, 0 * x], 1)])
    k = np.arange(20)
    faces = np.concatenate([np.stack([k, k + 1, k + 22], 1), np.stack([k, k + 22, k + 21], 1)])
    seen = np.isin(vertices[:, 0], [0, 20])
    colour = np.where(vertices[:, :1] == 20, 200.0, 100.0) * np.ones((42, 3)) * seen[:, None]
    out = extended(Mesh(vertices, faces), colour.astype(np.float32), seen)
    assert np.abs(out[:, 0] - (100 + 5 * vertices[:, 0])).max() < 3.0
    nothing = extended(Mesh(vertices, faces), colour.astype(np.float32), np.zeros(42, dtype=bool))
    assert np.allclose(nothing, 127.0)


def test_texels_outside_copy_the_nearest_inside():
    image, covered = np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), bool)
    image[2, 2], image[6, 6] = 50, 90
    covered[2, 2] = covered[6, 6] = True
    out = spread(image, covered)
    assert out[0, 0, 0] == 50
    assert out[7, 7, 0] == 90
    assert np.array_equal(spread(image, np.zeros((8, 8), bool)), image)


def test_bilinear_agrees_with_scipy():
    from scipy.ndimage import map_coordinates

    rng = np.random.default_rng(3)
    layers, place = rng.uniform(size=(9, 13, 2)).astype(np.float32), rng.uniform(-1, 14, (200, 2)).astype(np.float32)
    mine = bilinear(layers, place)
    for channel in range(2):
        theirs = map_coordinates(layers[..., channel], place[:, ::-1].T, order=1, mode="nearest")
        assert np.allclose(mine[:, channel], theirs, atol=1e-5)


def test_no_photograph_sees_the_mesh(atlas):
    turned = replace(atlas, mesh=with_normals(atlas.mesh.vertices, atlas.mesh.faces[:, ::-1]))
    with pytest.raises(DataError, match="none of 3 photographs sees the mesh.*orientation"):
        bake(turned, rays_of(atlas.mesh), shots(around(3)), replace(CONFIG, max_angle=75.0))


def test_simplification_keeps_shape_and_colours():
    dense = ball(5)
    own = np.rint(paint(dense.vertices)).astype(np.uint8)
    coarse = simplified(Mesh(dense.vertices + [1e6, 0, 0], dense.faces, colours=own), 2000)
    assert len(coarse.faces) <= 2000
    radius = np.linalg.norm(coarse.vertices - [1e6, 0, 0], axis=1)
    assert np.abs(radius - 1).max() < 0.01
    assert np.abs(coarse.colours - paint(coarse.vertices - [1e6, 0, 0])).mean() < 8
    assert np.einsum("mx,mx->m", coarse.normals, coarse.vertices - [1e6, 0, 0]).min() > 0.95
    assert len(simplified(dense, 0).faces) == len(dense.faces)


def test_pieces_share_out_the_faces():
    mesh = ball(4)
    pieces = face_pieces(mesh, 700)
    assert max(map(len, pieces)) <= 700
    assert np.array_equal(np.sort(np.concatenate(pieces)), np.arange(len(mesh.faces)))


def test_a_box_of_twelve_faces_is_unwrapped():
    box = trimesh.creation.box()
    atlas = unwrap(with_normals(box.vertices, box.faces), SIZE, 4)
    assert 1 <= atlas.charts <= 12
    assert set(rasterise(atlas, SIZE, 1).face.tolist()) == set(range(12))


def test_two_runs_give_the_same_texture():
    first, second = (
        bake(unwrap(ball(), SIZE, 4), rays_of(ball()), shots(around(5)), replace(CONFIG, size=128), threads)[0]
        for threads in (1, 3)
    )
    assert np.array_equal(first.atlas.uv, second.atlas.uv)
    assert np.array_equal(first.image, second.image)
