"""Channels of a scan that lie on different grids, on one of them: by where their headers say that voxels lie.

Nothing is registered. Channels of one frame of reference lie in one space, and those of NIfTI files do where the caller
says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from lowres_seg.errors import InputError
from lowres_seg.runtime.doubts import Doubt
from lowres_seg.volumes.grid import Grid
from lowres_seg.volumes.header import carried
from lowres_seg.volumes.volume import Volume

Array = NDArray[np.float32]
#: How far beyond its outer centres, in voxels, a volume holds its border value: its voxels end there.
_HALF = 0.5
#: Rounding of affines, in voxels: positions so near to a border of voxels lie on it.
_ROUNDED = 1e-4


def aligned(scan: Mapping[str, Volume], *, reference: str | None = None, by_header: bool = False) -> dict[str, Volume]:
    """Channels on the grid of one of them. What is resampled has a doubt that says so.

    Parameters
    ----------
    scan : mapping of str to Volume
    reference : str, optional
        Channel whose grid is kept; by default the first.
    by_header : bool
        Whether channels without a frame of reference lie where their headers say, in one space.

    Raises
    ------
    InputError
        If there is no such channel, a channel lies in another frame of reference, or on another grid where nothing
        says that they are of one space; or if it lies elsewhere than the reference.
    """
    if reference is not None and reference not in scan:
        raise InputError(f"--reference {reference}: is no channel of the bundle; expected {' or '.join(scan)}")
    named = next(iter(scan)) if reference is None else reference
    return {channel: _on(scan[named], named, volume, channel, by_header) for channel, volume in scan.items()}


def _on(reference: Volume, named: str, volume: Volume, channel: str, by_header: bool) -> Volume:
    """One channel on the grid of the reference."""
    if volume is reference:
        return volume
    frames = volume.frame_of_reference, reference.frame_of_reference
    if all(frames) and frames[0] != frames[1]:
        raise InputError(
            f"{volume.name}: channel {channel} lies in another frame of reference than {named}, so nothing says where "
            "it lies; register the channels with another tool, which this one does not"
        )
    if volume.grid.same_space(reference.grid):
        return volume
    if not by_header and not all(frames):
        raise InputError(
            f"{volume.name}: channel {channel} lies on another grid than {named} "
            f"({volume.grid.another_grid(reference.grid)}); pass --align header if their headers place both in one "
            "space, or register them with another tool"
        )
    data, beyond = resampled(volume, reference.grid)
    if beyond == 1:
        raise InputError(
            f"{volume.name}: channel {channel} lies wholly outside of {named}; register the channels with another tool"
        )
    told = f"channel {channel} was resampled to the grid of {named} by {'its header' if by_header else 'its geometry'}"
    if beyond:
        told += f"; {100 * beyond:.3g}% of that lies outside of it"
    header = None if reference.header is None else carried(reference.header, data)
    doubts = (*volume.doubts, Doubt("another-grid", told))
    return replace(volume, data=data, grid=reference.grid, header=header, doubts=doubts)


def resampled(volume: Volume, grid: Grid) -> tuple[Array, float]:
    """Voxels of a volume on another grid, by trilinear interpolation.

    Beyond the volume they are 0, or its value that is nearest to 0.

    Returns
    -------
    data : (I, J, K) ndarray of float32
    beyond : float
        Share of the grid that lies beyond the volume.
    """
    x = np.asarray(volume.data, dtype=np.float32)
    matrix = np.linalg.inv(volume.grid.affine) @ grid.affine
    outside = np.float32(np.clip(0, x.min(), x.max()))
    result = np.empty(grid.shape, np.float32, order="F")
    rows, columns = np.arange(grid.shape[0])[:, None], np.arange(grid.shape[1])
    beyond = 0
    for plane in range(grid.shape[2]):
        at = [a * rows + b * columns + (c * plane + d) for a, b, c, d in matrix[:3]]
        result[:, :, plane], missed = _interpolated(x, at, outside)
        beyond += missed
    return result, beyond / result.size


def _interpolated(x: Array, at: list[NDArray[np.float64]], outside: np.float32) -> tuple[Array, int]:
    """Values at some places, in voxels of x, and how many of these lie beyond it."""
    inside = np.ones(at[0].shape, bool)
    lows, highs, weights = [], [], []
    for axis, n in enumerate(x.shape):
        inside &= (at[axis] >= -_HALF - _ROUNDED) & (at[axis] <= n - _HALF + _ROUNDED)
        place = np.clip(at[axis], 0, n - 1)
        low = np.minimum(place.astype(np.intp), max(0, n - 2))
        lows.append(low)
        highs.append(np.minimum(low + 1, n - 1))
        weights.append((place - low).astype(np.float32))
    i, j, k = weights
    value = (
        (_between(x[lows[0], lows[1], lows[2]], x[highs[0], lows[1], lows[2]], i) * (1 - j))
        + _between(x[lows[0], highs[1], lows[2]], x[highs[0], highs[1], lows[2]], i) * j
    ) * (1 - k) + (
        (_between(x[lows[0], lows[1], highs[2]], x[highs[0], lows[1], highs[2]], i) * (1 - j))
        + _between(x[lows[0], highs[1], highs[2]], x[highs[0], highs[1], highs[2]], i) * j
    ) * k
    return np.where(inside, value, outside), int(inside.size - np.count_nonzero(inside))


def _between(low: Array, high: Array, weight: Array) -> Array:
    return low * (1 - weight) + high * weight
