"""Resampling along one axis, so that a volume is resampled axis after axis.

A matrix is (m, n): it takes n samples to m samples. Splines are the interpolating B-splines of SciPy, with the borders
of its ``zoom(mode="nearest")`` and ``map_coordinates(mode="nearest")``. scikit-image's ``resize`` is made of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import comb, factorial

import numpy as np
from numpy.typing import NDArray

from lowres_seg.volumes.grid import three

Array = NDArray[np.float32]
Matrix = NDArray[np.float32]
#: Number of voxels by which SciPy repeats the border before it solves for the coefficients.
_BORDER = 12
#: How far from halfway, in samples, a lean can decide which of two samples is nearer.
_HALFWAY = 1e-4
#: A lean by less, for each step, is lost in the rounding of float64.
_LEANS = 1e-14


@dataclass(frozen=True)
class Sampling:
    """Positions of m new samples along an axis of n samples.

    Without `step` both begin and end at the same edges: new sample i lies at ``(i + 0.5) · n / m - 0.5``. Else new
    sample i lies at ``i · step + first``. `lean` is how far the position moves for each step along the three new axes,
    its own left out: what rounding of an oblique affine leaves, far less than a voxel.

    Examples
    --------
    >>> Sampling(4, 2).positions().tolist()
    [0.5, 2.5]
    >>> Sampling(4, 2, step=2.0, first=1.0).positions().tolist()
    [1.0, 3.0]
    """

    n: int
    m: int
    step: float | None = None
    first: float = 0.0
    lean: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def positions(self) -> NDArray[np.float64]:
        """Position of each new sample, in samples."""
        if self.step is None:
            return np.asarray((self.n / self.m) * (np.arange(self.m) + 0.5) - 0.5)
        return np.asarray(np.arange(self.m) * self.step + self.first)

    @property
    def changes_nothing(self) -> bool:
        """True if the new samples are the samples."""
        return self.n == self.m and self.step in (None, 1.0) and self.first == 0


Axes = tuple[Sampling, Sampling, Sampling]


def between(matrix: NDArray[np.float64], shape: Sequence[int], new_shape: Sequence[int]) -> Axes:
    """Sampling of three axes by a (4, 4) matrix from new indices to indices, nearly diagonal."""
    off = matrix[:3, :3] - np.diag(np.diag(matrix[:3, :3]))
    made = [
        Sampling(int(n), int(m), float(matrix[axis, axis]), float(matrix[axis, 3]), three(off[axis].tolist()))
        for axis, (n, m) in enumerate(zip(shape, new_shape, strict=True))
    ]
    return made[0], made[1], made[2]


@lru_cache(maxsize=32)
def spline_matrix(axis: Sampling, order: int) -> Matrix:
    """Matrix (m, n) of the B-spline of an order from 2 to 5."""
    size = axis.n + 2 * _BORDER
    repeat = np.zeros((size, axis.n))
    repeat[np.arange(size), np.clip(np.arange(size) - _BORDER, 0, axis.n - 1)] = 1
    system = np.zeros((size, size))
    rows = np.arange(size)
    for offset in range(-(order // 2), order // 2 + 1):
        columns = np.abs(rows + offset)  # mirrored at the ends
        columns = np.where(columns >= size, 2 * (size - 1) - columns, columns)
        np.add.at(system, (rows, columns), _spline(np.array(float(offset)), order))
    coefficients = np.linalg.solve(system, repeat)
    at = axis.positions() + _BORDER
    first = np.floor(at if order % 2 else at + 0.5).astype(int) - order // 2
    taps = np.clip(first[:, None] + np.arange(order + 1), 0, size - 1)
    weights = _spline(at[:, None] - (first[:, None] + np.arange(order + 1)), order)
    return np.asarray(np.einsum("mk,mkn->mn", weights, coefficients[taps]), dtype=np.float32)


@lru_cache(maxsize=32)
def linear_matrix(axis: Sampling) -> Matrix:
    """Matrix (m, n) of linear interpolation. Beyond the outer centres the border value holds."""
    n, m = axis.n, axis.m
    at = np.clip(axis.positions(), 0, n - 1)
    first = np.minimum(np.floor(at).astype(int), max(0, n - 2))
    matrix = np.zeros((m, n))
    rows = np.arange(m)
    matrix[rows, first] = 1 - (at - first)
    matrix[rows, np.minimum(first + 1, n - 1)] += at - first
    return matrix.astype(np.float32)


@lru_cache(maxsize=32)
def area_matrix(axis: Sampling) -> Matrix:
    """Matrix (m, n) of the means over each new sample's part of the axis, rounded outward to whole samples."""
    i = np.arange(axis.m)
    start, stop = i * axis.n // axis.m, -(-(i + 1) * axis.n // axis.m)
    k = np.arange(axis.n)
    inside = (k >= start[:, None]) & (k < stop[:, None])
    return np.asarray(inside / (stop - start)[:, None], dtype=np.float32)


def nearest_indices(axis: Sampling) -> NDArray[np.intp]:
    """Index of the nearest sample of each new one.

    Of two that are equally near it is the upper one, as torch's ``nearest-exact`` has it. With a step it is the one
    that the rounding of torch's ``grid_sample`` chooses.

    Examples
    --------
    >>> nearest_indices(Sampling(4, 2)).tolist()
    [1, 3]
    """
    if axis.step is None:
        at = np.floor(axis.positions() + 0.5)
    else:
        at = np.rint(_grid_sample_positions(axis.n, axis.m, axis.step, axis.first))
    return np.clip(at.astype(np.intp), 0, axis.n - 1)


@lru_cache(maxsize=64)
def nearest_between_edges(n: int, m: int) -> NDArray[np.intp]:
    """Index of the nearest of n samples for each of m that begin and end at the same edges.

    Of two that are about equally near it is the one that OpenVINO's Interpolate takes, which computes in float32. It is
    torch's ``nearest-exact`` but for its rounding there.

    Examples
    --------
    >>> nearest_between_edges(4, 2).tolist()
    [1, 3]
    """
    half = np.float32(0.5)
    at = (np.arange(m, dtype=np.float32) + half) / (np.float32(m) / np.float32(n)) - half
    return np.asarray(np.clip(np.floor(at + half).astype(np.intp), 0, n - 1))


def halfway(axis: Sampling) -> NDArray[np.intp]:
    """New samples that lie halfway between two others, but for their lean."""
    if axis.step is None or max(map(abs, axis.lean)) < _LEANS:
        return np.empty(0, np.intp)
    apart = np.abs(axis.positions() % 1 - 0.5)
    return np.flatnonzero(apart < _HALFWAY)


def _grid_sample_positions(n: int, m: int, step: float, first: float) -> NDArray[np.float64]:
    """Positions ``i · step + first`` as MONAI's transform and torch's ``grid_sample`` compute them in float64.

    They go through coordinates from -1 to 1. The rounding on this way decides between two samples that are equally
    near.
    """
    (wide, shift), _ = np.linalg.inv(np.array([[2 / m, 1 / m - 1], [0, 1]]))
    per_voxel = 2 / n * step
    scale, offset = per_voxel * wide, per_voxel * shift + (2 / n * first + (1 / n - 1))
    i, width = np.arange(m), np.longdouble(2 / max(1, m - 1))  # torch adds and multiplies without rounding between
    evenly = np.where(i < m // 2, width * i - 1, 1 - width * (m - 1 - i)).astype(np.float64)
    at = (evenly * (m - 1) / m) * scale + offset
    return np.asarray(((at + 1) * n - 1) / 2)


def floor_indices(axis: Sampling) -> NDArray[np.intp]:
    """Index floor(i · n / m) of each new sample, as torch's ``nearest`` has it."""
    # torch computes the ratio, and its product, in float32.
    ratio = np.float32(axis.n) / np.float32(axis.m)
    at = np.floor(np.arange(axis.m, dtype=np.float32) * ratio)
    return np.asarray(np.minimum(at, axis.n - 1), dtype=np.intp)


def linear(x: Array, positions: NDArray[np.float64], at: int, *, zero_beyond: bool) -> Array:
    """Linear interpolation along one of the axes 1, 2 and 3 of x (C, I, J, K).

    Parameters
    ----------
    x : (C, I, J, K) ndarray
    positions : (m,) ndarray
        In samples of the axis.
    at : int
        Which axis it is.
    zero_beyond : bool
        Whether what lies beyond the outer centres is zero, or else the border value.
    """
    n = x.shape[at]
    position = positions if zero_beyond else np.clip(positions, 0, n - 1)
    low = np.floor(position).astype(np.intp)
    shape = [-1 if place == at else 1 for place in range(4)]
    result: Array | None = None
    for index, weight in ((low, 1 - (position - low)), (low + 1, position - low)):
        inside = np.where((index >= 0) & (index < n), weight, 0).astype(np.float32).reshape(shape)
        part = np.take(x, np.clip(index, 0, n - 1), axis=at)
        part *= inside
        result = part if result is None else np.add(result, part, out=result)
    assert result is not None  # noqa: S101 - there are two neighbours
    return result


def along_axis(x: Array, matrix: Matrix, axis: int) -> Array:
    """Multiply one of the axes 1, 2 and 3 of x (C, I, J, K) by a matrix."""
    if axis == 3:
        return np.asarray(x @ matrix.T)
    if axis == 2:
        return np.asarray(matrix @ x)
    c, i, j, k = x.shape
    return np.asarray(matrix @ x.reshape(c, i, j * k)).reshape(c, len(matrix), j, k)


def _spline(t: NDArray[np.float64], order: int) -> NDArray[np.float64]:
    """Centred B-spline of an order at `t`."""
    total = np.zeros_like(t)
    for j in range(order + 2):
        total += (-1) ** j * comb(order + 1, j) * np.maximum(t + (order + 1) / 2 - j, 0) ** order
    return np.asarray(total / factorial(order))
