"""Triangles of a grid cell for each of the 256 ways in which its corners lie inside and outside (Lorensen and Cline 1987).

The table is read off PyMCubes, one cell at a time, so that a mesh made with it is PyMCubes' own. Its polygons meet face to
face: two cells that share a face cut it along the same lines in opposite directions, and no diagonal lies in a face. So
every surface is closed, every edge has two triangles, and they agree about the outside (a test goes through all cases).
"""

from __future__ import annotations

from functools import cache
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

CORNERS = np.array(list(product((0, 1), repeat=3)))  # (8, 3); corner k has bit k of a case
_MOST_TRIANGLES = 5


class CellTable(NamedTuple):
    """Triangles by case; bit k of a case is set where the value at `CORNERS[k]` is negative.

    Attributes:
        number: (256,) int64 number of triangles. corner: (256, 5, 3, 3) int64 lower end of the edge on which a triangle's
            vertex lies, as steps from the cell's lower corner. axis: (256, 5, 3) int64 direction of that edge.
            Triangles are counter-clockwise seen from the positive side; rows beyond `number` are 0.
    """

    number: NDArray[np.int64]
    corner: NDArray[np.int64]
    axis: NDArray[np.int64]


@cache
def cell_table() -> CellTable:
    """The table; made in some milliseconds at the first call."""
    import mcubes

    count = np.zeros(256, dtype=np.int64)
    corner = np.zeros((256, _MOST_TRIANGLES, 3, 3), dtype=np.int64)
    axis = np.zeros((256, _MOST_TRIANGLES, 3), dtype=np.int64)
    for case in range(1, 255):
        bits = case >> np.arange(8) & 1
        vertices, faces = mcubes.marching_cubes(1.0 - 2.0 * bits.reshape(2, 2, 2), 0.0)
        # PyMCubes turns its triangles towards the negative side, which is our inside.
        doubled = np.rint(2 * vertices).astype(np.int64)[faces.astype(np.int64)[:, ::-1]]
        count[case] = len(faces)
        corner[case, : len(faces)] = doubled // 2
        axis[case, : len(faces)] = (doubled % 2).argmax(axis=2)  # values +-1 cross half way, at an odd coordinate
    return CellTable(count, corner, axis)
