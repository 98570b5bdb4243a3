"""Resampling of a volume, axis after axis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from typing_extensions import assert_never

from lowres_seg.bundle.grids import Interpolation
from lowres_seg.runtime.interpolation import (
    Axes,
    Sampling,
    along_axis,
    area_matrix,
    floor_indices,
    halfway,
    linear,
    linear_matrix,
    nearest_indices,
    spline_matrix,
)
from lowres_seg.runtime.openvino_engine import resize
from lowres_seg.volumes.grid import three

Array = NDArray[np.float32]
Border = Literal["edge", "zero"]


def resample(
    x: Array,
    axes: Axes,
    interpolation: Interpolation,
    *,
    separate: int | None = None,
    border: Border = "edge",
    threads: int,
) -> Array:
    """Resample (C, I, J, K) along each axis.

    Parameters
    ----------
    x : (C, I, J, K) ndarray
    axes : tuple of 3 Sampling
    interpolation : str
        As in `Conform`.
    separate : int or None
        Axis that is sampled by nearest.
    border : {"edge", "zero"}
        What lies beyond the outer centres.
    threads : int
    """
    if all(axis.changes_nothing for axis in axes):
        return np.ascontiguousarray(x, dtype=np.float32)
    if interpolation in ("nearest", "linear", "cubic") and all(axis.step is None for axis in axes):
        return _between_edges(x, three(axis.m for axis in axes), interpolation, separate, threads)
    if interpolation == "nearest":
        return nearest(x, axes, slice(0, axes[0].m), border)
    for place, axis in enumerate(axes):
        if not axis.changes_nothing:
            x = along(x, axis, place + 1, "nearest" if place == separate else interpolation, border)
    return np.ascontiguousarray(x, dtype=np.float32)


def along(x: Array, axis: Sampling, at: int, interpolation: Interpolation, border: Border = "edge") -> Array:
    """Resample one of the axes 1, 2 and 3 of x (C, I, J, K)."""
    match interpolation:
        case "nearest":
            return np.take(x, nearest_indices(axis), axis=at)
        case "floor":
            return np.take(x, floor_indices(axis), axis=at)
        case "linear":
            return linear(x, axis.positions(), at, zero_beyond=border == "zero")
        case "area":
            return along_axis(np.ascontiguousarray(x), area_matrix(axis), at)
        case "cubic":
            return along_axis(np.ascontiguousarray(x), spline_matrix(axis, 3), at)
        case "spline-2" | "spline-3" | "spline-4" | "spline-5":
            return along_axis(np.ascontiguousarray(x), spline_matrix(axis, int(interpolation[-1])), at)
        case _:
            assert_never(interpolation)


def nearest(x: Array, axes: Axes, planes: slice, border: Border) -> Array:
    """The nearest samples of (C, I, J, K), for some of the new planes.

    Where a new sample lies halfway between two others, the lean of the axes decides, as in three dimensions.
    """
    indices = [nearest_indices(axis) for axis in axes]
    indices[0] = indices[0][planes]
    result = np.asarray(x[:, indices[0][:, None, None], indices[1][:, None], indices[2]], dtype=np.float32)
    starts = (planes.start, 0, 0)
    for place, axis in enumerate(axes):
        first, second = (other for other in range(3) if other != place)
        rows, columns = (np.arange(len(indices[other])) + starts[other] for other in (first, second))
        lean = axis.lean[first] * rows[:, None] + axis.lean[second] * columns
        for new in halfway(axis) - starts[place]:
            if 0 <= new < len(indices[place]):
                position = axis.positions()[new + starts[place]] + lean
                plane = {place: np.clip(np.rint(position), 0, axis.n - 1).astype(np.intp)}
                plane |= {first: indices[first][:, None], second: indices[second]}
                here = tuple(new if other == place else slice(None) for other in range(3))
                result[(slice(None), *here)] = x[:, plane[0], plane[1], plane[2]]
    if border == "zero":
        for place, axis in enumerate(axes):
            position = np.rint(axis.positions())[starts[place] :][: result.shape[1 + place]]
            inside = (position >= 0) & (position < axis.n)
            result *= inside.astype(np.float32).reshape([-1 if at == place + 1 else 1 for at in range(4)])
    return result


def planes_of(
    x: Array, axis: Sampling, planes: slice, interpolation: Interpolation, border: Border, *, separate: bool
) -> Array:
    """Resample the first axis of x (C, I, J, K), and keep some of the new planes.

    Only the planes that they depend on are looked at.
    """
    if axis.changes_nothing:
        return x[:, planes]
    if separate or interpolation == "nearest":
        return x[:, nearest_indices(axis)[planes]]
    if interpolation == "floor":
        return x[:, floor_indices(axis)[planes]]
    if interpolation == "linear" and (border == "zero" or axis.step is not None):
        position = axis.positions()[planes]
        low = min(max(0, int(np.floor(position[0]))), axis.n - 1)
        high = max(low + 1, min(axis.n, int(np.floor(position[-1])) + 2))
        return linear(x[:, low:high], position - low, 1, zero_beyond=border == "zero")
    matrix = _matrix(axis, interpolation)[planes]
    used = np.flatnonzero(matrix.any(axis=0))
    near = slice(used[0], used[-1] + 1)
    return along_axis(np.ascontiguousarray(x[:, near]), matrix[:, near], 1)


def _matrix(axis: Sampling, interpolation: Interpolation) -> NDArray[np.float32]:
    match interpolation:
        case "linear":
            return linear_matrix(axis)
        case "area":
            return area_matrix(axis)
        case "cubic":
            return spline_matrix(axis, 3)
        case _:
            return spline_matrix(axis, int(interpolation[-1]))


def _between_edges(
    x: Array,
    shape: tuple[int, int, int],
    interpolation: Literal["nearest", "linear", "cubic"],
    separate: int | None,
    threads: int,
) -> Array:
    """Resample (C, I, J, K) to (C, *shape), by OpenVINO unless it is cubic."""
    inner = three(x.shape[1 + axis] if axis == separate else shape[axis] for axis in range(3))
    x = _cubic(x, inner, separate) if interpolation == "cubic" else resize(x, inner, interpolation, threads=threads)
    if separate is not None and inner != shape:
        x = np.take(x, nearest_indices(Sampling(inner[separate], shape[separate])), axis=1 + separate)
    return x


def _cubic(x: Array, shape: tuple[int, int, int], separate: int | None) -> Array:
    # Clipped to the range of what is resampled at a time: the volume, or each slice along the separate axis.
    axes: Sequence[int] = [1, 2, 3] if separate is None else [1 + axis for axis in range(3) if axis != separate]
    low, high = x.min(axis=tuple(axes), keepdims=True), x.max(axis=tuple(axes), keepdims=True)
    for axis in axes:
        if x.shape[axis] != shape[axis - 1]:
            x = along(x, Sampling(x.shape[axis], shape[axis - 1]), axis, "cubic")
    return np.asarray(np.clip(x, low, high))
