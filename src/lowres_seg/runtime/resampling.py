"""Resampling of a volume, axis after axis."""

from __future__ import annotations

from typing import Any, Literal, TypeGuard

import numpy as np
from numpy.typing import NDArray
from typing_extensions import assert_never

from lowres_seg.bundle.grids import Across, Clipped, Interpolation
from lowres_seg.runtime.interpolation import (
    Axes,
    Sampling,
    along_axis,
    area_matrix,
    floor_indices,
    halfway,
    linear,
    linear_matrix,
    nearest_between_edges,
    nearest_indices,
    spline_matrix,
)
from lowres_seg.runtime.openvino_engine import resize
from lowres_seg.runtime.ordering import by_stride, contiguous
from lowres_seg.volumes.grid import three

Array = NDArray[np.float32]
Border = Literal["edge", "zero"]
#: Order of each spline that is clipped to the range of its input.
_CLIPPED: dict[Clipped, int] = {"quadratic": 2, "cubic": 3, "quartic": 4, "quintic": 5}


def resample(
    x: Array,
    axes: Axes,
    interpolation: Interpolation,
    *,
    separate: int | None = None,
    across: Across = "nearest",
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
        Axis that is resampled apart from the others.
    across : str
        Interpolation along that axis.
    border : {"edge", "zero"}
        What lies beyond the outer centres.
    threads : int
    """
    if all(axis.changes_nothing for axis in axes):
        return contiguous(x, np.float32)
    if is_clipped(interpolation):
        x = clipped(x, axes, interpolation, separate)
    elif interpolation in ("nearest", "linear") and all(axis.step is None for axis in axes):
        inner = three(axis.n if place == separate else axis.m for place, axis in enumerate(axes))
        x = picked(x, inner) if interpolation == "nearest" else resize(x, inner, threads=threads)
    elif interpolation == "nearest":
        return nearest(x, axes, slice(0, axes[0].m), border)
    else:
        for place, axis in enumerate(axes):
            if not axis.changes_nothing and place != separate:
                x = along(x, axis, place + 1, interpolation, border)
    if separate is not None and not axes[separate].changes_nothing:
        x = along(x, axes[separate], separate + 1, across, border)
    return contiguous(x, np.float32)


def along(x: Array, axis: Sampling, at: int, interpolation: Interpolation, border: Border = "edge") -> Array:
    """Resample one of the axes 1, 2 and 3 of x (C, I, J, K). Splines are not clipped."""
    match interpolation:
        case "nearest":
            return np.take(x, nearest_indices(axis), axis=at)
        case "floor":
            return np.take(x, floor_indices(axis), axis=at)
        case "linear":
            return linear(x, axis.positions(), at, zero_beyond=border == "zero")
        case "area":
            return along_axis(contiguous(x), area_matrix(axis), at)
        case "quadratic" | "cubic" | "quartic" | "quintic" | "spline-2" | "spline-3" | "spline-4" | "spline-5":
            return along_axis(contiguous(x), spline_matrix(axis, _order(interpolation)), at)
        case _:
            assert_never(interpolation)


def picked(x: Array, shape: tuple[int, int, int]) -> Array:
    """Resample (C, I, J, K) to (C, *shape) by the nearest samples, between the same edges.

    Axes that lose samples come before the copy to C order, and axes that gain samples after it.
    """
    indices = [nearest_between_edges(n, m) for n, m in zip(x.shape[1:], shape, strict=True)]
    for axis in by_stride(x):
        if axis and len(indices[axis - 1]) < x.shape[axis]:
            x = _take(x, indices[axis - 1], axis)
            indices[axis - 1] = np.arange(x.shape[axis])
    x = contiguous(x, np.float32)
    if x.shape[1:] == shape:
        return x
    i, j, k = indices
    result = np.empty((len(x), *shape), np.float32)
    for channel, planes in zip(result, x, strict=True):
        for new, old in enumerate(i):
            if new and old == i[new - 1]:
                channel[new] = channel[new - 1]
            else:  # a plane stays in the CPU's caches until it is done
                np.take(np.take(planes[old], k, 1, mode="clip"), j, 0, out=channel[new], mode="clip")
    return result


def _take(x: Array, indices: NDArray[np.intp], axis: int) -> Array:
    """Samples of one axis. `np.take` is the fastest way, and copies what is not in C order first."""
    if x.flags.c_contiguous:
        return np.take(x, indices, axis, mode="clip")
    where: tuple[Any, ...] = (*[slice(None)] * axis, indices)
    return np.asarray(x[where])


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
                here = [slice(None), *(new if other == place else slice(None) for other in range(3))]
                result[tuple(here)] = x[:, plane[0], plane[1], plane[2]]
    if border == "zero":
        for place, axis in enumerate(axes):
            position = np.rint(axis.positions())[starts[place] :][: result.shape[1 + place]]
            inside = (position >= 0) & (position < axis.n)
            result *= inside.astype(np.float32).reshape([-1 if at == place + 1 else 1 for at in range(4)])
    return result


def planes_of(
    x: Array,
    axes: Axes,
    planes: slice,
    interpolation: Interpolation,
    *,
    separate: int | None = None,
    across: Across = "nearest",
    border: Border = "edge",
    threads: int,
) -> Array:
    """Resample (C, I, J, K) along each axis as `resample` does, and keep some of the new planes of the first axis.

    Only the planes that they depend on are looked at.
    """
    if interpolation == "nearest" and any(axis.step is not None for axis in axes):
        return nearest(x, axes, planes, border)
    first, second, third = axes
    if separate == 0 and across != "nearest":
        near = _near(first, planes, across)
        kept = Sampling(near.stop - near.start, near.stop - near.start)
        inner = (kept, second, third)
        part = resample(x[:, near], inner, interpolation, separate=0, border=border, threads=threads)
        return _planes(part, first, planes, across, border, near.start)
    part = _planes(x, first, planes, "nearest" if separate == 0 else interpolation, border)
    kept = Sampling(part.shape[1], part.shape[1])
    if separate == 0 or not is_clipped(interpolation):
        inner = (kept, second, third)
        return resample(part, inner, interpolation, separate=separate, across=across, border=border, threads=threads)
    low, high = _range(x, separate)
    for place, axis in ((1, second), (2, third)):
        if place != separate and not axis.changes_nothing:
            part = along(part, axis, place + 1, interpolation, border)
    part = np.clip(part, low, high)
    if separate is not None and not axes[separate].changes_nothing:
        part = along(part, axes[separate], separate + 1, across, border)
    return contiguous(part, np.float32)


def clipped(x: Array, axes: Axes, interpolation: Clipped, separate: int | None) -> Array:
    """Resample (C, I, J, K) along each axis but one by a spline, clipped to the range of what is resampled at a time.

    That is the volume, or each slice along the separate axis.
    """
    low, high = _range(x, separate)
    for place, axis in enumerate(axes):
        if place != separate and not axis.changes_nothing:
            x = along(x, axis, place + 1, interpolation)
    return np.asarray(np.clip(x, low, high))


def is_clipped(interpolation: Interpolation) -> TypeGuard[Clipped]:
    """Tell whether an interpolation is clipped to the range of its input."""
    return interpolation in _CLIPPED


def _range(x: Array, separate: int | None) -> tuple[Array, Array]:
    """Least and largest value of each channel, or of each of its slices along an axis."""
    axes = tuple(1 + axis for axis in range(3) if axis != separate)
    return x.min(axis=axes, keepdims=True), x.max(axis=axes, keepdims=True)


def _near(axis: Sampling, planes: slice, interpolation: Interpolation) -> slice:
    """Planes that some of the new planes depend on."""
    used = np.flatnonzero(_matrix(axis, interpolation)[planes].any(axis=0))
    return slice(int(used[0]), int(used[-1]) + 1)


def _planes(
    x: Array, axis: Sampling, planes: slice, interpolation: Interpolation, border: Border, start: int = 0
) -> Array:
    """Resample the first axis of x (C, I, J, K), and keep some of the new planes. Plane `start` is the first of x."""
    if axis.changes_nothing:
        return x[:, planes]
    if interpolation in ("nearest", "floor"):
        indices = nearest_indices(axis) if interpolation == "nearest" else floor_indices(axis)
        return x[:, indices[planes] - start]
    if interpolation == "linear" and (border == "zero" or axis.step is not None):
        position = axis.positions()[planes]
        low = min(max(0, int(np.floor(position[0]))), axis.n - 1)
        high = max(low + 1, min(axis.n, int(np.floor(position[-1])) + 2))
        return linear(x[:, low - start : high - start], position - low, 1, zero_beyond=border == "zero")
    near = _near(axis, planes, interpolation)
    matrix = _matrix(axis, interpolation)[planes, near]
    return along_axis(contiguous(x[:, near.start - start : near.stop - start]), matrix, 1)


def _matrix(axis: Sampling, interpolation: Interpolation) -> NDArray[np.float32]:
    match interpolation:
        case "linear":
            return linear_matrix(axis)
        case "area":
            return area_matrix(axis)
        case "nearest" | "floor":
            indices = nearest_indices(axis) if interpolation == "nearest" else floor_indices(axis)
            return np.eye(axis.n, dtype=np.float32)[indices]
        case _:
            return spline_matrix(axis, _order(interpolation))


def _order(interpolation: Interpolation) -> int:
    return _CLIPPED[interpolation] if is_clipped(interpolation) else int(interpolation[-1])
