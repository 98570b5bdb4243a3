"""Resampling along one axis as a matrix, so that a volume is resampled by one matrix product for each axis.

A matrix is (m, n): it takes n samples to m samples at the positions ``(i + 0.5) · n / m - 0.5``. The cubic matrix is
the interpolating B-spline with the borders of ``scipy.ndimage.zoom(order=3, mode="nearest", grid_mode=True)``, of
which scikit-image's ``resize`` is made.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float32]
#: Number of voxels by which SciPy repeats the border before it solves for the coefficients.
_BORDER = 12


@lru_cache(maxsize=32)
def cubic_matrix(n: int, m: int) -> Matrix:
    """Matrix (m, n) of the cubic B-spline."""
    size = n + 2 * _BORDER
    repeat = np.zeros((size, n))
    repeat[np.arange(size), np.clip(np.arange(size) - _BORDER, 0, n - 1)] = 1
    system = (
        np.diag(np.full(size, 4 / 6)) + np.diag(np.full(size - 1, 1 / 6), 1) + np.diag(np.full(size - 1, 1 / 6), -1)
    )
    system[0, 1] = system[-1, -2] = 2 / 6  # mirrored at the ends
    coefficients = np.linalg.solve(system, repeat)
    at = _positions(n, m) + _BORDER
    first = np.floor(at).astype(int)
    t = at - first
    weights = np.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3], axis=1) / 6
    taken = np.stack([coefficients[first + offset] for offset in (-1, 0, 1, 2)], axis=1)
    return np.asarray(np.einsum("mk,mkn->mn", weights, taken), dtype=np.float32)


@lru_cache(maxsize=32)
def linear_matrix(n: int, m: int) -> Matrix:
    """Matrix (m, n) of linear interpolation. Beyond the outer centres the border value holds."""
    at = np.clip(_positions(n, m), 0, n - 1)
    first = np.minimum(np.floor(at).astype(int), max(0, n - 2))
    matrix = np.zeros((m, n))
    rows = np.arange(m)
    matrix[rows, first] = 1 - (at - first)
    matrix[rows, np.minimum(first + 1, n - 1)] += at - first
    return matrix.astype(np.float32)


def nearest_indices(n: int, m: int) -> NDArray[np.intp]:
    """Index of the nearest of n samples for each of m positions; of two that are equally near, the upper one.

    Examples
    --------
    >>> nearest_indices(4, 2).tolist()
    [1, 3]
    """
    return np.clip(np.floor(_positions(n, m) + 0.5).astype(np.intp), 0, n - 1)


def along_axis(x: NDArray[np.float32], matrix: Matrix, axis: int) -> NDArray[np.float32]:
    """Multiply one of the axes 1, 2 and 3 of x (C, I, J, K) by a matrix."""
    if axis == 3:
        return np.asarray(x @ matrix.T)
    if axis == 2:
        return np.asarray(matrix @ x)
    c, i, j, k = x.shape
    return np.asarray(matrix @ x.reshape(c, i, j * k)).reshape(c, len(matrix), j, k)


def _positions(n: int, m: int) -> NDArray[np.float64]:
    return np.asarray((n / m) * (np.arange(m) + 0.5) - 0.5)
