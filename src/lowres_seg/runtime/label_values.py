"""Label values that are interpolated and rounded, as MONAI writes them if it inverts a label map without nearest.

Many of them lie halfway between two labels, but for what rounding of an oblique affine leaves. It decides which label
such a voxel gets, so they are computed once more in float64.
"""

from __future__ import annotations

from itertools import product
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lowres_seg.runtime.interpolation import Axes
from lowres_seg.runtime.resampling import Border

Array = NDArray[np.float32]
#: Values this near to where rounding changes are computed in float64: far more than float32 and a lean are off.
_CLOSE = 1e-3


def rounded(
    values: Array, y: Array, axes: Axes, planes: slice, *, border: Border, rounding: Literal["nearest", "down"]
) -> NDArray[np.uint8]:
    """Round label values (P, J, K), which were linearly interpolated along each axis.

    Parameters
    ----------
    values : (P, J, K) ndarray
        Interpolated in float32.
    y : (A, B, C) ndarray
        The labels that they were interpolated from.
    axes : tuple of 3 Sampling
    planes : slice
        Which of the new planes of the first axis they are.
    border : {"edge", "zero"}
        What lies beyond the outer centres.
    rounding : {"nearest", "down"}
    """
    edge = 0.5 if rounding == "nearest" else 0.0
    apart = values - edge
    close = np.nonzero((np.abs(apart - np.rint(apart)) < _CLOSE) & (values != 0))
    result = values.copy()
    if close[0].size:
        places = (close[0] + planes.start, close[1], close[2])
        # MONAI interpolates in float64, and rounds what it keeps in float32.
        result[close] = _interpolated(y, axes, places, border).astype(np.float32)
    return (np.rint(result) if rounding == "nearest" else np.floor(result)).astype(np.uint8)


def _interpolated(y: Array, axes: Axes, places: tuple[NDArray[np.intp], ...], border: Border) -> NDArray[np.float64]:
    """Values (N,) at some of the new voxels, by linear interpolation in float64. The lean of the axes counts."""
    corners = []
    for axis, place in zip(axes, places, strict=True):
        position = axis.positions()[place]
        for by, other in zip(axis.lean, places, strict=True):
            position += by * other
        if border == "edge":
            position = np.clip(position, 0, axis.n - 1)
        low = np.floor(position)
        weights = (1 - (position - low), position - low)
        corners.append(
            [
                (np.clip(index, 0, axis.n - 1), np.where((index >= 0) & (index < axis.n), weight, 0))
                for index, weight in zip((low.astype(np.intp), low.astype(np.intp) + 1), weights, strict=True)
            ]
        )
    total = np.zeros(len(places[0]))
    for (i, a), (j, b), (k, c) in product(*corners):
        total += y[i, j, k] * (a * b * c)
    return total
