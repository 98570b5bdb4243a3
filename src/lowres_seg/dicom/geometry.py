"""Where slices lie: their order along their normal, and the grid that they make."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lowres_seg.dicom.instances import Frame
from lowres_seg.errors import InputError
from lowres_seg.wording import counted

Vector = NDArray[np.float64]
#: How far the directions of rows and columns may be from perpendicular and of length one: what few digits leave.
_ROUNDED = 1e-2
#: Directions that differ by less, in any component, are one orientation.
SAME_DIRECTION = 5e-3
#: Slices nearer to each other lie at one position.
SAME_POSITION_MM = 0.01
#: How far a slice may lie from its place, as a share of the distance of slices: without a doubt, and with one.
_EVEN, _UNEVEN = 0.01, 0.1
#: How far the line through the slices may lean from their normal.
_TILT_DEGREES = 0.5
#: Share by which SpacingBetweenSlices times a whole number may differ from the distance of slices.
_SPACED = 0.02


@dataclass(frozen=True)
class Stack:
    """Slices in their order, and their grid.

    Attributes
    ----------
    order : tuple of int
        Place of each slice in what was given.
    affine : (4, 4) ndarray
        From (column, row, slice) to mm in RAS+.
    doubts : tuple of str
    """

    order: tuple[int, ...]
    affine: NDArray[np.float64]
    doubts: tuple[str, ...] = ()


def directions(orientation: tuple[float, ...] | None) -> Vector | None:
    """Directions of a row, of a column and of the normal, (3, 3); None if they are missing or not perpendicular."""
    if orientation is None:
        return None
    row, column = np.array(orientation[:3]), np.array(orientation[3:])
    lengths = np.linalg.norm(row), np.linalg.norm(column)
    if max(abs(length - 1) for length in lengths) > _ROUNDED or abs(float(row @ column)) > _ROUNDED:
        return None
    row, column = row / lengths[0], column / lengths[1]
    return np.stack([row, column, np.cross(row, column)])


def heights(frames: Sequence[Frame]) -> Vector:
    """Place of each slice along the normal of the first, in mm. All have a position and an orientation."""
    found = directions(frames[0].orientation)
    if found is None:
        raise InputError("has no usable ImageOrientationPatient")
    return np.array([frame.position for frame in frames], dtype=np.float64) @ found[2]


def stacked(frames: Sequence[Frame]) -> Stack:
    """Order slices of one orientation, size and spacing, and check that they lie on one grid.

    Raises
    ------
    InputError
        If they do not, in words without the name of the series.
    """
    along = heights(frames)
    order = np.argsort(along, kind="stable")
    first = frames[order[0]]
    turned = np.mean([frame.orientation or () for frame in frames], axis=0)  # what rounding leaves is averaged
    found = directions(tuple(turned.tolist()))
    if found is None or first.spacing_mm is None or len(frames) < 2:
        raise InputError("is a single slice, expected a volume" if found is not None else "has no usable orientation")
    at, places = along[order], np.array([frames[place].position for place in order], dtype=np.float64)
    steps = np.diff(at)
    step = float(np.median(steps))
    doubts = list(_uneven(at, steps, step))
    between = (places[-1] - places[0]) / (len(frames) - 1)
    aside = between - (between @ found[2]) * found[2]
    tilt = float(np.degrees(np.arctan2(np.linalg.norm(aside), abs(between @ found[2]))))
    if tilt > _TILT_DEGREES:
        raise InputError(
            f"its slices are tilted by {tilt:.3g}° against the line through them, as by a gantry; undo it with "
            "dcm2niix, and name its _Tilt file"
        )
    line = places[0] + np.arange(len(frames))[:, None] * between
    off = places - line
    off -= (off @ found[2])[:, None] * found[2]
    worst = float(np.linalg.norm(off, axis=1).max())
    if worst > _UNEVEN * max(step, *first.spacing_mm):
        raise InputError(f"its slices lie beside each other: one is {worst:.3g} mm off the line through them")
    stated = [frame.between_mm for frame in frames if frame.between_mm]
    if stated and (times := step / abs(stated[0])) > 1.5 and abs(times - round(times)) < _SPACED * times:
        doubts.append(
            f"its slices lie {step:.3g} mm apart, and SpacingBetweenSlices is {abs(stated[0]):.3g} mm; see whether "
            "slices are missing"
        )
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = found[0] * first.spacing_mm[1], found[1] * first.spacing_mm[0]
    affine[:3, 2], affine[:3, 3] = between, places[0]
    affine[:2] *= -1  # from LPS to RAS
    return Stack(tuple(int(place) for place in order), affine, tuple(doubts))


def _uneven(at: Vector, steps: Vector, step: float) -> list[str]:
    """Doubts about the distances of slices, or an error that says which are missing."""
    places = np.linspace(at[0], at[-1], len(at))
    worst = float(np.abs(at - places).max())
    if worst <= max(_EVEN * step, SAME_POSITION_MM):
        return []
    if worst <= _UNEVEN * step:
        return [f"one of its slices lies {worst:.2g} mm off its place, of {step:.3g} mm between slices"]
    times = steps / step
    whole = np.rint(times)
    if (np.abs(times - whole) <= _UNEVEN).all() and (whole > 1).any():
        count, place = int((whole - 1).sum()), int(np.argmax(whole > 1))
        raise InputError(
            f"{counted(count, 'slice')} {'is' if count == 1 else 'are'} missing, the first between slices {place + 1} "
            f"and {place + 2} of {len(at)}; fetch the series again"
        )
    raise InputError(
        f"its slices lie {steps.min():.3g} to {steps.max():.3g} mm apart, expected one distance; resample it, as "
        "dcm2niix does (its _Eq file)"
    )
