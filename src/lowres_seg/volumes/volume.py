"""Volumes: voxels on a grid."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowres_seg.arguments import described, flag
from lowres_seg.arguments import path as as_path
from lowres_seg.errors import InputError
from lowres_seg.volumes import files, images, nifti
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
        Path of the source file, or what the caller calls the scan, for messages and the log.
    frame_of_reference : str
        UID of the space that the grid lies in, of DICOM; empty if the source names none. Volumes of one frame lie in
        one space.

    Raises
    ------
    InputError
        If `data` is no array of real numbers on three axes, or has another shape than `grid`; or if anything else is
        of another kind.
    """

    data: NDArray[Any]
    grid: Grid
    header: Any = field(default=None, repr=False)
    doubts: tuple[str, ...] = ()
    name: str = "volume"
    frame_of_reference: str = ""

    def __post_init__(self) -> None:
        data: Any = self.data
        if not isinstance(data, np.ndarray) or isinstance(data, np.ma.MaskedArray) or data.dtype.kind not in "biuf":
            raise InputError(
                f"data: found {described(data)}, expected a numpy array of real numbers, as in "
                "Volume.from_array(data, affine)"
            )
        grid: Any = self.grid
        if not isinstance(grid, Grid):
            raise InputError(f"grid: found {described(grid)}, expected a Grid, as of Volume.from_array(data, affine)")
        if self.header is not None and not nifti.is_header(self.header):
            raise InputError(f"header: found {described(self.header)}, expected a header of nibabel's NIfTI images")
        doubts: Any = self.doubts
        if not isinstance(doubts, (tuple, list)) or not all(isinstance(doubt, str) for doubt in doubts):
            raise InputError(f"doubts: found {described(doubts)}, expected a tuple of str")
        if not isinstance(self.name, str):
            raise InputError(f"name: found {described(self.name)}, expected the name of a scan as str")
        if not isinstance(self.frame_of_reference, str):
            raise InputError(f"frame_of_reference: found {described(self.frame_of_reference)}, expected a UID as str")
        if self.data.shape != self.grid.shape:
            raise InputError(f"voxels of shape {self.data.shape} on a grid of shape {self.grid.shape}")

    @classmethod
    def from_array(cls, data: NDArray[Any], affine: NDArray[Any], *, name: str = "volume") -> Volume:
        """Make a volume from an (I, J, K) array and a (4, 4) affine to millimetres in RAS+.

        The array is not copied: a change of it is one of the volume.

        Parameters
        ----------
        data : (I, J, K) ndarray
        affine : (4, 4) array_like
        name : str
            What messages and the log call it.

        Raises
        ------
        InputError
            If `data` is no array of real numbers on three axes, or `affine` is unusable.

        Examples
        --------
        >>> import numpy as np
        >>> Volume.from_array(np.zeros((3, 4, 5), np.float32), np.eye(4)).grid.orientation
        'RAS'
        """
        given: Any = data
        if not isinstance(given, np.ndarray) or given.ndim != 3:
            raise InputError(
                f"data: found {described(data)}, expected a numpy array of three axes; Volume.from_array(data, affine) "
                "takes one 3D image"
            )
        return cls(data, Grid(three(data.shape), affine), name=name)

    @classmethod
    def from_image(cls, image: object, *, name: str | None = None) -> Volume:
        """Make a volume of an image of nibabel or SimpleITK, in its place.

        Parameters
        ----------
        image : nibabel image or SimpleITK.Image
            One 3D image of real numbers. Trailing axes of length one are dropped.
        name : str, optional
            What messages and the log call it; by default its file name.

        Raises
        ------
        InputError
            If it is something else, or its place is unusable.
        """
        return cls(*images.parts(image, name))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Volume:
        """Read a file of NIfTI, MGH or NRRD as float32. Trailing axes of length one are dropped.

        Raises
        ------
        InputError
            If the file is missing, truncated, damaged or of another format; if it is not one 3D image of real numbers;
            if its header claims another number of voxels than the file holds, or more than this machine's memory; or if
            its grid is unusable.
        MissingExtraError
            If it is NRRD, and the extra ``nrrd`` is not installed.
        """
        path = as_path(path, "path of a scan")
        data, grid, header, doubts = files.read(path)
        return cls(data, grid, header, doubts, str(path))

    @classmethod
    def blank(cls, path: str | os.PathLike[str]) -> Volume:
        """A volume of zeros with the grid and the header of a file, whose voxels are not read. It takes no memory.

        Raises
        ------
        InputError
            As for `load`, without what the voxels say.
        """
        path = as_path(path, "path of a scan")
        grid, header = files.read_space(path)
        return cls(np.broadcast_to(np.float32(0), grid.shape), grid, header, name=str(path))

    def to_nibabel(self) -> Any:
        """Make a NIfTI image of nibabel, with what `save` writes.

        Raises
        ------
        InputError
            If no type of NIfTI has the values.
        """
        return nifti.image(nifti.storable(Path(self.name), self.data), self.grid, self.header)

    def to_sitk(self) -> Any:
        """Make an image of SimpleITK.

        Raises
        ------
        InputError
            As of `to_nibabel`.
        MissingExtraError
            If SimpleITK is not installed.
        """
        return images.as_sitk(self.data, self.grid)

    @staticmethod
    def read_grid(path: str | os.PathLike[str]) -> Grid:
        """Read the grid of a file from its header, without its voxels.

        Raises
        ------
        InputError
            As for `load`, without what the voxels say.
        """
        return files.read_space(as_path(path, "path of a scan"))[0]

    def save(self, path: str | os.PathLike[str], *, force: bool = False) -> None:
        """Write in the format of the suffix, in the dtype of `data` or one with the same values: whole or not at all.

        A NIfTI file has geometry, units and intent of the source file's header, if there is one. Its text and
        extensions, which may name a patient, stay behind.

        Raises
        ------
        InputError
            If the name does not end in .nii.gz, .nii, .mgz, .mgh or .nrrd, if the file exists and not `force`, if it
            cannot be written, or if no type of the format has the values.
        MissingExtraError
            If it is NRRD, and the extra ``nrrd`` is not installed.
        """
        target, force = as_path(path, "path to write"), flag(force, "force")
        files.write(target, self.data, self.grid, self.header, force=force)
