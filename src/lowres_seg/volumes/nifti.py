"""NIfTI files: reading and writing. Together with `grid`, the home of nibabel."""

from __future__ import annotations

import gzip
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError
from numpy.typing import NDArray

from lowres_seg import atomic
from lowres_seg.errors import InputError, one_line
from lowres_seg.volumes.grid import Grid, three

SUFFIXES = (".nii.gz", ".nii")
#: Deflate shrinks no data by more than this factor, so a smaller file cannot hold what its header claims.
_DEFLATE_MAX_RATIO = 1032


def stem(path: Path) -> str:
    """Name of a NIfTI file without its suffix.

    Examples
    --------
    >>> stem(Path("study/head.nii.gz"))
    'head'
    """
    for suffix in SUFFIXES:
        if path.name.lower().endswith(suffix):
            return path.name[: -len(suffix)]
    return path.stem


def read(path: Path) -> tuple[NDArray[np.float32], Grid, Any, tuple[str, ...]]:
    """Read a NIfTI-1 or NIfTI-2 file.

    Returns
    -------
    data : (I, J, K) ndarray of float32
        Trailing axes of length one are dropped.
    grid : Grid
    header : nibabel.Nifti1Header
    doubts : tuple of str
        What a reader of the result should know about the header.

    Raises
    ------
    InputError
        If the file is missing, truncated or not NIfTI; if it is not one 3D image of real numbers; if its header claims
        more voxels than the file holds (checked before memory is allocated); or if its grid is unusable.
    """
    image = _open(path)
    shape = tuple(int(n) for n in image.shape)
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) != 3:
        raise InputError(f"{path}: has {len(shape)} dimensions {shape}, expected one 3D image")
    if 0 in shape:
        raise InputError(f"{path}: is empty, its shape is {shape}")
    if image.get_data_dtype().kind not in "iuf":
        raise InputError(f"{path}: holds {image.get_data_dtype()} voxels, expected real numbers")
    unit = image.header.get_xyzt_units()[0]
    if unit not in ("mm", "unknown"):
        raise InputError(f"{path}: its header counts in {unit}, expected mm; rewrite it in millimetres")
    try:
        grid = Grid(three(shape), image.affine)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    _refuse_missing_voxels(path, image)
    try:
        data = np.asanyarray(image.dataobj, dtype=np.float32).reshape(shape)
    except (EOFError, OSError, ValueError, zlib.error) as error:
        raise InputError(f"{path}: is damaged or truncated ({one_line(error)})") from error
    return data, grid, image.header.copy(), _doubts(path, image)


def write(path: Path, data: NDArray[Any], grid: Grid, header: Any, *, force: bool = False) -> None:
    """Write an (I, J, K) array as NIfTI, with its own dtype. The file appears whole or not at all.

    With `header` the file has that header's affines, their codes, units and description. Without it the file has the
    affine of `grid`.

    Raises
    ------
    InputError
        If the name does not end in .nii or .nii.gz, if the file exists and not `force`, or if it cannot be written.
    """
    if not path.name.endswith(SUFFIXES):
        raise InputError(f"{path}: expected a name that ends in .nii.gz or .nii")
    with atomic.file(path, force=force) as staged:
        write_staged(staged, data, grid, header)


def write_staged(path: Path, data: NDArray[Any], grid: Grid, header: Any) -> None:
    """Write an array as `write` does, where the caller sees to it that the file appears whole or not at all.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    own = None if header is None else header.copy()
    if own is not None:
        own.set_data_dtype(data.dtype)
        own["scl_slope"], own["scl_inter"] = np.nan, np.nan
        own["cal_min"], own["cal_max"] = 0, 0
    kind = nibabel.Nifti2Image if isinstance(own, nibabel.Nifti2Header) else nibabel.Nifti1Image
    image = kind(data, None if own is not None else grid.affine, own)
    image.to_filename(path)


def _open(path: Path) -> Any:
    """Read the header of a NIfTI file. Its voxels stay on disk."""
    if not path.exists():
        raise InputError(f"{path}: does not exist")
    if path.is_dir():
        raise InputError(f"{path}: is a folder, expected a NIfTI file")
    if not path.name.lower().endswith(SUFFIXES):
        raise InputError(f"{path}: expected a NIfTI file, with a name that ends in .nii.gz or .nii")
    try:
        image = nibabel.load(path)
    except (ImageFileError, HeaderDataError, WrapStructError, EOFError, OSError, ValueError, zlib.error) as error:
        raise InputError(f"{path}: cannot be read as NIfTI ({one_line(error)})") from error
    if not isinstance(image, nibabel.Nifti1Pair):
        raise InputError(f"{path}: is {type(image).__name__}, expected NIfTI")
    return image


def _refuse_missing_voxels(path: Path, image: Any) -> None:
    """Refuse a file that holds fewer bytes than its header claims, before memory of the claimed size is allocated."""
    offset = int(image.dataobj.offset)
    claimed = offset + int(np.prod(image.shape, dtype=object)) * image.get_data_dtype().itemsize
    size = path.stat().st_size
    held = size
    if path.name.lower().endswith(".gz"):
        if claimed > size * _DEFLATE_MAX_RATIO:
            held = size * _DEFLATE_MAX_RATIO
        else:
            with path.open("rb") as stream:
                stream.seek(-4, os.SEEK_END)
                (last_member,) = struct.unpack("<I", stream.read(4))
            # The trailer has the size modulo 2^32, of the last gzip member only: it can confirm a claim, not refute it.
            held = claimed if last_member == claimed % 2**32 else _decompressed_size(path, up_to=claimed)
    if held < claimed:
        raise InputError(
            f"{path}: its header claims {claimed} bytes ({tuple(image.shape)} voxels), "
            f"the file holds {'at most ' if path.name.endswith('.gz') else ''}{held}; it is truncated or damaged"
        )


def _decompressed_size(path: Path, *, up_to: int) -> int:
    total = 0
    try:
        with gzip.open(path) as stream:
            while total < up_to and (block := stream.read(1 << 22)):
                total += len(block)
    except (EOFError, OSError, zlib.error):
        return total
    return total


def _doubts(path: Path, image: Any) -> tuple[str, ...]:
    header = image.header
    sform, qform = int(header["sform_code"]), int(header["qform_code"])
    if not sform and not qform:
        return (
            f"{path.name}: its header names no orientation (sform and qform codes are 0); left and right are a guess",
        )
    if sform and qform and nibabel.aff2axcodes(header.get_sform()) != nibabel.aff2axcodes(header.get_qform()):
        return (f"{path.name}: sform and qform of its header disagree in orientation; the sform was used",)
    return ()
