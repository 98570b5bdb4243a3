"""Volumes: voxels on a grid."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from lowres_seg.errors import InputError
from lowres_seg.volumes import nifti
from lowres_seg.volumes.grid import Grid, three


@dataclass(frozen=True, eq=False)
class Volume:
    """Voxels on a grid.

    Parameters
    ----------
    data : (I, J, K) ndarray
        Voxels, of any real dtype.
    grid : Grid
    header : nibabel.Nifti1Header, optional
        Header of the source file. Results are written with its geometry, units and intent.
    doubts : tuple of str
        What a reader of the result should know about the source file.
    name : str
        Path of the source file, for messages.

    Raises
    ------
    InputError
        If the shapes of `data` and `grid` differ.
    """

    data: NDArray[Any]
    grid: Grid
    header: Any = field(default=None, repr=False)
    doubts: tuple[str, ...] = ()
    name: str = "volume"

    def __post_init__(self) -> None:
        if self.data.shape != self.grid.shape:
            raise InputError(f"voxels of shape {self.data.shape} on a grid of shape {self.grid.shape}")

    @classmethod
    def from_array(cls, data: NDArray[Any], affine: NDArray[Any]) -> Volume:
        """Make a volume from an (I, J, K) array and a (4, 4) affine to millimetres in RAS+.

        Examples
        --------
        >>> import numpy as np
        >>> Volume.from_array(np.zeros((3, 4, 5), np.float32), np.eye(4)).grid.orientation
        'RAS'
        """
        return cls(data, Grid(three(data.shape), affine))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Volume:
        """Read a NIfTI-1 or NIfTI-2 file as float32. Trailing axes of length one are dropped.

        Raises
        ------
        InputError
            If the file is missing, truncated, damaged or not NIfTI; if it is not one 3D image of real numbers; if its
            header claims another number of voxels than the file holds, or more than this machine's memory; or if its
            grid is unusable.
        """
        path = Path(path)
        data, grid, header, doubts = nifti.read(path)
        return cls(data, grid, header, doubts, str(path))

    @staticmethod
    def read_grid(path: str | os.PathLike[str]) -> Grid:
        """Read the grid of a NIfTI file from its header, without its voxels.

        Raises
        ------
        InputError
            As for `load`, without what the voxels say.
        """
        return nifti.read_grid(Path(path))

    def save(self, path: str | os.PathLike[str], *, force: bool = False) -> None:
        """Write as NIfTI with the dtype of `data`. The file appears whole or not at all.

        The file has geometry, units and intent of the source file's header, if there is one. Its text and extensions,
        which may name a patient, stay behind.

        Raises
        ------
        InputError
            If the name does not end in .nii or .nii.gz, if the file exists and not `force`, or if it cannot be written.
        """
        nifti.write(Path(path), self.data, self.grid, self.header, force=force)
