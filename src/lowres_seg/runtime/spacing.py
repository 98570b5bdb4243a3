"""Where MONAI's ``Spacing`` puts the voxels of a resampled grid.

It keeps the axes, and gives them another spacing. The first voxels have one centre, if one corner of the scan is the
lowest along all new axes; if the affine is oblique only so slightly that rounding makes it sheared, the grids have one
centre instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
from numpy.typing import NDArray

from lowres_seg.runtime.interpolation import Sampling
from lowres_seg.volumes.grid import three

#: MONAI keeps a spacing that differs from the wanted one by less, in mm.
SAME_SPACING_MM = 1e-3
#: MONAI takes a corner for the lowest if no other is lower by more, in voxels.
_LOWEST = 1e-8


def resampled_axes(
    affine: NDArray[np.float64], shape: tuple[int, int, int], wanted_mm: Sequence[float | None]
) -> tuple[Sampling, Sampling, Sampling]:
    """Sampling of each axis of a grid at another spacing.

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
    there = (np.linalg.solve(out, affine) @ corners)[:3]
    new_shape = np.round(np.ptp(there, axis=1) + 1).astype(int)
    for corner in range(corners.shape[1]):
        if np.all(np.abs((there - there[:, corner : corner + 1]).min(axis=1)) <= _LOWEST):
            out[:3, 3] = (affine @ corners)[:3, corner]
            break
    else:
        middle, new_middle = np.array(shape) / 2, new_shape / 2
        out[:3, 3] = affine[:3, :3] @ middle + affine[:3, 3] - out[:3, :3] @ new_middle
    back = np.linalg.solve(affine, out)
    if np.array_equal(new_shape, shape) and np.allclose(back, np.eye(4), atol=SAME_SPACING_MM):
        return three(Sampling(n, n, 1.0) for n in shape)
    return three(
        Sampling(n, int(m), float(back[axis, axis]), float(back[axis, 3]))
        for axis, (n, m) in enumerate(zip(shape, new_shape, strict=True))
    )


def _with_spacing(affine: NDArray[np.float64], spacing: NDArray[np.float64]) -> NDArray[np.float64]:
    """Affine with the same rotation, another spacing and no translation."""
    matrix = affine[:3, :3]
    zooms = np.linalg.cholesky(matrix.T @ matrix).T
    result = np.eye(4)
    result[:3, :3] = (matrix @ np.linalg.inv(zooms)) @ np.diag(np.sign(np.diag(zooms)) * spacing)
    return result
