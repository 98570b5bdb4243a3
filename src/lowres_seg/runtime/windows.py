"""Sliding windows: where they lie, what each voxel of one weighs, and the running mean of their scores.

Positions and weights are those of nnU-Net 2 and of MONAI; see `Windows`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowres_seg.bundle.stage import Windows

Array = NDArray[np.float32]
Shape = tuple[int, int, int]
#: What nnU-Net lets its largest weight be, in half precision.
_NNUNET_PEAK = 10.0


def starts(size: int, roi: int, windows: Windows) -> list[int]:
    """First voxel of each window along one axis of `size` voxels, at least `roi`."""
    if windows.rules == "monai":
        step = roi if roi == size else max(1, int(roi * (1 - windows.overlap)))
        count = 1 + next(i for i in range(size) if i * step + roi >= size)
        return [min(i * step, size - roi) for i in range(count)]
    if roi == 1:
        return list(range(size))  # slices do not overlap
    count = math.ceil((size - roi) / (roi * (1 - windows.overlap))) + 1
    return [round((size - roi) / (count - 1) * i) for i in range(count)] if count > 1 else [0]


def weights(windows: Windows) -> Array:
    """Weight of each voxel of a window, as (D, H, W) that are all positive."""
    if windows.weights == "constant":
        return np.ones(windows.roi_size, np.float32)
    along = [_gaussian(n, windows) for n in windows.roi_size]
    product = along[0][:, None, None] * along[1][:, None] * along[2]
    if windows.rules == "monai":
        return np.asarray(np.maximum(product, max(product.min(), 1e-3)), dtype=np.float32)
    # In half precision, as nnU-Net keeps it: what it rounds to zero becomes the smallest that is left.
    product = (product * (_NNUNET_PEAK / product.max())).astype(np.float16).astype(np.float32)
    product[product == 0] = product[product > 0].min()
    return np.asarray(product)


def _gaussian(n: int, windows: Windows) -> NDArray[np.float64]:
    sigma = windows.sigma_scale * n
    if windows.rules == "monai":
        return np.asarray(np.exp(-0.5 * ((np.arange(n) - (n - 1) / 2) / sigma) ** 2))
    far = np.abs(np.arange(n) - n // 2)
    return np.where(far <= int(4 * sigma + 0.5), np.exp(-0.5 * (far / sigma) ** 2), 0.0)


class Accumulator:
    """Weighted mean of windows over a grid, of which only the planes that windows still reach are kept.

    Parameters
    ----------
    shape : tuple of 3 int
        Of the grid.
    windows : Windows
    whole : bool
        Keep every plane, for windows that come more than once.

    Under nnU-Net's rules sums are kept in half precision, as it keeps them: where weights are tiny, labels follow.
    """

    def __init__(self, shape: Shape, windows: Windows, *, whole: bool) -> None:
        self._shape = shape
        self._weights = weights(windows)
        # Memory that is used again and again: to ask the system for new pages takes longer than to compute.
        self._scratch = np.empty_like(self._weights)
        self._planes = shape[0] if whole else windows.roi_size[0]
        self._dtype: Any = np.float16 if windows.in_half else np.float32
        self._sum: NDArray[Any] | None = None
        self._total = np.zeros((self._planes, *shape[1:]), self._dtype)
        self._first = 0

    def add(self, scores: Array, at: Shape) -> None:
        """Add the scores (C, D, H, W) of the window that begins at `at`."""
        if self._sum is None:
            self._sum = np.zeros((len(scores), *self._total.shape), self._dtype)
        i, j, k = (slice(a, a + n) for a, n in zip((at[0] - self._first, *at[1:]), self._weights.shape, strict=True))
        # In float32, rounded where it is stored: numpy adds half precision ten times more slowly.
        np.add(self._total[i, j, k], self._weights, out=self._scratch)
        self._total[i, j, k] = self._scratch
        for channel, values in zip(self._sum, scores, strict=True):
            np.multiply(values, self._weights, out=self._scratch)
            self._scratch += channel[i, j, k]
            channel[i, j, k] = self._scratch

    def take(self, stop: int) -> tuple[slice, Array]:
        """Mean (C, planes, H, W) of the planes up to `stop`, which no further window reaches, and where they lie.

        It is in float32, or in float16 under nnU-Net's rules.
        """
        assert self._sum is not None  # noqa: S101 - windows were added
        count = stop - self._first
        done = slice(self._first, stop)
        result = self._sum[:, :count].astype(np.float32)
        result /= self._total[:count]
        result = result.astype(self._dtype, copy=False)
        for array in (self._sum, self._total[None]):
            array[:, : self._planes - count] = array[:, count:].copy()
            array[:, self._planes - count :] = 0
        self._first = stop
        return done, result


def rows(shape: Shape, windows: Windows) -> Iterator[tuple[list[Shape], int]]:
    """Windows over a grid, in rows that begin at one plane; and the first plane that later rows reach."""
    i, j, k = (starts(n, roi, windows) for n, roi in zip(shape, windows.roi_size, strict=True))
    for place, plane in enumerate(i):
        yield [(plane, b, c) for b in j for c in k], i[place + 1] if place + 1 < len(i) else shape[0]
