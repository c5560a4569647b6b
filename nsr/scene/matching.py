"""Features of photographs and their matches where the cameras are known: near views, and within them near epipolar segments."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nsr.config import TriangulateConfig
from nsr.conventions import Array, camera_centres, pixel_rays, project
from nsr.errors import DataError
from nsr.scene.rays import angles_apart
from nsr.scene.scene import Scene, View

if TYPE_CHECKING:
    import pycolmap

_PAIRS = 1 << 18  # pairs of features compared at once, which bounds memory
_EVEN = 0.2  # radians, the widest range of angles over which their change is even enough to go by
_MAX_DISTANCE = 0.7  # between descriptors of length 1, COLMAP's default
_NEAR = 1e-2  # unit frame; a camera within the ball sees nothing nearer, and cameras nearer to each other span no planes


def extract(database: Path, scene: Scene, views: Sequence[View], config: TriangulateConfig, threads: int) -> dict[str, int]:
    """SIFT features of the views into a new database, with the known cameras; image id by view name.

    Raises:
        DataError: a photograph cannot be read.
    """
    import pycolmap

    names = [view.image.relative_to(scene.root).as_posix() for view in views]
    reader = pycolmap.ImageReaderOptions()
    reader.camera_model = "PINHOLE"
    options = pycolmap.FeatureExtractionOptions()
    options.num_threads, options.use_gpu, options.max_image_size = threads, False, config.max_image_size
    options.sift.max_num_features, options.sift.first_octave = config.max_features, config.first_octave
    options.sift.peak_threshold = config.peak_threshold
    pycolmap.extract_features(
        database,
        scene.root,
        image_names=names,
        camera_mode=pycolmap.CameraMode.PER_IMAGE,
        reader_options=reader,
        extraction_options=options,
        device=pycolmap.Device.cpu,
    )
    ids: dict[str, int] = {}
    with pycolmap.Database.open(database) as opened:
        images = {image.name: image for image in opened.read_all_images()}
        for view, name in zip(views, names, strict=True):
            if name not in images:
                raise DataError(f"{view.image}: COLMAP found nothing to read in it; run prepare again")
            camera = opened.read_camera(images[name].camera_id)
            camera.params, camera.has_prior_focal_length = pinhole_params(view), True
            opened.update_camera(camera)
            ids[view.name] = images[name].image_id
    return ids


def pinhole_params(view: View) -> list[float]:
    """Focal lengths and principal point of a view, COLMAP's order; a skew, which COLMAP's pinhole has not, is left out."""
    return [float(view.K[0, 0]), float(view.K[1, 1]), float(view.K[0, 2]), float(view.K[1, 2])]


def view_pairs(w2c: Array, neighbours: int, max_angle: float) -> list[tuple[int, int]]:
    """Pairs (i < j) of views worth matching: each with its nearest by direction from the region's centre.

    Args:
        w2c: (V, 4, 4) unit frame, in which the region is the unit ball. neighbours: of a view.
        max_angle: degrees between the directions to the two cameras.
    """
    angle = angles_apart(w2c)
    np.fill_diagonal(angle, np.inf)
    order = np.argsort(angle, axis=1, kind="stable")[:, :neighbours]
    pairs = {(min(i, j), max(i, j)) for i, row in enumerate(order.tolist()) for j in row if angle[i, j] <= max_angle}
    return sorted(pairs)


class Features(NamedTuple):
    """Features of a view whose lines of sight meet the unit ball.

    Attributes:
        row: (N,) of the database's list. place: (N, 2) px. near, far: (N, 3) ends of their chords of the ball, unit frame.
        descriptor: (N, 128) float32 of length 1.
    """

    row: NDArray[np.int64]
    place: Array
    near: Array
    far: Array
    descriptor: NDArray[np.float32]


def match(
    database: Path, scene: Scene, views: Sequence[View], ids: dict[str, int], config: TriangulateConfig, threads: int
) -> tuple[int, int]:
    """Match the features of near views, and write the matches as verified; numbers of pairs and matches."""
    import pycolmap

    w2c = scene.unit_w2c(views)
    centres = camera_centres(w2c)
    pairs = view_pairs(w2c, config.neighbours, config.max_pair_angle)
    with pycolmap.Database.open(database) as opened:
        features = [_features(opened, ids[view.name], view, pose) for view, pose in zip(views, w2c, strict=True)]

        def work(pair: tuple[int, int]) -> NDArray[np.uint32]:
            one, two = features[pair[0]], features[pair[1]]
            forward = band_matches(one, two, centres[pair[0]], views[pair[1]].K, w2c[pair[1]], config)
            back = band_matches(two, one, centres[pair[1]], views[pair[0]].K, w2c[pair[0]], config)
            mine = np.flatnonzero(forward >= 0)
            mutual = mine[back[forward[mine]] == mine]
            return np.stack([one.row[mutual], two.row[forward[mutual]]], axis=1).astype(np.uint32)

        with ThreadPoolExecutor(max(1, threads)) as pool:
            found = list(pool.map(work, pairs))
        for (i, j), matches in zip(pairs, found, strict=True):
            geometry = pycolmap.TwoViewGeometry()
            geometry.config = pycolmap.TwoViewGeometryConfiguration.CALIBRATED
            geometry.inlier_matches = matches
            one, two = ids[views[i].name], ids[views[j].name]
            opened.write_matches(one, two, matches)
            opened.write_two_view_geometry(one, two, geometry)
    return len(pairs), sum(map(len, found))


def band_matches(
    one: Features, two: Features, centre: Array, K: Array, w2c: Array, config: TriangulateConfig
) -> NDArray[np.int64]:
    """For each feature of a view the best one (N,) of another where it may lie, -1 for none or an ambiguous one.

    A point of the ball on a line of sight lies on a chord, which the other view sees as a segment of the epipolar line:
    only features within `max_epipolar` px of it are compared, so that the ratio test (Lowe 2004) is between few.

    Args:
        centre: (3,) of the first camera. K: (3, 3), w2c: (4, 4) of the other view. Both in the unit frame.
    """
    best = np.full(len(one.row), -1, dtype=np.int64)
    start, front = project(K, w2c, one.near)
    end, behind = project(K, w2c, one.far)
    along = end - start
    length = np.maximum(np.linalg.norm(along, axis=1), 1e-9)
    along /= length[:, None]
    usable, reach = (front > 0) & (behind > 0), config.max_epipolar
    found = []
    for mine, theirs in _near_planes(one, two, centre, K, w2c, reach):
        from_start = two.place[theirs] - start[mine]
        ahead = (from_start * along[mine]).sum(1)
        offset = np.abs(from_start[:, 0] * along[mine, 1] - from_start[:, 1] * along[mine, 0])
        near = usable[mine] & (offset <= reach) & (ahead >= -reach) & (ahead <= length[mine] + reach)
        mine, theirs = mine[near], theirs[near]
        found.append((mine, theirs, np.einsum("pd,pd->p", one.descriptor[mine], two.descriptor[theirs])))
    if not found:
        return best
    mine, theirs, likeness = (np.concatenate(parts) for parts in zip(*found, strict=True))
    order = np.lexsort((theirs, -likeness, mine))
    mine, theirs, likeness = mine[order], theirs[order], likeness[order]
    first = np.flatnonzero(np.diff(mine, prepend=-1))
    alone = np.append(first[1:], len(mine)) - first == 1
    next_one = np.where(alone, np.float32(-1), likeness[np.minimum(first + 1, len(mine) - 1)])
    # Of unit vectors: |a - b|^2 = 2 - 2 a.b; what rounding leaves of equal ones must not decide.
    distance, next_distance = (np.sqrt(np.maximum(2 - 2 * value, 1e-5)) for value in (likeness[first], next_one))
    good = (likeness[first] > 0) & (distance <= _MAX_DISTANCE) & (distance <= config.max_ratio * next_distance)
    best[mine[first[good]]] = theirs[first[good]]
    return best


def _near_planes(
    one: Features, two: Features, centre: Array, K: Array, w2c: Array, reach: float
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Pairs of features, among them all whose epipolar line passes within `reach` px, some at a time.

    A line of sight and the line through both cameras span a half plane, the same one in either view: sorted by its angle,
    the features near a line are neighbours. How far its angle may differ follows from how fast it changes from pixel to
    pixel, doubled as the change is not even; next to the epipole, where it is anything, nothing is left out.
    """
    count = len(one.row)
    if not count or not len(two.row):
        return
    baseline = centre - camera_centres(w2c[None])[0]
    across = np.linalg.svd(baseline[None])[2][1:]  # two directions at right angles to it

    def angle(direction: Array) -> Array:
        x, y = across @ direction.T
        return np.arctan2(y, x)

    def angle_at(place: Array) -> Array:
        return angle(pixel_rays(K, w2c, place)[1])

    mine, theirs = angle(one.far - one.near), angle_at(two.place)
    turns = [angle_at(two.place + step) - angle_at(two.place - step) for step in 0.5 * np.eye(2)]
    change = np.hypot(*(np.abs((turn + np.pi) % (2 * np.pi) - np.pi) for turn in turns))
    width = 2 * reach * change
    width[(width > _EVEN) | (np.linalg.norm(baseline) < _NEAR)] = np.pi
    order = np.argsort(mine, kind="stable")
    ring = np.concatenate([mine[order] + turn for turn in (-2 * np.pi, 0.0, 2 * np.pi)])
    first = np.searchsorted(ring, theirs - width)
    many = np.minimum(np.searchsorted(ring, theirs + width, side="right") - first, count)
    for part in np.split(np.arange(len(theirs)), np.flatnonzero(np.diff(np.cumsum(many) // _PAIRS)) + 1):
        row = np.repeat(part, many[part])
        within = np.arange(len(row)) - np.repeat(np.cumsum(many[part]) - many[part], many[part])
        yield order[(first[row] + within) % count], row


def _features(database: pycolmap.Database, image: int, view: View, w2c: Array) -> Features:
    """See `Features`; all of them in the unit frame, with w2c (4, 4) of the view there."""
    place = np.asarray(database.read_keypoints(image))[:, :2].astype(np.float64)
    descriptor = np.asarray(database.read_descriptors(image).data, dtype=np.float32)
    origin, direction = pixel_rays(view.K, w2c, place)
    middle = -(origin * direction).sum(-1)
    half = 1 - (origin * origin).sum(-1) + middle**2  # squared half chord
    row = np.flatnonzero((half > 0) & (middle + np.sqrt(np.maximum(half, 0)) > 0))
    origin, direction, middle, half = origin[row], direction[row], middle[row, None], np.sqrt(half[row, None])
    near = origin + np.maximum(middle - half, _NEAR) * direction
    descriptor = descriptor[row]
    descriptor /= np.maximum(np.linalg.norm(descriptor, axis=1, keepdims=True), 1e-9)
    return Features(row, place[row], near, origin + (middle + half) * direction, descriptor)
