"""Order of the axes of an array in memory.

NIfTI stores the first axis first, networks take the last axis first. NumPy copies one into the other value by value,
which misses the CPU's caches at each. In small blocks it is three times as fast.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

#: Length of a block along the two axes that change their places.
_BLOCK = 8


def contiguous(x: NDArray[Any], dtype: DTypeLike | None = None) -> NDArray[Any]:
    """Give an array in C order and of a dtype: itself if it is so, else a copy.

    Examples
    --------
    >>> contiguous(np.zeros((2, 3, 4), order="F")).strides
    (96, 32, 8)
    """
    last, first = x.ndim - 1, by_stride(x)[-1]
    if x.flags.c_contiguous or first == last:
        return np.ascontiguousarray(x, dtype)
    result = np.empty(x.shape, x.dtype if dtype is None else dtype)
    _copy(x, result, first, last)
    return result


def stacked(arrays: Sequence[NDArray[Any]]) -> NDArray[np.float32]:
    """Stack (I, J, K) arrays of any order in memory as (C, I, J, K) in C order, each copied once."""
    result = np.empty((len(arrays), *arrays[0].shape), np.float32)
    for array, channel in zip(arrays, result, strict=True):
        _copy(array, channel, by_stride(array)[-1], array.ndim - 1)
    return result


def _copy(x: NDArray[Any], result: NDArray[Any], first: int, last: int) -> None:
    """Copy x into an array in C order by blocks along the axis of its smallest steps and the last one."""
    if first == last:
        result[...] = x
        return
    for start in range(0, x.shape[first], _BLOCK):
        block: list[slice] = [slice(None)] * x.ndim
        block[first] = slice(start, start + _BLOCK)
        for other in range(0, x.shape[last], _BLOCK):
            block[last] = slice(other, other + _BLOCK)
            result[tuple(block)] = x[tuple(block)]


def fortran(x: NDArray[Any]) -> NDArray[Any]:
    """Give an array in Fortran order, as NIfTI stores it: itself if it is so, else a copy."""
    return contiguous(x.T).T


def by_stride(x: NDArray[Any]) -> list[int]:
    """Axes of an array, that of the largest steps in memory first."""
    steps = [abs(step) if size > 1 else np.inf for step, size in zip(x.strides, x.shape, strict=True)]
    return sorted(range(x.ndim), key=lambda axis: -steps[axis])
