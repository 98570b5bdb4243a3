"""NRRD files whose voxels lie behind their header: reading and writing. This is the home of pynrrd.

pynrrd parses the header. The voxels are read here, so that no more memory is taken than the header claims, and so that
no other file is opened that a header names.
"""

from __future__ import annotations

import bz2
import gzip
import io
import zlib
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from lowres_seg.errors import InputError, one_line, shown
from lowres_seg.extras import require
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
from lowres_seg.wording import counted

SUFFIXES = (".nrrd",)
#: Suffix of a header whose voxels lie in another file.
DETACHED = ".nhdr"
#: Bytes within which a header ends: it has lines of text only, of which some may be a whole DICOM header.
_MOST_HEADER = 1 << 22
#: Voxels along an axis that no scan has.
_MOST_VOXELS = 1 << 31
#: Signs that take a space to RAS+.
_SPACES = {
    "right-anterior-superior": (1, 1, 1),
    "ras": (1, 1, 1),
    "left-anterior-superior": (-1, 1, 1),
    "las": (-1, 1, 1),
    "left-posterior-superior": (-1, -1, 1),
    "lps": (-1, -1, 1),
}
_NUMBERS = {
    "i1": ("signed char", "int8", "int8_t"),
    "u1": ("uchar", "unsigned char", "uint8", "uint8_t"),
    "i2": ("short", "short int", "signed short", "signed short int", "int16", "int16_t"),
    "u2": ("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"),
    "i4": ("int", "signed int", "int32", "int32_t"),
    "u4": ("uint", "unsigned int", "uint32", "uint32_t"),
    "i8": ("longlong", "long long", "long long int", "signed long long", "signed long long int", "int64", "int64_t"),
    "u8": ("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"),
    "f4": ("float",),
    "f8": ("double",),
}
_DTYPES = {name: kind for kind, names in _NUMBERS.items() for name in names}
_ENCODINGS: dict[str, str] = {
    **dict.fromkeys(("raw",), "raw"),
    **dict.fromkeys(("gzip", "gz"), "gzip"),
    **dict.fromkeys(("bzip2", "bz2"), "bzip2"),
    **dict.fromkeys(("ascii", "text", "txt"), "text"),
}
_STREAMS: dict[str, Callable[[BinaryIO], Any]] = {
    "raw": lambda stream: stream,
    "gzip": lambda stream: gzip.GzipFile(fileobj=stream, mode="rb"),
    "bzip2": bz2.BZ2File,
}
#: Deflate shrinks no data by more than this factor.
_DEFLATE_MAX_RATIO = 1032


def check_packages() -> None:
    """Check that pynrrd is there, without importing it.

    Raises
    ------
    MissingExtraError
        If it is not.
    """
    require("nrrd")


def read_space(path: Path) -> tuple[Grid, Any]:
    """Read the grid of an NRRD file, and a NIfTI header of it; errors as of `files.read`."""
    with opened(path, gzipped=False) as stream:
        found = _described(path, stream)[0]
        return found.grid, found.header


def read(path: Path) -> tuple[NDArray[np.float32], Grid, Any, tuple[str, ...]]:
    """Read an NRRD file; results and errors as of `files.read`."""
    with opened(path, gzipped=False) as plain:
        found, encoding = _described(path, plain)
    try:
        with path.open("rb") as stream:
            stream.seek(found.first)
            stored, behind = _voxels(path, stream, found, encoding)
        data, coarse = as_float32(path, stored.reshape(found.grid.shape, order="F"))
    except MemoryError as error:
        raise too_large(path, found.grid.shape) from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({one_line(error)}); see that you may read it") from error
    return data, found.grid, found.header, (*found.doubts, *behind, *coarse)


def write(path: Path, data: NDArray[Any], grid: Grid, header: Any) -> None:
    """Write an (I, J, K) array, gzipped, in the space of Slicer and ITK; errors as of `files.write_staged`."""
    del header  # of NIfTI
    check_packages()
    import nrrd

    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ grid.affine
    fields = {
        "space": "left-posterior-superior",
        "space directions": lps[:3, :3].T,
        "space origin": lps[:3, 3],
        "kinds": ["domain"] * 3,
        "encoding": "gzip",
    }
    written = io.BytesIO()
    nrrd.write(written, nifti.storable(path, data), fields, compression_level=1)
    head, _, voxels = written.getvalue().partition(b"\n\n")
    # Without its comments, which have the time, so that the same mask is the same file.
    lines = [line for line in head.split(b"\n") if not line.startswith(b"#")]
    path.write_bytes(b"\n".join(lines) + b"\n\n" + voxels)


def _described(path: Path, stream: PlainBytes | GzipBytes) -> tuple[Described, str]:
    """Read and judge the header: what it says, and the encoding of the voxels."""
    if path.name.lower().endswith(DETACHED):
        raise InputError(
            f"{path}: is an NRRD header whose voxels lie in another file; write both as one .nrrd file, as Slicer does"
        )
    block = bytearray(min(_MOST_HEADER, stream.at_most()))
    block = block[: stream.fill(memoryview(block))]
    if not block.startswith(b"NRRD"):
        raise InputError(f"{path}: cannot be read as NRRD: it does not begin with NRRD")
    end = min((at for mark in (b"\n\n", b"\r\n\r\n") if (at := block.find(mark)) >= 0), default=-1)
    if end < 0:
        raise InputError(f"{path}: cannot be read as NRRD: no empty line ends its header; it is truncated or detached")
    first = end + (2 if block[end : end + 2] == b"\n\n" else 4)
    try:
        found, encoding = _judged(path, _parsed(bytes(block[:end])), first)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    if encoding == "raw":
        refuse_more_than_held(path, found, stream.at_most())
    elif encoding == "gzip":
        refuse_more_than_held(path, found, stream.at_most() * _DEFLATE_MAX_RATIO, "at most ")
    elif encoding == "text" and stream.at_most() - first < 2 * prod(found.grid.shape) - 1:
        raise InputError(f"{path}: its header claims {times(found.grid.shape)} voxels, the file holds fewer numbers")
    refuse_more_than_memory(path, found)
    return found, encoding


def _parsed(head: bytes) -> dict[str, Any]:
    """Fields of a header."""
    check_packages()
    import nrrd

    try:
        with np.errstate(invalid="ignore", over="ignore"):  # a number that is none is refused where it is looked at
            return dict(nrrd.read_header(head.decode("ascii", "replace").split("\n")))
    except (nrrd.NRRDError, ValueError, TypeError, IndexError, OverflowError) as error:
        raise InputError(f"cannot be read as NRRD: {one_line(error)}") from error


def _judged(path: Path, fields: dict[str, Any], first: int) -> tuple[Described, str]:
    if other := next((fields[name] for name in ("data file", "datafile") if name in fields), None):
        raise InputError(f"its voxels lie in another file ({shown(other)}); write both as one .nrrd file")
    for name in ("type", "dimension", "sizes", "encoding"):
        if name not in fields:
            raise InputError(f"its header has no {name}; it is damaged")
    for name in ("line skip", "lineskip", "byte skip", "byteskip"):
        if fields.get(name, 0) != 0:
            raise InputError(f"its header has a {name} of {fields[name]}, expected voxels right behind it")
    encoding = _ENCODINGS.get(fields["encoding"].lower())
    if encoding is None:
        raise InputError(f"its encoding is {shown(fields['encoding'])}, expected raw, gzip, bzip2 or text")
    dtype = _dtype(fields, encoding)
    shape, directions = _axes(fields)
    grid, doubts = _grid(fields, shape, directions)
    told = tuple(f"{path.name}: {doubt}" for doubt in doubts)
    return Described(nifti.header_of(grid, dtype), grid, dtype, first, told), encoding


def _dtype(fields: dict[str, Any], encoding: str) -> np.dtype[Any]:
    kind = _DTYPES.get(fields["type"].lower())
    if kind is None:
        raise InputError(f"holds voxels of type {shown(fields['type'])}, expected real numbers")
    dtype = np.dtype(kind)
    if dtype.itemsize == 1 or encoding == "text":
        return dtype
    order = {"little": "<", "big": ">"}.get(str(fields.get("endian", "")).lower())
    if order is None:
        raise InputError(f"endian of its header is {shown(fields.get('endian', ''))}, expected little or big")
    return np.dtype(order + kind)


def _axes(fields: dict[str, Any]) -> tuple[tuple[int, int, int], NDArray[np.float64]]:
    """Shape of the three axes of space, and their directions as columns; others must have one entry."""
    sizes = [int(n) for n in fields["sizes"]]
    if int(fields["dimension"]) != len(sizes):
        raise InputError(f"its header has {fields['dimension']} dimensions and {counted(len(sizes), 'size')}")
    if min(sizes, default=0) < 1:
        raise InputError(f"is empty, its shape is {tuple(sizes)}")
    if max(sizes) > _MOST_VOXELS:
        raise InputError(f"its sizes are {shown(tuple(sizes))}, expected at most {_MOST_VOXELS}; it is damaged")
    if "space directions" not in fields or "space" not in fields:
        missing = "space" if "space" not in fields else "space directions"
        raise InputError(
            f"its header has no {missing}, so that nothing says where its voxels lie; write it with one, as Slicer does"
        )
    rows = [[np.nan] * 3 if row is None else list(row) for row in fields["space directions"]]
    if len(rows) != len(sizes) or any(len(row) != 3 for row in rows):
        raise InputError(f"its header has {len(rows)} space directions, expected three numbers for each of its axes")
    directions = np.array(rows, np.float64)
    of_space = [axis for axis, row in enumerate(directions) if not np.isnan(row).all()]
    if len(of_space) != 3 or any(n > 1 for axis, n in enumerate(sizes) if axis not in of_space):
        raise InputError(f"has {counted(len(sizes), 'dimension')} {tuple(sizes)}, expected one 3D image")
    return three(sizes[axis] for axis in of_space), directions[of_space].T


def _grid(
    fields: dict[str, Any], shape: tuple[int, int, int], directions: NDArray[np.float64]
) -> tuple[Grid, list[str]]:
    space = str(fields["space"]).lower()
    signs = _SPACES.get(space)
    if signs is None:
        raise InputError(
            f"its space is {shown(fields['space'])}, which does not say where left is; expected "
            "left-posterior-superior, right-anterior-superior or left-anterior-superior"
        )
    units = [str(unit).strip().lower() for unit in fields.get("space units", [])]
    if strange := [unit for unit in units if unit not in ("", "mm", "millimeter", "millimetre")]:
        raise InputError(f"its header counts in {shown(strange[0])}, expected mm; rewrite it in millimetres")
    doubts, origin = [], np.zeros(3)
    if "space origin" in fields:
        origin = np.asarray(fields["space origin"], np.float64)
    else:
        doubts.append("its header has no space origin; the first voxel was put at 0, 0, 0")
    if origin.shape != (3,):
        raise InputError(f"space origin of its header is {shown(origin.tolist())}, expected three numbers")
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = directions, origin
    with np.errstate(invalid="ignore"):
        return Grid(shape, np.diag([*signs, 1.0]) @ affine), doubts


def _voxels(path: Path, stream: BinaryIO, found: Described, encoding: str) -> tuple[NDArray[Any], list[str]]:
    """Voxels in the order of the file, and doubts about what lies behind them."""
    count = prod(found.grid.shape)
    if encoding == "text":
        return _numbers(path, stream.read(), count).astype(found.dtype), []
    raw = np.empty(found.voxel_bytes, np.uint8)
    face = found.voxel_bytes // max(found.grid.shape)
    try:
        with _STREAMS[encoding](stream) as source:
            read = 0
            while read < len(raw) and (more := source.readinto(raw.data[read:])):
                read += more
            behind = len(source.read(face))
            while encoding != "raw" and source.read(1 << 20):  # to its checksum
                pass
    except (EOFError, zlib.error, gzip.BadGzipFile, OSError, ValueError) as error:
        raise InputError(f"{path}: is truncated or damaged, its {encoding} stream: {one_line(error)}") from error
    if read < len(raw):
        raise InputError(f"{path}: is truncated, its header claims {len(raw)} bytes of voxels and {read} could be read")
    if behind >= face:
        raise InputError(
            f"{path}: its header claims {found.voxel_bytes} bytes of voxels ({times(found.grid.shape)} of "
            f"{found.dtype}), the file holds at least {found.voxel_bytes + behind}; its sizes or type are wrong"
        )
    told = [f"{path.name}: {counted(behind, 'byte')} behind its voxels were left out"] if behind else []
    return np.frombuffer(raw, found.dtype), told


def _numbers(path: Path, text: bytes, count: int) -> NDArray[np.float64]:
    try:
        found = np.array(text.split(), np.float64)
    except ValueError as error:
        raise InputError(f"{path}: is damaged, its text: {one_line(error)}") from error
    if len(found) != count:
        raise InputError(f"{path}: its header claims {count} voxels, the file holds {counted(len(found), 'number')}")
    return found
