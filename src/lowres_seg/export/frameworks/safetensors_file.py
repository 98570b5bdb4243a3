"""Files of safetensors: a length of 8 bytes, a header in JSON, and the values. They hold no code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowres_seg.errors import ExportError

#: Kinds of value that a header may name, as numpy reads them. bfloat16 is the upper half of a float32.
_KINDS = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "BOOL": "?",
    "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1",
}  # fmt: skip
_LENGTH = 8
#: The format bounds a header to this.
_MOST = 100_000_000


def matches(path: Path) -> bool:
    """Tell by its first bytes whether a file is one of safetensors. Its name does not count."""
    with path.open("rb") as file:
        start = file.read(_LENGTH + 1)
    return len(start) > _LENGTH and start[_LENGTH:] == b"{" and int.from_bytes(start[:_LENGTH], "little") <= _MOST


def read(path: Path) -> dict[str, NDArray[Any]]:
    """Read the arrays by name. bfloat16 becomes float32.

    Raises
    ------
    ExportError
        If the file is damaged or cut off, or has a kind of value that numpy does not know.
    """
    content = memoryview(path.read_bytes())
    start = _LENGTH + int.from_bytes(content[:_LENGTH], "little")
    try:
        header = json.loads(bytes(content[_LENGTH:start]))
        entries = {
            str(name): (str(entry["dtype"]), [int(n) for n in entry["shape"]], [int(n) for n in entry["data_offsets"]])
            for name, entry in header.items()
            if name != "__metadata__"
        }
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ExportError(f"{path}: begins as a safetensors file and its header is damaged; fetch it again") from error
    arrays = {}
    for name, (kind, shape, offsets) in entries.items():
        if kind not in _KINDS:
            raise ExportError(f"{path}: {name} holds {kind}, expected F32, F16, BF16 or F64; save it as one of these")
        dtype = np.dtype(_KINDS[kind])
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        if len(offsets) != 2 or offsets[0] < 0 or offsets[1] - offsets[0] != size or min(shape, default=0) < 0:
            raise ExportError(f"{path}: {name} does not have the bytes of its shape {tuple(shape)}; fetch it again")
        if start + offsets[1] > len(content):
            raise ExportError(
                f"{path}: is cut off: {name} ends at byte {start + offsets[1]} of {len(content)}; fetch it again"
            )
        array = np.frombuffer(content[start + offsets[0] : start + offsets[1]], dtype).reshape(shape)
        wide = (array.astype("<u4") << np.uint32(16)).view("<f4") if kind == "BF16" else array.copy()
        arrays[name] = wide
    return arrays
