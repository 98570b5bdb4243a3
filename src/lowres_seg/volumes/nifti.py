"""NIfTI files: reading and writing. Together with `grid`, the home of nibabel."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from isal import igzip
from numpy.typing import NDArray

from lowres_seg.errors import InputError, one_line, shown
from lowres_seg.volumes import dicom, without_web  # noqa: F401 - before nibabel, whose import it shortens
from lowres_seg.volumes import header as fields
from lowres_seg.volumes.claims import (
    Described,
    as_float32,
    refuse_more_than_held,
    refuse_more_than_memory,
    times,
    too_large,
)
from lowres_seg.volumes.grid import Grid
from lowres_seg.volumes.stored import DamagedError, GzipBytes, PlainBytes, opened
from lowres_seg.wording import counted

import nibabel  # isort: skip
from nibabel.spatialimages import HeaderDataError  # isort: skip
from nibabel.volumeutils import apply_read_scaling  # isort: skip

SUFFIXES = (".nii.gz", ".nii")
#: Extensions of a header (a DICOM header, comments) are small. A larger first byte of the voxels is damage.
_MOST_EXTENSIONS = 1 << 28
#: Sizes of the headers of NIfTI-1 and NIfTI-2.
_SIZES = (348, 540)
_LINE_ENDS = [13, 10, 26, 10]
#: Bytes behind a header that say whether extensions follow.
_FLAG = 4


def is_header(value: object) -> bool:
    """Tell whether something is a header of NIfTI-1 or NIfTI-2, as nibabel has it."""
    return isinstance(value, nibabel.Nifti1Header)


def read_space(path: Path) -> tuple[Grid, Any]:
    """Read the grid of a NIfTI file, and its header.

    Raises
    ------
    InputError
        As for `read`, without what the voxels say.
    """
    with _opened(path) as stream:
        found = _described(path, stream)
        return found.grid, found.header


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
        If the file is missing, truncated, damaged or not NIfTI; if it is not one 3D image of real numbers; if its
        header claims more voxels than the file holds, or than this machine's memory (checked before memory is
        allocated); if it holds at least one more face of voxels than its header claims; or if its grid is unusable.
    """
    with _opened(path) as stream:
        found = _described(path, stream)
        shape = found.grid.shape
        try:
            raw = np.empty(found.voxel_bytes, np.uint8)
            read = stream.fill(raw.data)
            if read < len(raw):
                raise InputError(
                    f"{path}: is truncated, its header claims {len(raw)} bytes of voxels and {read} could be read"
                )
            more = _behind(path, stream, found)
            stored: NDArray[Any] = np.ndarray(shape, found.dtype, raw.data, order="F")
            data, coarse = _scaled(path, stored, *_scale(found.header))
        except MemoryError as error:
            raise too_large(path, shape) from error
    return data, found.grid, found.header, (*found.doubts, *more, *coarse)


def storable(path: Path, data: NDArray[Any]) -> NDArray[Any]:
    """Voxels with the same values in a type that NIfTI has and other tools read.

    Raises
    ------
    InputError
        If there is none.
    """
    kind, size = data.dtype.kind, data.dtype.itemsize
    if kind == "b":
        return data.astype(np.uint8)
    if kind == "f" and size < 4:
        return data.astype(np.float32)
    if kind in "iu" and size > 4:
        low, high = (int(data.min()), int(data.max())) if data.size else (0, 0)
        for narrow in (np.int32, np.uint32):
            if np.iinfo(narrow).min <= low and high <= np.iinfo(narrow).max:
                return data.astype(narrow)
        if max(-low, high) <= 2**53:
            return data.astype(np.float64)
    elif kind == "f" and size > 8:
        with np.errstate(over="ignore"):
            double = data.astype(np.float64)
        if np.array_equal(double, data, equal_nan=True):
            return double
    else:
        return data
    raise InputError(
        f"{path}: voxels of dtype {data.dtype} have values that no type of NIfTI keeps exactly; convert them, as with "
        "data.astype(np.float64)"
    )


def header_of(grid: Grid, dtype: np.dtype[Any]) -> Any:
    """A NIfTI header for voxels of a file of another format, whose grid is that of the scanner.

    Raises
    ------
    InputError
        If the affine holds numbers that NIfTI cannot hold.
    """
    header = nibabel.Nifti1Header() if max(grid.shape) <= np.iinfo(np.int16).max else nibabel.Nifti2Header()
    header.set_data_dtype(dtype.newbyteorder("="))
    header.set_data_shape(grid.shape)
    header.set_zooms(grid.spacing_mm)
    with np.errstate(over="ignore"):
        header.set_sform(grid.affine, 1)
    if not np.isfinite(header.get_sform()).all():
        raise InputError(
            f"affine: found {shown(grid.affine.tolist(), most=200)}, expected places within float32, in mm"
        )
    header.set_qform(grid.affine, 1, strip_shears=True)
    header.set_xyzt_units("mm")
    return header


def write(path: Path, data: NDArray[Any], grid: Grid, header: Any) -> None:
    """Write an (I, J, K) array as NIfTI.

    With `header` the file has that header's affines, their codes, its units and its intent. Text and extensions, which
    may name a patient, stay behind. Without it the file has the affine of `grid`.

    Raises
    ------
    InputError
        If no type of NIfTI has the values of `data`.
    OSError
        If it cannot be written.
    """
    made = image(storable(path, data), grid, header)
    if path.name.endswith(".gz"):
        # Without a name and a time, so that the same mask is the same file.
        with path.open("wb") as raw, igzip.IGzipFile("", "wb", 1, raw, 0) as stream:
            made.to_stream(stream)
    else:
        made.to_filename(path)


def image(data: NDArray[Any], grid: Grid, header: Any) -> Any:
    """An image of nibabel, with what `write` writes."""
    own = None if header is None else fields.carried(header, data)
    kind = nibabel.Nifti2Image if isinstance(own, nibabel.Nifti2Header) else nibabel.Nifti1Image
    return kind(data, None if own is not None else grid.affine, own)


@contextmanager
def _opened(path: Path) -> Iterator[PlainBytes | GzipBytes]:
    name = path.name.lower()
    if os.path.isdir(path):  # noqa: PTH112 - False where nobody may look
        raise InputError(f"{path}: {dicom.about_folder(path, SUFFIXES)}")
    with opened(path, gzipped=name.endswith(".gz")) as stream:
        if not name.endswith(SUFFIXES):
            if dicom.is_dicom(path):
                raise InputError(
                    f"{path}: is a DICOM file, expected a NIfTI file; convert its folder first: "
                    f"{dicom.converting(path.parent)}"
                )
            raise InputError(f"{path}: expected a scan, with a name that ends in .nii.gz, .nii, .mgz, .mgh or .nrrd")
        yield stream


def _described(path: Path, stream: PlainBytes | GzipBytes) -> Described:
    """Read and judge the header, and its claims about the file. The stream is then at the first voxel."""
    try:
        header, first, lacks_room, doubts = _header(stream)
        shape = fields.shape(header)
        dtype = fields.dtype(header)
        doubts += fields.units(header)
        with np.errstate(invalid="ignore"):  # a signalling NaN is a NaN, and is judged as one
            grid, more = fields.grid(header, shape)
        _scale(header)
    except DamagedError:  # it names the file
        raise
    except (HeaderDataError, ValueError) as error:  # InputError is a ValueError
        raise InputError(f"{path}: {one_line(error)}") from error
    told = tuple(f"{path.name}: {doubt}" for doubt in (*doubts, *more))
    found = Described(header, grid, dtype, first, told, lacks_room)
    _refuse_claims(path, stream, found)
    return found


def _header(stream: PlainBytes | GzipBytes) -> tuple[Any, int, bool, list[str]]:
    """Read the header, and go past its extensions to the first voxel. Its fields are not checked.

    Returns
    -------
    header : nibabel.Nifti1Header or nibabel.Nifti2Header
    first : int
        First byte of the voxels.
    lacks_room : bool
        As of `Described`.
    doubts : list of str
    """
    block = _bytes(stream, _SIZES[0])
    kind = nibabel.Nifti1Header
    if block[344:348] not in (b"n+1\0", b"ni1\0"):
        block += _bytes(stream, _SIZES[1] - _SIZES[0])
        kind = nibabel.Nifti2Header
        if block[4:8] not in (b"n+2\0", b"ni2\0"):
            raise InputError(
                f"cannot be read as NIfTI: it holds {counted(len(block), 'byte')} and no NIfTI header"
                if len(block) < _SIZES[1]
                else "cannot be read as NIfTI: its header has no magic word n+1 or n+2"
            )
    if len(block) < kind.sizeof_hdr:
        raise InputError(f"cannot be read as NIfTI: it ends after {counted(len(block), 'byte')}, within its header")
    header = kind(block, check=False)
    if kind is nibabel.Nifti2Header and header["eol_check"].tolist() not in (_LINE_ENDS, [0, 0, 0, 0]):
        raise InputError("is damaged: a transfer as text has changed its line ends")
    first, doubts = fields.offset(header)
    size = first - kind.sizeof_hdr
    if size > _MOST_EXTENSIONS:
        raise InputError(
            f"vox_offset of its header is {first}, behind {counted(size, 'byte')} of extensions; it is damaged"
        )
    extensions = _bytes(stream, size)  # they may hold a DICOM header; nothing reads them
    lacks_room = size == _FLAG and extensions[:1] not in (b"", b"\0")
    header["sizeof_hdr"] = kind.sizeof_hdr
    if kind is nibabel.Nifti2Header:
        header["eol_check"] = _LINE_ENDS
    header["vox_offset"] = 0  # a file that is written with it counts anew
    return header, first, lacks_room, doubts


def _bytes(stream: PlainBytes | GzipBytes, count: int) -> bytes:
    """The next bytes, or as many as there are. No more memory is taken than the file can fill."""
    buffer = bytearray(min(count, stream.at_most()))
    return bytes(buffer[: stream.fill(memoryview(buffer))])


def _refuse_claims(path: Path, stream: PlainBytes | GzipBytes, found: Described) -> None:
    """Refuse a header that claims more bytes than the file holds, or than memory, before any are allocated."""
    refuse_more_than_held(path, found, stream.at_most(), "at most " if isinstance(stream, GzipBytes) else "")
    refuse_more_than_memory(path, found)
    refuse_more_than_held(path, found, stream.held(found.claimed))


def _behind(path: Path, stream: PlainBytes | GzipBytes, found: Described) -> list[str]:
    """Read to the end of the file. A header that claims fewer voxels than the file holds has a wrong shape.

    A wrong number on any axis leaves at least one face of voxels behind the last one.
    """
    face = found.voxel_bytes // max(found.grid.shape)
    behind = stream.beyond(face)
    if behind and found.lacks_room:
        raise InputError(
            f"{path}: its header says that extensions follow, and that voxels begin at byte {found.first}, before "
            "them; its vox_offset is wrong"
        )
    if behind >= face:
        raise InputError(
            f"{path}: its header claims {found.voxel_bytes} bytes of voxels ({times(found.grid.shape)} of "
            f"{found.dtype}), the file holds at least {found.voxel_bytes + behind}; its shape or datatype is wrong"
        )
    return (
        [f"{path.name}: {counted(behind, 'byte')} behind its voxels {'was' if behind == 1 else 'were'} left out"]
        if behind
        else []
    )


def _scale(header: Any) -> tuple[float, float]:
    """Slope and intercept of the stored voxels."""
    slope, intercept = header.get_slope_inter()
    return 1.0 if slope is None else slope, 0.0 if intercept is None else intercept


def _scaled(path: Path, stored: NDArray[Any], slope: float, intercept: float) -> tuple[NDArray[np.float32], list[str]]:
    """Voxels in float32, rounded as nibabel rounds them; doubts and errors as of `as_float32`."""
    with np.errstate(over="ignore"):  # what becomes infinite is refused when it is segmented
        return as_float32(path, np.asarray(apply_read_scaling(stored, np.float64(slope), np.float64(intercept))))
