"""Voxels in space.

A grid is a shape and an affine. A volume is voxels on a grid, and is read from and written to NIfTI files.
Orientations change by permutations and flips of axes; nothing here resamples.
"""

from typing import TYPE_CHECKING

from lowres_seg.extras import on_demand

if TYPE_CHECKING:
    from lowres_seg.volumes.grid import Box, Grid, Reorientation
    from lowres_seg.volumes.volume import Volume

__all__ = ["Box", "Grid", "Reorientation", "Volume"]

__getattr__, __dir__ = on_demand(__name__, {"Box": "grid", "Grid": "grid", "Reorientation": "grid", "Volume": "volume"})
