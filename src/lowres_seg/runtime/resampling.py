"""Resampling of a volume, axis after axis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from typing_extensions import assert_never

from lowres_seg.bundle.grids import Interpolation
from lowres_seg.runtime.interpolation import (
    Sampling,
    along_axis,
    area_matrix,
    floor_indices,
    linear,
    linear_matrix,
    nearest_indices,
    spline_matrix,
)
from lowres_seg.runtime.openvino_engine import resize
from lowres_seg.volumes.grid import three

Array = NDArray[np.float32]
Axes = tuple[Sampling, Sampling, Sampling]
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
    for place, axis in enumerate(axes):
        if not axis.changes_nothing:
            x = along(x, axis, place + 1, "nearest" if place == separate else interpolation, border)
    return np.ascontiguousarray(x, dtype=np.float32)


def along(x: Array, axis: Sampling, at: int, interpolation: Interpolation, border: Border = "edge") -> Array:
    """Resample one of the axes 1, 2 and 3 of x (C, I, J, K)."""
    match interpolation:
        case "nearest":
            taken = np.take(x, nearest_indices(axis), axis=at)
            if border == "zero":
                position = np.rint(axis.positions())
                inside = (position >= 0) & (position < axis.n)
                taken = taken * inside.astype(np.float32).reshape([-1 if place == at else 1 for place in range(4)])
            return np.asarray(taken)
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
