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
from lowres_seg.runtime import regrid
from lowres_seg.runtime.doubts import Doubt
from lowres_seg.volumes.grid import Grid
from lowres_seg.volumes.header import carried
from lowres_seg.volumes.volume import Volume

Array = NDArray[np.float32]


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
    outside = float(np.clip(0, x.min(), x.max()))
    data = regrid.onto(x, volume.grid, grid, linear=True, outside=outside)
    return data, regrid.uncovered(volume.grid, grid)
