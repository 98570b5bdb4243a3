"""Frames of DICOM images: where each lies in space, and which plane of a label map lies there.

DICOM's millimetres are LPS+ (left, posterior and superior are positive), those of a grid are RAS+.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowres_seg.dicom import instances
from lowres_seg.errors import InputError
from lowres_seg.volumes.grid import Grid

#: How far a corner of a frame may lie from its voxel, as a share of the largest spacing. Headers are rounded, and
#: slices are spaced alike within what their reader allows, which is a tenth.
_OFF = 0.15
_RAS_OF_LPS = np.diag([-1.0, -1.0, 1.0])


@dataclass(frozen=True, eq=False)
class Frame:
    """One slice of a series.

    Attributes
    ----------
    position : (3,) ndarray
        Centre of its first pixel, LPS+ in millimetres.
    orientation : (6,) ndarray
        Direction of rising columns, then of rising rows.
    pixel_mm : (2,) ndarray
        Distance between rows, then between columns.
    thickness_mm : float or None
    shape : tuple of int
        Number of rows and columns.
    number : int or None
        Number within its multi-frame image, from 1; None of an image that has one frame only.
    """

    position: NDArray[np.float64]
    orientation: NDArray[np.float64]
    pixel_mm: NDArray[np.float64]
    thickness_mm: float | None
    shape: tuple[int, int]
    number: int | None = None

    @property
    def affine(self) -> NDArray[np.float64]:
        """(3, 3) of the steps to the next row and column, and the position, as columns; RAS+ in millimetres."""
        across, down = self.orientation[:3], self.orientation[3:]
        return _RAS_OF_LPS @ np.column_stack([down * self.pixel_mm[0], across * self.pixel_mm[1], self.position])


def frames_of(image: Any) -> Iterator[Frame]:
    """Yield the frames of a pydicom dataset, of one frame or of many.

    Raises
    ------
    InputError
        If its header does not say where they lie.
    """
    many = "PerFrameFunctionalGroupsSequence" in image
    for found in instances.frames(image):
        yield Frame(
            _required(image, "ImagePositionPatient", found.position),
            _required(image, "ImageOrientationPatient", found.orientation),
            _required(image, "PixelSpacing", found.spacing_mm),
            found.thickness_mm or None,
            (found.rows, found.columns),
            found.index + 1 if many else None,
        )


def _required(image: Any, name: str, value: tuple[float, ...] | None) -> NDArray[np.float64]:
    if value is None:
        raise InputError(
            f"{name_of(image)}: has no {name}, which says where a segmentation lies, or one that is unusable; name a "
            "mask in NIfTI instead, such as -o mask.nii.gz"
        )
    return np.array(value)


def name_of(image: Any) -> str:
    """What messages call a pydicom dataset: its file, or its UID."""
    return str(getattr(image, "filename", None) or image.get("SOPInstanceUID", "an image without a UID"))


def planes(
    labels: NDArray[np.uint8], grid: Grid, frames: Sequence[Frame], names: Sequence[str]
) -> dict[int, NDArray[np.uint8]]:
    """Planes of a label map, by the frame that lies there.

    A frame that lies where an earlier one lies has none.

    Parameters
    ----------
    labels : (I, J, K) ndarray
    grid : Grid
        Of the label map.
    frames : sequence of Frame
        In any order.
    names : sequence of str
        What messages call each frame.

    Returns
    -------
    dict of int to (rows, columns) ndarray
        By the index of the frame.

    Raises
    ------
    InputError
        If a frame does not lie on a plane of the label map, or if a plane of the label map has no frame.
    """
    found: dict[int, NDArray[np.uint8]] = {}
    taken: set[tuple[int, int]] = set()
    orientation = np.mean([frame.orientation for frame in frames], axis=0)  # each is rounded
    for number, (frame, name) in enumerate(zip(frames, names, strict=True)):
        rows, columns, first = _voxels(grid, replace(frame, orientation=orientation), name)
        (fixed,) = set(range(3)) - {rows[0], columns[0]}
        if (fixed, first[fixed]) not in taken:
            taken.add((fixed, first[fixed]))
            plane = np.moveaxis(labels, fixed, 0)[first[fixed]]
            plane = plane if rows[0] < columns[0] else plane.T
            found[number] = plane[:: rows[1], :: columns[1]]
    if len(taken) < grid.shape[fixed] or len({axis for axis, _ in taken}) > 1:
        raise InputError(
            f"{names[0]}: its series has {len(taken)} slices on the grid of a label map of "
            f"{' × '.join(map(str, grid.shape))} voxels; expected a slice for each of its planes"
        )
    return found


def _voxels(grid: Grid, frame: Frame, name: str) -> tuple[tuple[int, int], tuple[int, int], list[int]]:
    """Axis and direction of rising rows and of rising columns, and the voxel of the first pixel.

    Raises
    ------
    InputError
        If the pixels are no voxels of the grid.
    """
    inverse = np.linalg.inv(grid.affine)
    steps = inverse[:3, :3] @ frame.affine
    steps[:, 2] += inverse[:3, 3]
    voxels = np.rint(steps)
    moves = [np.flatnonzero(voxels[:, n]) for n in (0, 1)]
    off_mm = np.inf
    if all(len(axes) == 1 and abs(voxels[axes[0], n]) == 1 for n, axes in enumerate(moves)):
        for n, (axis,) in enumerate(moves):  # a frame covers its plane
            voxels[axis, 2] = 0 if voxels[axis, n] > 0 else grid.shape[axis] - 1
        corners = np.array([[r, c, 1] for r in (0, frame.shape[0] - 1) for c in (0, frame.shape[1] - 1)]).T
        reached = voxels @ corners
        sizes = [grid.shape[axis] for (axis,) in moves]
        inside = (reached >= 0).all() and (grid.shape > reached.T).all()
        if inside and moves[0] != moves[1] and sizes == list(frame.shape):
            off_mm = float(np.linalg.norm(grid.affine[:3, :3] @ ((steps - voxels) @ corners), axis=0).max())
    if off_mm > _OFF * max(grid.spacing_mm):
        by = "" if off_mm == np.inf else f", by {off_mm:.3g} mm"
        raise InputError(
            f"{name}: does not lie on the voxels of the label map{by}; expected the series that was segmented, on its "
            "own grid"
        )
    rows, columns = ((int(axis), int(voxels[axis, n])) for n, (axis,) in enumerate(moves))
    return rows, columns, [int(n) for n in voxels[:, 2]]
