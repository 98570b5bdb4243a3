"""Arrays of an .npz that someone else wrote, read within bounds. Nothing in it is unpickled."""

from __future__ import annotations

import io
import zipfile
from math import prod
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from lowres_seg.bundle.bounds import ITEMS, REFERENCE_ARRAY_BYTES
from lowres_seg.errors import one_line, shown

#: Beginning of each entry in the list of a zip file's members.
_ENTRY = b"PK\x01\x02"


def read(content: bytes) -> dict[str, NDArray[Any]]:
    """Read the arrays of numbers that an .npz holds, by name.

    Headers are read before any array takes memory, so that a small file that claims much is refused at once.

    Raises
    ------
    ValueError
        If it is no .npz, holds something else than arrays of numbers, or more than the bounds allow.
    """
    # zipfile reads the list as a whole, which takes seconds for a million members.
    if content.count(_ENTRY) > ITEMS:
        msg = f"has more than {ITEMS} arrays"
        raise ValueError(msg)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as stored:
            members = stored.infolist()
            _check(members)
            return {member.filename.removesuffix(".npy"): _array(stored, member) for member in members}
    except Exception as error:  # zipfile, zlib and numpy give errors of many types for files that are damaged
        msg = f"is no .npz of plain arrays: {one_line(error)}"
        raise ValueError(msg) from error


def _check(members: list[zipfile.ZipInfo]) -> None:
    names = {member.filename for member in members}
    total = sum(member.file_size for member in members)
    odd = [name for name in names if not name.endswith(".npy")]
    if odd or len(names) < len(members):
        msg = f"it holds {shown(odd[0])}" if odd else "it holds an array twice"
        raise ValueError(msg)
    if total > REFERENCE_ARRAY_BYTES:
        msg = f"its arrays have {total} bytes, expected at most {REFERENCE_ARRAY_BYTES}"
        raise ValueError(msg)


def _array(stored: zipfile.ZipFile, member: zipfile.ZipInfo) -> NDArray[Any]:
    with stored.open(member) as stream:
        version = npy.read_magic(stream)
        if version not in ((1, 0), (2, 0)):
            msg = f"{shown(member.filename)} has version {version} of the format, expected 1.0 or 2.0"
            raise ValueError(msg)
        reader = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, in_columns, dtype = reader(stream)
        if dtype.kind not in "biuf" or dtype.hasobject:
            msg = f"{shown(member.filename)} is of type {shown(str(dtype))}, expected numbers"
            raise ValueError(msg)
        count = prod(shape)
        if min(shape, default=1) < 0 or count * dtype.itemsize > member.file_size:
            msg = f"{shown(member.filename)} claims the shape {shown(shape)}, and has {member.file_size} bytes"
            raise ValueError(msg)
        values = stream.read(count * dtype.itemsize)
    flat = np.frombuffer(values, dtype, count)
    # As numpy.load, which gives arrays that can be written to, in the machine's own byte order or not.
    return flat.reshape(shape, order="F" if in_columns else "C").copy(order="K")
