"""What the header of a file claims about its voxels, judged before memory is taken for them; and voxels as float32."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowres_seg import host
from lowres_seg.errors import InputError
from lowres_seg.volumes.grid import Grid
from lowres_seg.wording import sizes

#: Scans whose largest value is smaller are refused if float32 keeps some of their values in fewer bits.
_TINY = 1e-27
#: Number of steps of float32 between the least and the largest intensity below which a scan is doubted.
_FEWEST_STEPS = 1000


@dataclass(frozen=True)
class Described:
    """What the header of a file says.

    Attributes
    ----------
    header : nibabel.Nifti1Header
        One that a result is written with.
    grid : Grid
    dtype : numpy dtype
        Of the voxels as they are stored.
    first : int
        First byte of the voxels.
    doubts : tuple of str
        What a reader of the result should know about the header.
    lacks_room : bool
        Whether it says that extensions follow, and leaves no room for them before the voxels.
    """

    header: Any
    grid: Grid
    dtype: np.dtype[Any]
    first: int
    doubts: tuple[str, ...]
    lacks_room: bool = False

    @property
    def voxel_bytes(self) -> int:
        """Bytes of all voxels as they are stored."""
        return prod(self.grid.shape) * self.dtype.itemsize

    @property
    def claimed(self) -> int:
        """Bytes up to the last voxel."""
        return self.first + self.voxel_bytes


def refuse_more_than_held(path: Path, found: Described, held: int, about: str = "") -> None:
    """Refuse a header that claims more bytes than the file holds.

    Raises
    ------
    InputError
    """
    if held < found.claimed:
        raise InputError(
            f"{path}: its header claims {found.claimed} bytes ({times(found.grid.shape)} voxels of {found.dtype}), the "
            f"file holds {about}{held}; it is truncated or damaged"
        )


def refuse_more_than_memory(path: Path, found: Described) -> None:
    """Refuse a header whose voxels take more than this machine's memory.

    Raises
    ------
    InputError
    """
    need, memory = found.voxel_bytes + 4 * prod(found.grid.shape), host.memory_limit_bytes()
    if need > memory:
        takes, has = sizes(need, memory)
        raise InputError(
            f"{path}: {times(found.grid.shape)} voxels take {takes} to read, this machine has {has}; crop the scan, or "
            "use a machine with more"
        )


def too_large(path: Path, shape: tuple[int, ...]) -> InputError:
    """The error of voxels for which there is no memory left."""
    return InputError(f"{path}: {times(shape)} voxels take more memory than there is; crop the scan")


def as_float32(path: Path, x: NDArray[Any]) -> tuple[NDArray[np.float32], list[str]]:
    """Voxels in float32; and a doubt if that leaves few steps between them.

    Raises
    ------
    InputError
        If float32 cannot hold them. Whether a thread keeps the smallest depends on what it ran before.
    """
    if (x.dtype.itemsize <= np.dtype(np.float32).itemsize and x.dtype.kind == "f") or x.dtype.itemsize < 4:
        return np.asarray(x, dtype=np.float32), []
    finite = x[np.isfinite(x)] if x.dtype.kind == "f" else x
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    largest = max(abs(low), abs(high))
    with np.errstate(over="ignore"):
        overflows = np.isinf(np.float32(largest))
    if overflows:
        raise InputError(
            f"{path}: holds values up to {largest:.3g}, and float32 holds none over 3.4e+38; divide its intensities"
        )
    if 0 < largest < _TINY and (lost := np.count_nonzero((x != 0) & (np.abs(x) < float(np.finfo(np.float32).tiny)))):
        raise InputError(
            f"{path}: {lost} of {x.size} voxels lie within 1.2e-38 of zero, where CPUs compute with zero; multiply the "
            "scan's intensities by 1e30"
        )
    with np.errstate(over="ignore"):  # what becomes infinite is refused when it is segmented
        values = np.asarray(x, dtype=np.float32)
    if not 0 < high - low < _FEWEST_STEPS * float(np.spacing(np.float32(largest))):
        return values, []
    coarse = (
        f"{path.name}: its intensities lie between {low:.9g} and {high:.9g}, so far from zero that float32 keeps few "
        "steps between them; subtract the least"
    )
    return values, [coarse]


def times(values: tuple[int, ...]) -> str:
    """Shape in words."""
    return "×".join(map(str, values))
