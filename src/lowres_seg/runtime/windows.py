"""Sliding windows: their positions, their weights, and the weighted mean of their scores.

Positions and weights follow the convention of nnU-Net 2 or of MONAI; see `Windows`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowres_seg.bundle.bounds import WINDOWS
from lowres_seg.bundle.windows import Windows
from lowres_seg.errors import EngineError, InputError
from lowres_seg.runtime.finite import count_not_finite

Array = NDArray[np.float32]
Shape = tuple[int, int, int]
#: Largest weight of nnU-Net's Gaussian, which it keeps in half precision.
_NNUNET_PEAK = 10.0


def starts(size: int, axis: int, windows: Windows) -> list[int]:
    """First voxel of each window along an axis of `size` voxels, at least as many as a window has."""
    roi, overlap = windows.roi_size[axis], windows.overlaps[axis]
    if windows.convention == "monai":
        step = roi if roi == size else max(1, int(roi * (1 - overlap)))
        count = 1 + next(i for i in range(size) if i * step + roi >= size)
        return [min(i * step, size - roi) for i in range(count)]
    if roi == 1:
        return list(range(size))  # nnU-Net's slices do not overlap
    count = math.ceil((size - roi) / (roi * (1 - overlap))) + 1
    return [round((size - roi) / (count - 1) * i) for i in range(count)] if count > 1 else [0]


def weights(windows: Windows) -> Array:
    """Weight of each voxel of a window, as (D, H, W); all are positive."""
    if windows.weights == "constant":
        return np.ones(windows.roi_size, np.float32)
    along = [_gaussian(n, scale, windows) for n, scale in zip(windows.roi_size, windows.sigma_scales, strict=True)]
    product = along[0][:, None, None] * along[1][:, None] * along[2]
    if windows.convention == "monai":
        return np.asarray(np.maximum(product, max(product.min(), 1e-3)), dtype=np.float32)
    # nnU-Net keeps the weights in half precision. Those that round to zero become the smallest positive weight.
    product = (product * (_NNUNET_PEAK / product.max())).astype(np.float16).astype(np.float32)
    product[product == 0] = product[product > 0].min()
    return np.asarray(product)


def _gaussian(n: int, scale: float, windows: Windows) -> NDArray[np.float64]:
    sigma = scale * n
    if windows.convention == "monai":
        return np.asarray(np.exp(-0.5 * ((np.arange(n) - (n - 1) / 2) / sigma) ** 2))
    far = np.abs(np.arange(n) - n // 2)
    return np.where(far <= int(4 * sigma + 0.5), np.exp(-0.5 * (far / sigma) ** 2), 0.0)


class Accumulator:
    """Weighted mean of the scores of windows over a grid.

    It keeps a band of planes along the first axis. Planes that no further window reaches are taken out.

    Parameters
    ----------
    shape : tuple of 3 int
        Shape of the grid.
    windows : Windows
        With nnU-Net's convention sums are kept in half precision, as nnU-Net keeps them: where weights are tiny, the
        labels depend on it.
    planes : int
        Number of planes to keep: at least a window's.
    """

    def __init__(self, shape: Shape, windows: Windows, *, planes: int) -> None:
        self._shape = shape
        self._weights = weights(windows)
        # One array for all windows: new pages from the system would take longer than the computation.
        self._scratch = np.empty_like(self._weights)
        self._planes = planes
        self._dtype: Any = np.float16 if windows.in_half else np.float32
        self._sum: NDArray[Any] | None = None
        self._total = np.zeros((self._planes, *shape[1:]), self._dtype)
        self._first = 0

    def add(self, scores: Array, at: Shape) -> None:
        """Add the scores (C, D, H, W) of the window that begins at voxel `at`."""
        if self._sum is None:
            self._sum = np.zeros((len(scores), *self._total.shape), self._dtype)
        i, j, k = (slice(a, a + n) for a, n in zip((at[0] - self._first, *at[1:]), self._weights.shape, strict=True))
        # Computed in float32 and rounded when stored: numpy adds in half precision ten times more slowly.
        np.add(self._total[i, j, k], self._weights, out=self._scratch)
        self._total[i, j, k] = self._scratch
        with np.errstate(over="ignore"):  # `take` refuses what half precision does not hold
            for channel, values in zip(self._sum, scores, strict=True):
                np.multiply(values, self._weights, out=self._scratch)
                self._scratch += channel[i, j, k]
                channel[i, j, k] = self._scratch

    def take(self, stop: int) -> tuple[slice, Array]:
        """Take out the planes before `stop`, which no further window reaches.

        Returns
        -------
        planes : slice
            Where they lie on the grid.
        mean : (C, planes, H, W) ndarray
            In float32, or in float16 with nnU-Net's convention.

        Raises
        ------
        EngineError
            If a sum is too large for its precision.
        """
        assert self._sum is not None  # noqa: S101 - windows were added
        count = stop - self._first
        done = slice(self._first, stop)
        result = self._sum[:, :count].astype(np.float32)
        bad = count_not_finite(result)
        if bad:
            raise EngineError(
                f"{bad} sums of weighted scores are too large for {np.dtype(self._dtype)}: the network's scores are "
                "far beyond those of a trained one"
            )
        result /= self._total[:count]
        result = result.astype(self._dtype, copy=False)
        for array in (self._sum, self._total[None]):
            array[:, : self._planes - count] = array[:, count:].copy()
            array[:, self._planes - count :] = 0
        self._first = stop
        return done, result


def rows(shape: Shape, windows: Windows) -> Iterator[tuple[list[Shape], int]]:
    """Group the windows over a grid by their first plane.

    Yields
    ------
    starts : list of tuple of 3 int
        First voxels of the windows that begin at one plane.
    stop : int
        First plane that later windows reach.

    Raises
    ------
    InputError
        If there would be more windows than any scan needs.
    """
    i, j, k = (starts(n, axis, windows) for axis, n in enumerate(shape))
    if len(i) * len(j) * len(k) > WINDOWS:
        raise InputError(
            f"the scan would be cut into {len(i) * len(j) * len(k)} windows on a grid of {'×'.join(map(str, shape))} "
            f"voxels, more than {WINDOWS}; check its spacing"
        )
    for place, plane in enumerate(i):
        yield [(plane, b, c) for b in j for c in k], i[place + 1] if place + 1 < len(i) else shape[0]
