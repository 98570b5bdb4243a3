"""FreeSurfer's MGH files, plain or gzipped (.mgz): reading and writing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from isal import igzip
from numpy.typing import NDArray

from lowres_seg.errors import InputError, one_line
from lowres_seg.volumes import nifti
from lowres_seg.volumes.claims import (
    Described,
    as_float32,
    refuse_more_than_held,
    refuse_more_than_memory,
    times,
    too_large,
)
from lowres_seg.volumes.grid import Grid, three
from lowres_seg.volumes.stored import GzipBytes, PlainBytes, opened

from nibabel.freesurfer.mghformat import MGHHeader, MGHImage  # isort: skip - after nifti, which shortens its import

SUFFIXES = (".mgz", ".mgh")
#: Types of voxels that every reader of MGH knows.
_DTYPES = tuple(np.dtype(kind) for kind in (np.uint8, np.int16, np.int32, np.float32))
#: Bytes of the header, and of the parameters of the scan behind the voxels.
_HEADER, _PARAMETERS = 284, 20
#: Most bytes behind the voxels that are read: a transform is the largest thing there.
_MOST_BEHIND = 1 << 30
#: Numbers of the tags that may follow the parameters.
_TAGS = range(1, 200)


def read_space(path: Path) -> tuple[Grid, Any]:
    """Read the grid of an MGH file, and a NIfTI header of it; errors as of `files.read`."""
    with opened(path, gzipped=_is_gzipped(path)) as stream:
        found = _described(path, stream)
        return found.grid, found.header


def read(path: Path) -> tuple[NDArray[np.float32], Grid, Any, tuple[str, ...]]:
    """Read an MGH file; results and errors as of `files.read`."""
    with opened(path, gzipped=_is_gzipped(path)) as stream:
        found = _described(path, stream)
        try:
            raw = np.empty(found.voxel_bytes, np.uint8)
            read = stream.fill(raw.data)
            if read < len(raw):
                raise InputError(
                    f"{path}: is truncated, its header claims {len(raw)} bytes of voxels and {read} could be read"
                )
            _check_behind(path, stream, found)
            stored: NDArray[Any] = np.ndarray(found.grid.shape, found.dtype, raw.data, order="F")
            data, coarse = as_float32(path, stored)
        except MemoryError as error:
            raise too_large(path, found.grid.shape) from error
    return data, found.grid, found.header, (*found.doubts, *coarse)


def write(path: Path, data: NDArray[Any], grid: Grid, header: Any) -> None:
    """Write an (I, J, K) array; errors as of `files.write_staged`."""
    del header  # of NIfTI
    image = MGHImage(_storable(path, data), grid.affine)
    if _is_gzipped(path):
        with path.open("wb") as raw, igzip.IGzipFile("", "wb", 1, raw, 0) as stream:
            image.to_stream(stream)
    else:
        with path.open("wb") as raw:
            image.to_stream(raw)


def _is_gzipped(path: Path) -> bool:
    return path.name.lower().endswith(".mgz")


def _described(path: Path, stream: PlainBytes | GzipBytes) -> Described:
    """Read and judge the header. The stream is then at the first voxel."""
    block = bytearray(_HEADER)
    count = stream.fill(memoryview(block))
    if count < _HEADER:
        raise InputError(f"{path}: cannot be read as MGH: it ends after {count} bytes, within its header")
    if int.from_bytes(block[:4], "big") != 1:
        raise InputError(f"{path}: cannot be read as MGH: its header has no version 1")
    try:
        own = MGHHeader(bytes(block), check=False)
        *shape, frames = (int(n) for n in own["dims"])
        if frames > 1:
            raise InputError(f"has 4 dimensions {(*shape, frames)}, expected one 3D image")  # noqa: TRY301
        if min(*shape, frames) < 1:
            raise InputError(f"is empty, its shape is {(*shape, frames)}")  # noqa: TRY301
        try:
            dtype = own.get_data_dtype()
        except KeyError as error:
            raise InputError(f"type of its header is {int(own['type'])}, which has no voxels of numbers") from error
        knows = block[28:30] != b"\0\0"
        with np.errstate(invalid="ignore", over="ignore"):
            grid = Grid(three(shape), own.get_affine())
        header = nifti.header_of(grid, dtype)
    except (InputError, ValueError) as error:
        raise InputError(f"{path}: {one_line(error)}") from error
    doubts = (
        ()
        if knows
        else (f"{path.name}: its header names no orientation (goodRASFlag is 0); left and right are a guess",)
    )
    found = Described(header, grid, dtype, _HEADER, doubts)
    refuse_more_than_held(path, found, stream.at_most(), "at most " if isinstance(stream, GzipBytes) else "")
    refuse_more_than_memory(path, found)
    refuse_more_than_held(path, found, stream.held(found.claimed))
    return found


def _check_behind(path: Path, stream: PlainBytes | GzipBytes, found: Described) -> None:
    """Read to the end of the file. Behind the voxels are parameters and tags; a wrong shape leaves voxels there."""
    behind = bytearray(_PARAMETERS + 4)
    count = stream.fill(memoryview(behind))
    if count == len(behind) and int.from_bytes(behind[-4:], "big") not in _TAGS:
        raise InputError(
            f"{path}: its header claims {found.voxel_bytes} bytes of voxels ({times(found.grid.shape)} of "
            f"{found.dtype}), the file holds more; its shape or type is wrong"
        )
    stream.beyond(_MOST_BEHIND)


def _storable(path: Path, data: NDArray[Any]) -> NDArray[Any]:
    """Voxels with the same values in a type that MGH has."""
    if data.dtype.kind == "b":
        return data.astype(np.uint8)
    if data.dtype in _DTYPES:
        return data
    low, high = (data.min(), data.max()) if data.size else (0, 0)
    for kind in (np.uint8, np.int16, np.int32) if data.dtype.kind in "iu" else ():
        if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
            return data.astype(kind)
    single = data.astype(np.float32)
    with np.errstate(invalid="ignore", over="ignore"):
        if np.array_equal(single.astype(data.dtype), data, equal_nan=data.dtype.kind == "f"):
            return single
    raise InputError(
        f"{path}: voxels of dtype {data.dtype} have values that no type of MGH keeps exactly; write .nii.gz, or "
        "convert them, as with data.astype(np.float32)"
    )
