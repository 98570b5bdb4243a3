"""Where MONAI's ``Spacing`` puts the voxels of a resampled grid.

It keeps the axes, and gives them another spacing. The first voxels have one centre, if one corner of the scan is the
lowest along all new axes; if the affine is oblique only so slightly that rounding makes it sheared, the grids have one
centre instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowres_seg.volumes.grid import three

#: MONAI keeps a spacing that differs from the wanted one by less, in mm.
SAME_SPACING_MM = 1e-3
#: MONAI takes a corner for the lowest if no other is lower by more, in voxels.
_LOWEST = 1e-8


def resampled_grid(
    affine: NDArray[np.float64], shape: tuple[int, int, int], wanted_mm: Sequence[float | None]
) -> tuple[tuple[int, int, int], NDArray[np.float64], NDArray[np.float64]]:
    """Shape of a grid at another spacing, and the (4, 4) matrices from its indices to those of the first grid and back.

    Each is solved from affines, as MONAI does it: its rounding decides where a voxel lies halfway between two others.

    Parameters
    ----------
    affine : (4, 4) ndarray
        Of the grid.
    shape : tuple of 3 int
        Number of its voxels.
    wanted_mm : sequence of 3 float or None
        New spacing; None keeps that of the axis.
    """
    have = np.sqrt((affine[:3, :3] ** 2).sum(axis=0))
    wanted = np.array(
        [
            mm if new is None or abs(mm - new) <= SAME_SPACING_MM else new
            for mm, new in zip(have, wanted_mm, strict=True)
        ]
    )
    out = _with_spacing(affine, wanted)
    corners = np.array([[*corner, 1.0] for corner in product(*((0.0, n - 1.0) for n in shape))]).T
    placed = (np.linalg.solve(out, affine) @ corners)[:3]
    new_shape = np.round(np.ptp(placed, axis=1) + 1).astype(int)
    for corner in range(corners.shape[1]):
        if np.all(np.abs((placed - placed[:, corner : corner + 1]).min(axis=1)) <= _LOWEST):
            out[:3, 3] = (affine @ corners)[:3, corner]
            break
    else:
        middle, new_middle = np.array(shape) / 2, new_shape / 2
        out[:3, 3] = affine[:3, :3] @ middle + affine[:3, 3] - out[:3, :3] @ new_middle
    there = np.asarray(np.linalg.solve(affine, out), np.float64)
    back = np.asarray(np.linalg.solve(_product(affine, there), affine), np.float64)
    if np.array_equal(new_shape, shape) and np.allclose(there, np.eye(4), atol=SAME_SPACING_MM):
        there = back = np.eye(4)
    return three(new_shape.tolist()), there, back


def _with_spacing(affine: NDArray[np.float64], spacing: NDArray[np.float64]) -> NDArray[np.float64]:
    """Affine with the same rotation, another spacing and no translation."""
    matrix = affine[:3, :3]
    zooms = np.linalg.cholesky(matrix.T @ matrix).T
    result = np.eye(4)
    result[:3, :3] = (matrix @ np.linalg.inv(zooms)) @ np.diag(np.sign(np.diag(zooms)) * spacing)
    return result


def _product(a: NDArray[np.float64], b: NDArray[np.float64]) -> Any:
    """Matrix product, each sum rounded in torch's order. Those of numpy's libraries may be fused."""
    total = a[:, :1] * b[:1]
    for k in range(1, len(b)):
        total = total + a[:, k : k + 1] * b[k : k + 1]
    return total
