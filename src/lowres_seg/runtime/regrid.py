"""A result on another grid: the box around it, or the grid of another scan."""

from __future__ import annotations

from itertools import product
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowres_seg.errors import InputError
from lowres_seg.runtime.region import box_of_nonzero
from lowres_seg.volumes.grid import Box, Grid
from lowres_seg.volumes.header import shifted
from lowres_seg.volumes.volume import Volume

#: Digits of a position in voxels: what the product of two affines leaves behind them is noise, and no place.
_DIGITS = 6


def box_around_labels(labels: Volume) -> Box:
    """Box around what is labelled.

    Raises
    ------
    InputError
        If nothing is.
    """
    box = box_of_nonzero(labels.data)
    if box is None:
        raise InputError(f"{labels.name}: its result is empty, and there is no box around it; leave --crop out")
    return box


def cropped(volume: Volume, box: Box) -> Volume:
    """The voxels of a box, with the place that they have in the volume."""
    affine = np.array(volume.grid.affine)
    affine[:3, 3] = (affine @ [*box.start, 1])[:3]
    data = volume.data[box.slices].copy(order="K")
    header = None if volume.header is None else shifted(volume.header, data, box.start, affine)
    return Volume(data, Grid(box.shape, affine), header, name=volume.name)


def check_overlap(grid: Grid, other: Grid, names: tuple[str, str]) -> None:
    """Check that two grids share some space.

    Raises
    ------
    InputError
        If no voxel of the second has its centre in the first.
    """
    if not any(inside.any() for _, _, inside in _positions(grid, other)):
        raise InputError(
            f"{names[0]}: no voxel of {names[1]} lies within it, so there is nothing to put there; name a scan of the "
            "same head in the same space with --like"
        )


def beyond(labels: Volume, other: Grid) -> float:
    """Share of what is labelled that lies outside of another grid, from 0 to 1."""
    at = np.argwhere(labels.data)
    if not len(at):
        return 0.0
    matrix = np.linalg.inv(other.affine) @ labels.grid.affine
    place = np.round(at @ matrix[:3, :3].T + matrix[:3, 3], _DIGITS)
    inside = ((place >= -0.5) & (place < np.array(other.shape) - 0.5)).all(axis=1)
    return 1 - float(np.count_nonzero(inside)) / len(at)


def uncovered(grid: Grid, other: Grid) -> float:
    """Share of the voxels of another grid whose centres lie outside of a grid, from 0 to 1."""
    covered = sum(int(np.count_nonzero(inside)) for _, _, inside in _positions(grid, other))
    return 1 - covered / prod(other.shape)


def onto(data: NDArray[Any], grid: Grid, other: Grid, *, linear: bool = False, outside: float = 0) -> NDArray[Any]:
    """Values of an array (I, J, K) of a grid at the centres of the voxels of another one.

    Parameters
    ----------
    data : (I, J, K) ndarray
    grid, other : Grid
    linear : bool
        Interpolate between the eight nearest voxels, instead of taking the nearest.
    outside : float
        Value outside of the grid.

    Returns
    -------
    ndarray
        Of the other grid's shape, in the dtype of `data`. Integers are rounded.
    """
    if grid.same_space(other, tolerance_mm=1e-6):
        return data
    result = np.full(other.shape, outside, data.dtype, order="F")
    last = np.array(grid.shape) - 1
    for index, place, inside in _positions(grid, other):
        at = place[:, inside]
        if not linear:
            i, j, k = np.clip(np.floor(at + 0.5).astype(np.intp), 0, last[:, None])
            result[index][inside] = data[i, j, k]
            continue
        at = np.clip(at, 0, last[:, None])
        low = np.floor(at).astype(np.intp)
        part = at - low
        total = np.zeros(at.shape[1])
        for corner in product((0, 1), repeat=3):
            up = np.array(corner)[:, None]
            i, j, k = np.minimum(low + up, last[:, None])
            total += np.where(up, part, 1 - part).prod(axis=0) * data[i, j, k]
        result[index][inside] = np.rint(total) if data.dtype.kind in "iu" else total
    return result


def _positions(grid: Grid, other: Grid) -> Any:
    """Yield each plane of another grid: its index, where its voxels (3, J, K) lie in a grid, and which are inside."""
    matrix = np.linalg.inv(grid.affine) @ other.affine
    j, k = np.meshgrid(np.arange(other.shape[1]), np.arange(other.shape[2]), indexing="ij")
    plane = matrix[:3, 1, None, None] * j + matrix[:3, 2, None, None] * k + matrix[:3, 3, None, None]
    upper = np.array(grid.shape)[:, None, None] - 0.5
    for index in range(other.shape[0]):
        place = np.round(plane + matrix[:3, 0, None, None] * index, _DIGITS)
        yield index, place, ((place >= -0.5) & (place < upper)).all(axis=0)
