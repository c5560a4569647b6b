"""Colours where no photograph looks, and around the charts."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nsr.mesh.surface import Mesh
from nsr.mesh.texture.photo import Floats

_PULL = 1e-4  # of an edge's weight: holds parts of the surface that no seen vertex reaches


def extended(mesh: Mesh, colour: Floats, seen: NDArray[np.bool_]) -> Floats:
    """Colours of all vertices (M, 3) in 0..255 from those of the seen ones.

    Over the unseen part a harmonic function on the mesh's edges continues what is known at its border: the difference
    between photographs and the mesh's own colours (those of the radiance field) where it has some, so that they meet
    without a step, and else the colour itself.
    """
    from scipy.sparse import coo_matrix, diags
    from scipy.sparse.linalg import cg

    mean = colour[seen].mean(axis=0) if seen.any() else np.full(3, 127.0)
    base = np.broadcast_to(mean, colour.shape) if mesh.colours is None else mesh.colours.astype(np.float64)
    known = np.where(seen[:, None], colour - base, 0.0)
    hidden = np.flatnonzero(~seen)
    if len(hidden):
        start, end = mesh.faces.reshape(-1), np.roll(mesh.faces, -1, axis=1).reshape(-1)
        ones = np.ones(2 * len(start))
        count = len(mesh.vertices)
        links = coo_matrix((ones, (np.r_[start, end], np.r_[end, start])), shape=(count, count)).tocsr()
        degree = np.asarray(links.sum(axis=1)).reshape(-1)
        rows = links[hidden]
        system = diags(degree[hidden] + _PULL) - rows[:, hidden]
        inverse = diags(1.0 / (degree[hidden] + _PULL))
        for channel in range(3):
            right = rows @ known[:, channel]
            known[hidden, channel] = cg(system, right, rtol=1e-4, maxiter=2000, M=inverse)[0]
    return np.clip(base + known, 0.0, 255.0).astype(np.float32)


def spread(image: NDArray[np.uint8], covered: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """The image (n, n, 3) with every texel outside `covered` (n, n) like the nearest one inside, so that no mipmap bleeds."""
    from scipy.ndimage import distance_transform_edt

    if covered.all() or not covered.any():
        return image
    nearest = distance_transform_edt(~covered, return_distances=False, return_indices=True)
    return np.asarray(image[nearest[0], nearest[1]])
