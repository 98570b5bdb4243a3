"""Files of volumes: NIfTI, FreeSurfer's MGH and NRRD, told apart by their suffix."""

from __future__ import annotations

import os
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowres_seg import atomic
from lowres_seg.errors import InputError
from lowres_seg.volumes import freesurfer, nifti, nrrd_file
from lowres_seg.volumes.grid import Grid

#: Suffixes of the files that are read and written.
SUFFIXES = (*nifti.SUFFIXES, *freesurfer.SUFFIXES, *nrrd_file.SUFFIXES)


def suffix(path: Path) -> str:
    """Suffix of a volume's file, as it is written; empty if it is none of `SUFFIXES`.

    Examples
    --------
    >>> suffix(Path("study/head.nii.gz")), suffix(Path("head.v2"))
    ('.nii.gz', '')
    """
    found = next((one for one in SUFFIXES if path.name.lower().endswith(one)), "")
    return path.name[len(path.name) - len(found) :]


def stem(path: Path) -> str:
    """Name of a volume's file without its suffix, whose letters may be of either case; or name of a folder.

    Examples
    --------
    >>> stem(Path("study/head.nii.gz"))
    'head'
    """
    if suffix(path):
        return path.name.removesuffix(suffix(path))
    if os.path.isdir(path):  # noqa: PTH112 - False where nobody may look
        return Path(os.path.abspath(path)).name  # noqa: PTH100 - a link keeps the name that a user gave it
    return path.stem


def read(path: Path) -> tuple[NDArray[np.float32], Grid, Any, tuple[str, ...]]:
    """Read a volume.

    Returns
    -------
    data : (I, J, K) ndarray of float32
        Trailing axes of length one are dropped.
    grid : Grid
    header : nibabel.Nifti1Header
        With the geometry and the dtype of the file, of whatever format that is.
    doubts : tuple of str
        What a reader of the result should know about the header.

    Raises
    ------
    InputError
        If the file is missing, truncated, damaged or of another format; if it is not one 3D image of real numbers; if
        its header claims more voxels than the file holds, or than this machine's memory (checked before memory is
        allocated); or if its grid is unusable.
    MissingExtraError
        If it is NRRD, and the extra ``nrrd`` is not installed.
    """
    found: tuple[NDArray[np.float32], Grid, Any, tuple[str, ...]] = _home(path).read(path)
    return found


def read_space(path: Path) -> tuple[Grid, Any]:
    """Read the grid of a volume, and its header, without the voxels; errors as of `read`."""
    found: tuple[Grid, Any] = _home(path).read_space(path)
    return found


def write(path: Path, data: NDArray[Any], grid: Grid, header: Any, *, force: bool = False) -> None:
    """Write an (I, J, K) array in the format of the path's suffix. The file appears whole or not at all.

    It has the array's dtype, or one with the same values if the format has no such type, or other tools do not read it.

    Raises
    ------
    InputError
        If the name does not end in one of `SUFFIXES`, if the file exists and not `force`, if it cannot be written, or
        if no type of the format has the values of `data`.
    MissingExtraError
        As of `read`.
    """
    if not path.name.endswith(SUFFIXES):
        raise InputError(f"{path}: expected a name that ends in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}")
    with atomic.file(path, force=force) as staged:
        write_staged(staged, data, grid, header)


def write_staged(path: Path, data: NDArray[Any], grid: Grid, header: Any) -> None:
    """Write an array as `write` does, where the caller sees to it that the file appears whole or not at all.

    Raises
    ------
    InputError
        If no type of the format has the values.
    OSError
        If it cannot be written.
    """
    _home(path).write(path, data, grid, header)


def check_packages(path: Path) -> None:
    """Check that the packages are installed that a path's format needs.

    Raises
    ------
    MissingExtraError
        If one is not. The message has the command that installs it.
    """
    if _home(path) is nrrd_file:
        nrrd_file.check_packages()


def _home(path: Path) -> ModuleType:
    name = path.name.lower()
    if name.endswith(freesurfer.SUFFIXES):
        return freesurfer
    return nrrd_file if name.endswith((*nrrd_file.SUFFIXES, nrrd_file.DETACHED)) else nifti
