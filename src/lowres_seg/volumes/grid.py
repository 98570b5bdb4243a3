"""Grids: where voxels lie in space.

A **grid** is a shape and an **affine**, without voxels. The affine maps voxel indices (i, j, k) to millimetres in RAS+
(right, anterior and superior are positive), as in nibabel and NIfTI. The **orientation** of a grid is the nearest
anatomical direction of each array axis.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from lowres_seg.arguments import described
from lowres_seg.errors import InputError, shown
from lowres_seg.volumes import without_web  # noqa: F401 - before nibabel, whose import it shortens
from lowres_seg.volumes.orientations import STORED

import nibabel  # isort: skip
from nibabel import orientations  # isort: skip

#: A spacing outside of this range means metres, micrometres or a damaged header.
PLAUSIBLE_SPACING_MM = (0.02, 50.0)

_T = TypeVar("_T")


def three(values: Iterable[_T]) -> tuple[_T, _T, _T]:
    """Tuple of exactly three values, one for each array axis."""
    i, j, k = values
    return i, j, k


@dataclass(frozen=True)
class Box:
    """A cuboid of voxels: on each axis from `start` up to but not including `stop`."""

    start: tuple[int, int, int]
    stop: tuple[int, int, int]

    @classmethod
    def whole(cls, shape: tuple[int, int, int]) -> Box:
        """Box of all voxels of a grid of this shape."""
        return cls((0, 0, 0), shape)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of voxels on each axis."""
        return three(b - a for a, b in zip(self.start, self.stop, strict=True))

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        """Index of the box in an (I, J, K) array."""
        return three(slice(a, b) for a, b in zip(self.start, self.stop, strict=True))


@dataclass(frozen=True)
class Grid:
    """A shape and an affine.

    Parameters
    ----------
    shape : tuple of 3 int
        Number of voxels on each axis, all positive.
    affine : (4, 4) array_like
        Maps voxel indices to millimetres in RAS+. Finite and invertible.

    Raises
    ------
    InputError
        If the shape is not three positive numbers, or the affine is singular or not finite, or its spacing is not
        plausible.

    Examples
    --------
    >>> import numpy as np
    >>> grid = Grid((182, 218, 182), np.diag([-1.0, 1.0, 1.0, 1.0]))
    >>> grid.orientation, grid.spacing_mm
    ('LAS', (1.0, 1.0, 1.0))
    """

    shape: tuple[int, int, int]
    affine: NDArray[np.float64] = field(repr=False)

    def __post_init__(self) -> None:
        shape: Any = self.shape
        if not isinstance(shape, (tuple, list)) or len(shape) != 3 or not all(map(_is_count, shape)):
            raise InputError(f"shape {shown(shape)}: expected three axes with at least one voxel each")
        affine = _checked(self.affine)
        with np.errstate(over="ignore", invalid="ignore"):  # numbers of a damaged header may be as large as any
            spacing = np.sqrt((affine[:3, :3] ** 2).sum(axis=0))
            flat = abs(np.linalg.det(affine[:3, :3])) <= 1e-6 * np.prod(spacing)
        low, high = PLAUSIBLE_SPACING_MM
        if flat and (spacing <= high).all():
            raise InputError(
                f"affine: singular, its axes do not span space (spacing {_mm(spacing)}); "
                "repair the qform or sform of the header"
            )
        if (spacing < low).any() or (spacing > high).any():
            raise InputError(
                f"spacing {_mm(spacing)}: expected {low} to {high} mm; is it in metres or micrometres? "
                "rewrite the header in millimetres"
            )
        affine.flags.writeable = False
        object.__setattr__(self, "shape", three(int(n) for n in self.shape))
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
        return three(float(s) for s in np.sqrt((self.affine[:3, :3] ** 2).sum(axis=0)))

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel in millilitres."""
        return float(abs(np.linalg.det(self.affine[:3, :3])) / 1000)

    @property
    def orientation(self) -> str:
        """Nearest anatomical direction of each array axis, such as ``"RAS"``."""
        return "".join(nibabel.aff2axcodes(self.affine))

    def same_space(self, other: Grid, *, tolerance_mm: float = 1e-2) -> bool:
        """Tell whether both grids have one shape, and no corner lies more than `tolerance_mm` from its counterpart."""
        return self.shape == other.shape and self._corners_apart_mm(other) <= tolerance_mm

    def difference(
        self, other: Grid, *, shift_mm: float = 1e-2, stretch: float = 1e-5, turn_degrees: float = 1e-3
    ) -> str:
        """What differs between two grids, in words, with the figures of both; empty if nothing does.

        Parameters
        ----------
        other : Grid
        shift_mm : float
            How far the first voxels may lie apart.
        stretch : float
            How far the ratio of their spacings may differ from 1.
        turn_degrees : float
            By how much the axes of one may be turned against the axes of the other.

        Examples
        --------
        >>> import numpy as np
        >>> a, b = np.eye(4), np.eye(4)
        >>> b[0, 3] = 1
        >>> Grid((4, 4, 4), a).difference(Grid((4, 4, 5), b))
        'shape 4×4×4 and 4×4×5; first voxel at (0, 0, 0) and (1, 0, 0) mm, 1 mm apart'
        """
        found = []
        if self.shape != other.shape:
            found.append(f"shape {_times(self.shape)} and {_times(other.shape)}")
        ours, theirs = (np.array(grid.spacing_mm) for grid in (self, other))
        turned = self.orientation != other.orientation
        if turned:
            found.append(f"orientation {self.orientation} and {other.orientation}")
        if (np.abs(ours / theirs - 1) > stretch).any():
            found.append(f"spacing {_times(f'{s:.6g}' for s in ours)} and {_times(f'{s:.6g}' for s in theirs)} mm")
        if turned:
            return "; ".join(found)
        a, b = self.affine[:3, 3], other.affine[:3, 3]
        apart = math.dist(a, b)
        if apart > shift_mm:
            found.append(f"first voxel at {_point(a)} and {_point(b)} mm, {apart:.3g} mm apart")
        # Two rotations by an angle θ from each other differ by 2·√2·sin(θ/2) in the Frobenius norm.
        norm = float(np.linalg.norm(self.affine[:3, :3] / ours - other.affine[:3, :3] / theirs))
        angle = float(np.degrees(2 * np.arcsin(min(1.0, norm / np.sqrt(8)))))
        if angle > turn_degrees:
            found.append(f"axes turned by {angle:.3g}°")
        return "; ".join(found)

    def another_grid(self, other: Grid) -> str:
        """What differs between two grids that are not of the same space."""
        return self.difference(other) or f"corners lie up to {self._corners_apart_mm(other):.3g} mm apart"

    def _corners_apart_mm(self, other: Grid) -> float:
        """Largest distance of a corner from its counterpart on a grid of the same shape."""
        corners = np.array(np.meshgrid(*[(0, n - 1) for n in self.shape], [1.0])).reshape(4, -1)
        with np.errstate(over="ignore"):
            apart = (self.affine - other.affine) @ corners
            return float(np.sqrt((apart[:3] ** 2).sum(axis=0)).max())


@dataclass(frozen=True)
class StoredAxes:
    """For each axis of an orientation: which axis of the file it is, and whether it runs against it."""

    axes: tuple[int, int, int]
    turned: tuple[bool, bool, bool]

    def matrix(self, shape: tuple[int, int, int]) -> NDArray[np.float64]:
        """Matrix (4, 4) from indices of a grid of `shape` in the orientation to those of the file's axes."""
        result = np.zeros((4, 4))
        result[3, 3] = 1
        for axis, (place, turned) in enumerate(zip(self.axes, self.turned, strict=True)):
            result[place, axis] = -1 if turned else 1
            result[place, 3] = shape[axis] - 1 if turned else 0
        return result


#: The axes of a file as they are stored.
AS_STORED = StoredAxes((0, 1, 2), (False, False, False))


@dataclass(frozen=True)
class Reorientation:
    """A permutation and flips of array axes that give a grid another orientation. Nothing is resampled.

    Parameters
    ----------
    grid : Grid
        The grid to reorient.
    orientation : str
        The orientation wanted, such as ``"LPS"``; or ``"stored"`` for the axes of `grid` in the order of `axes`.
    axes : tuple of 3 int
        Order of the stored axes. Used with ``"stored"`` only.
    """

    grid: Grid
    orientation: str
    axes: tuple[int, int, int] = (0, 1, 2)

    def _forward(self) -> NDArray[np.float64]:
        if self.orientation == STORED:
            return np.array([[self.axes.index(axis), 1] for axis in range(3)], dtype=float)
        start = nibabel.io_orientation(self.grid.affine)
        end = orientations.axcodes2ornt(tuple(self.orientation))
        return np.asarray(orientations.ornt_transform(start, end))

    def _backward(self) -> NDArray[np.float64]:
        if self.orientation == STORED:
            return np.array([[axis, 1] for axis in self.axes], dtype=float)
        start = orientations.axcodes2ornt(tuple(self.orientation))
        return np.asarray(orientations.ornt_transform(start, nibabel.io_orientation(self.grid.affine)))

    @property
    def result(self) -> Grid:
        """The reoriented grid."""
        forward = self._forward()
        affine = self.grid.affine @ orientations.inv_ornt_aff(forward, self.grid.shape)
        shape = np.empty(3, dtype=int)
        shape[forward[:, 0].astype(int)] = self.grid.shape
        return Grid(three(shape.tolist()), affine)

    @property
    def stored(self) -> StoredAxes:
        """How the axes of the second grid lie in the first."""
        forward = self._forward()
        to = forward[:, 0].astype(int).tolist()
        axes = three(to.index(axis) for axis in range(3))
        return StoredAxes(axes, three(bool(forward[axis, 1] < 0) for axis in axes))

    def apply(self, data: NDArray[Any]) -> NDArray[Any]:
        """Reorient an (I, J, K) array of the first grid. The result is a view."""
        return np.asarray(orientations.apply_orientation(data, self._forward()))

    def undo(self, data: NDArray[Any]) -> NDArray[Any]:
        """Reorient an array of the second grid back to the first. The result is a view."""
        return np.asarray(orientations.apply_orientation(data, self._backward()))

    def apply_box(self, box: Box) -> Box:
        """Box on the second grid that holds the voxels of a box on the first."""
        return _reoriented(box, self._forward(), self.grid.shape)

    def undo_box(self, box: Box) -> Box:
        """Box on the first grid that holds the voxels of a box on the second."""
        return _reoriented(box, self._backward(), self.result.shape)


def _checked(affine: object) -> NDArray[np.float64]:
    """Copy of an affine as a (4, 4) matrix of finite numbers whose last row is 0 0 0 1."""
    expected = "expected a 4×4 matrix of finite numbers whose last row is 0 0 0 1"
    try:
        given = np.asarray(affine)
        matrix = given.astype(np.float64) if given.dtype.kind in "biuf" else None
    except (TypeError, ValueError):
        matrix = None
    if matrix is None or matrix.shape != (4, 4):
        raise InputError(f"affine: found {described(affine)}, {expected}")
    if not np.isfinite(matrix).all() or not np.allclose(matrix[3], (0, 0, 0, 1), atol=1e-3):
        raise InputError(f"affine: found {shown(matrix.tolist(), most=200)}, {expected}")
    return matrix


def _reoriented(box: Box, transform: NDArray[np.float64], shape: tuple[int, int, int]) -> Box:
    start, stop = [0, 0, 0], [0, 0, 0]
    for axis, (to, flip) in enumerate(transform):
        low, high = box.start[axis], box.stop[axis]
        if flip < 0:
            low, high = shape[axis] - high, shape[axis] - low
        start[int(to)], stop[int(to)] = low, high
    return Box(three(start), three(stop))


def _mm(spacing: Iterable[float]) -> str:
    return _times(f"{s:.4g}" for s in spacing) + " mm"


def _times(values: Iterable[object]) -> str:
    return "×".join(map(str, values))


def _point(values: Iterable[float]) -> str:
    return f"({', '.join(f'{value:.6g}' for value in values)})"


def _is_count(value: object) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and int(value) >= 1
