"""Voxels in space.

A **grid** is a mapped voxel space: a shape and an **affine**, without voxels. The affine takes voxel indices
(i, j, k) to millimetres in RAS+ (right, anterior and superior are positive), as nibabel and NIfTI have it.
The **orientation** of a grid names the direction in which each array axis grows: ``"LPS"`` means that i grows
to the left, j to the back, k to the top. A **volume** is voxels on a grid.

This is the home of nibabel.
"""

from __future__ import annotations

import gzip
import os
import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from nibabel import orientations
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError
from numpy.typing import NDArray

from lowres_seg import atomic
from lowres_seg.errors import InputError
from lowres_seg.stage import STORED

#: Spacing outside of this is taken for metres, micrometres or a damaged header.
PLAUSIBLE_SPACING_MM = (0.02, 50.0)
#: Deflate cannot shrink further than this, so a smaller file cannot hold what its header claims.
_DEFLATE_MAX_RATIO = 1032
NIFTI_SUFFIXES = (".nii.gz", ".nii")


@dataclass(frozen=True)
class Box:
    """A cuboid of voxels, from `start` up to but not including `stop`, on each axis."""

    start: tuple[int, int, int]
    stop: tuple[int, int, int]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels on each axis."""
        return _three(b - a for a, b in zip(self.start, self.stop, strict=True))

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        """For indexing an array with it."""
        i, j, k = (slice(a, b) for a, b in zip(self.start, self.stop, strict=True))
        return i, j, k


@dataclass(frozen=True)
class Grid:
    """A mapped voxel space.

    Parameters
    ----------
    shape : tuple of 3 int
        Voxels on each axis, all positive.
    affine : (4, 4) array_like
        Voxel index to millimetres in RAS+; finite and invertible.

    Raises
    ------
    InputError
        If the shape is not three positive numbers, or the affine is singular, not finite, or gives a spacing
        that no scanner has.
    """

    shape: tuple[int, int, int]
    affine: NDArray[np.float64] = field(repr=False)

    def __post_init__(self) -> None:
        shape: tuple[int, ...] = self.shape
        if len(shape) != 3 or any(n < 1 for n in shape):
            raise InputError(f"shape {shape}: expected three axes with at least one voxel each")
        affine = np.array(self.affine, dtype=np.float64)
        if affine.shape != (4, 4) or not np.isfinite(affine).all():
            raise InputError("affine: expected a 4×4 matrix of finite numbers")
        spacing = np.sqrt((affine[:3, :3] ** 2).sum(axis=0))
        if abs(np.linalg.det(affine[:3, :3])) <= 1e-6 * np.prod(spacing):
            raise InputError(
                f"affine: singular, its axes do not span space (spacing {_mm(spacing)}); "
                "repair the qform or sform of the header"
            )
        low, high = PLAUSIBLE_SPACING_MM
        if (spacing < low).any() or (spacing > high).any():
            raise InputError(
                f"spacing {_mm(spacing)}: expected {low} to {high} mm; is it in metres or micrometres? "
                "rewrite the header in millimetres"
            )
        affine.flags.writeable = False
        object.__setattr__(self, "shape", _three(int(n) for n in self.shape))
        object.__setattr__(self, "affine", affine)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Grid):
            return NotImplemented
        return self.shape == other.shape and bool(np.array_equal(self.affine, other.affine))

    def __hash__(self) -> int:
        return hash((self.shape, self.affine.tobytes()))

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance between neighbouring voxels along each array axis."""
        i, j, k = np.sqrt((self.affine[:3, :3] ** 2).sum(axis=0))
        return float(i), float(j), float(k)

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel in millilitres."""
        return float(abs(np.linalg.det(self.affine[:3, :3])) / 1000)

    @property
    def orientation(self) -> str:
        """Nearest anatomical direction of each array axis, such as ``"RAS"``."""
        return "".join(nibabel.aff2axcodes(self.affine))

    def same_space(self, other: Grid, *, tolerance_mm: float = 1e-2) -> bool:
        """Whether both have one shape and every corner of both lies within `tolerance_mm`."""
        if self.shape != other.shape:
            return False
        corners = np.array(np.meshgrid(*[(0, n - 1) for n in self.shape], [1.0])).reshape(4, -1)
        apart = (self.affine - other.affine) @ corners
        return bool(np.sqrt((apart[:3] ** 2).sum(axis=0)).max() <= tolerance_mm)


@dataclass(frozen=True, eq=False)
class Volume:
    """Voxels on a grid.

    Parameters
    ----------
    data : (I, J, K) ndarray
        Voxels, of any real dtype.
    grid : Grid
    header : nibabel.Nifti1Header, optional
        Of the file it came from; kept so that results are written with it.
    doubts : tuple of str
        What a reader of the result should know about the file.
    name : str
        Where it came from, for messages.

    Raises
    ------
    InputError
        If data and grid disagree in shape.
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
        """Build from an (I, J, K) array and a (4, 4) affine to RAS+ millimetres."""
        return cls(data, Grid(_three(data.shape), affine))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Volume:
        """Read a NIfTI-1 or NIfTI-2 file as float32.

        A fourth axis of length one is dropped.

        Raises
        ------
        InputError
            If the file is missing, truncated or no NIfTI, is not one 3D image of real numbers, claims more
            voxels than it holds (told before they are allocated), or has an unusable grid.
        """
        path = Path(path)
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
            grid = Grid(_three(shape), image.affine)
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
        _refuse_missing_voxels(path, image)
        try:
            data = np.asanyarray(image.dataobj, dtype=np.float32).reshape(shape)
        except (EOFError, OSError, ValueError, zlib.error) as error:
            raise InputError(f"{path}: is damaged or truncated ({_one_line(error)})") from error
        return cls(data, grid, image.header.copy(), _doubts(path, image), str(path))

    def save(self, path: str | os.PathLike[str], *, force: bool = False) -> None:
        """Write as NIfTI with the dtype of `data`, whole or not at all.

        The header of the source file, if there is one, is kept: its affines and their codes, units and
        description.

        Raises
        ------
        InputError
            If the name does not end in .nii or .nii.gz, or the output exists or cannot be written.
        """
        path = Path(path)
        if not path.name.endswith(NIFTI_SUFFIXES):
            raise InputError(f"{path}: expected a name that ends in .nii.gz or .nii")
        header = None if self.header is None else self.header.copy()
        if header is not None:
            header.set_data_dtype(self.data.dtype)
            header["scl_slope"], header["scl_inter"] = np.nan, np.nan
            header["cal_min"], header["cal_max"] = 0, 0
        kind = nibabel.Nifti2Image if isinstance(header, nibabel.Nifti2Header) else nibabel.Nifti1Image
        image = kind(self.data, None if header is not None else self.grid.affine, header)
        with atomic.file(path, force=force) as staged:
            image.to_filename(staged)


@dataclass(frozen=True)
class Reorientation:
    """How the axes of one grid become those of another orientation: a permutation and flips, no resampling.

    Parameters
    ----------
    grid : Grid
        Where it starts from.
    orientation : str
        Where it leads, such as ``"LPS"``; or ``"stored"``, for the axes of the grid as they are.
    axes : tuple of 3 int
        Order of those axes.
    """

    grid: Grid
    orientation: str
    axes: tuple[int, int, int] = (0, 1, 2)

    def _there(self) -> NDArray[np.float64]:
        if self.orientation == STORED:
            return np.array([[self.axes.index(axis), 1] for axis in range(3)], dtype=float)
        start = nibabel.io_orientation(self.grid.affine)
        end = orientations.axcodes2ornt(tuple(self.orientation))
        return np.asarray(orientations.ornt_transform(start, end))

    def _back(self) -> NDArray[np.float64]:
        if self.orientation == STORED:
            return np.array([[axis, 1] for axis in self.axes], dtype=float)
        start = orientations.axcodes2ornt(tuple(self.orientation))
        return np.asarray(orientations.ornt_transform(start, nibabel.io_orientation(self.grid.affine)))

    @property
    def result(self) -> Grid:
        """The grid that it leads to."""
        there = self._there()
        affine = self.grid.affine @ orientations.inv_ornt_aff(there, self.grid.shape)
        shape = np.empty(3, dtype=int)
        shape[there[:, 0].astype(int)] = self.grid.shape
        return Grid(_three(shape.tolist()), affine)

    def apply(self, data: NDArray[Any]) -> NDArray[Any]:
        """View of an array on the first grid, with the axes of the second."""
        return np.asarray(orientations.apply_orientation(data, self._there()))

    def undo(self, data: NDArray[Any]) -> NDArray[Any]:
        """View of an array on the second grid, with the axes of the first."""
        return np.asarray(orientations.apply_orientation(data, self._back()))

    def undo_box(self, box: Box) -> Box:
        """Take a box on the second grid to the same voxels on the first."""
        return _moved(box, self._back(), self.result.shape)

    def apply_box(self, box: Box) -> Box:
        """Take a box on the first grid to the same voxels on the second."""
        return _moved(box, self._there(), self.grid.shape)


def _moved(box: Box, transform: NDArray[np.float64], shape: tuple[int, int, int]) -> Box:
    start, stop = [0, 0, 0], [0, 0, 0]
    for axis, (to, flip) in enumerate(transform):
        low, high = box.start[axis], box.stop[axis]
        if flip < 0:
            low, high = shape[axis] - high, shape[axis] - low
        start[int(to)], stop[int(to)] = low, high
    return Box(_three(start), _three(stop))


def _open(path: Path) -> Any:
    """Header of a NIfTI file, its voxels not yet read."""
    if not path.exists():
        raise InputError(f"{path}: does not exist")
    if path.is_dir():
        raise InputError(f"{path}: is a folder, expected a NIfTI file")
    if not path.name.endswith(NIFTI_SUFFIXES):
        raise InputError(f"{path}: expected a NIfTI file, with a name that ends in .nii.gz or .nii")
    try:
        image = nibabel.load(path)
    except (
        ImageFileError,
        HeaderDataError,
        WrapStructError,
        EOFError,
        OSError,
        ValueError,
        zlib.error,
    ) as error:
        raise InputError(f"{path}: cannot be read as NIfTI ({_one_line(error)})") from error
    if not isinstance(image, nibabel.Nifti1Pair):
        raise InputError(f"{path}: is {type(image).__name__}, expected NIfTI")
    return image


def _refuse_missing_voxels(path: Path, image: Any) -> None:
    """Refuse a file that holds fewer bytes than its header claims, before anything of that size exists."""
    offset = int(image.dataobj.offset)
    claimed = offset + int(np.prod(image.shape, dtype=object)) * image.get_data_dtype().itemsize
    size = path.stat().st_size
    held = size
    if path.name.endswith(".gz"):
        if claimed > size * _DEFLATE_MAX_RATIO:
            held = size * _DEFLATE_MAX_RATIO
        else:
            with path.open("rb") as stream:
                stream.seek(-4, os.SEEK_END)
                (last_member,) = struct.unpack("<I", stream.read(4))
            # The trailer counts modulo 2^32 and for the last gzip member only: it can confirm, not refute.
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


def _three(values: Iterable[int]) -> tuple[int, int, int]:
    i, j, k = values
    return i, j, k


def _mm(spacing: Iterable[float]) -> str:
    return "×".join(f"{s:.4g}" for s in spacing) + " mm"


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
