"""A border of a mask: what is labelled grows or shrinks by a distance in millimetres."""

from __future__ import annotations

import math
from numbers import Real

import numpy as np
from numpy.typing import NDArray

from lowres_seg.arguments import described
from lowres_seg.errors import InputError
from lowres_seg.metrics.distances import distance_to
from lowres_seg.runtime.region import box_of_nonzero
from lowres_seg.volumes.grid import Box, Grid, three

Labels = NDArray[np.uint8]
#: Distances that differ by less, relative to the border, are equal: they come in float32.
_EQUAL = 1e-5
#: Largest cosine of the angle between two axes that are at right angles.
_RIGHT = 0.01


def millimetres(value: object, name: str) -> float:
    """Length in mm that a caller passed; less than zero to shrink.

    Raises
    ------
    InputError
        If it is no finite number. The message begins with `name`.
    """
    number = float(value) if isinstance(value, Real) and not isinstance(value, bool) else math.nan
    if not math.isfinite(number):
        raise InputError(f"{name}: found {described(value)}, expected a finite number of millimetres")
    return number


def bordered(labels: Labels, grid: Grid, border_mm: float, *, threads: int = 1) -> Labels:
    """Grow the labels (I, J, K) of a grid into the background, or shrink them from it.

    A border of b mm labels every voxel of background whose centre lies at most b mm from the centre of a labelled one;
    it gets the label of the nearest, and the lowest of those that are as near. A border of -b mm keeps the voxels whose
    centre lies more than b mm from the centre of the nearest voxel of background. Labels keep the border between each
    other. What lies beyond the scan is no background. The array given is not changed.

    Parameters
    ----------
    labels : (I, J, K) ndarray of uint8
    grid : Grid
    border_mm : float
    threads : int

    Raises
    ------
    InputError
        If the axes of the grid are not at right angles.
    """
    _refuse_shear(grid)
    box = box_of_nonzero(labels)
    if border_mm == 0 or box is None:
        return labels
    reach = abs(border_mm) * (1 + _EQUAL)
    part = _wider(box, labels.shape, grid.spacing_mm, reach if border_mm > 0 else 0).slices
    here = labels[part]
    result = labels.copy(order="K")
    if border_mm > 0:
        result[part] = _grown(here, grid.spacing_mm, reach, threads)
    elif not here.all():
        kept = distance_to(here == 0, grid.spacing_mm, threads=threads, what="--border") > reach
        result[part] = np.where(kept, here, 0)
    return result


def _grown(labels: Labels, spacing_mm: tuple[float, float, float], reach: float, threads: int) -> Labels:
    nearest = np.full(labels.shape, np.inf, np.float32)
    result = labels.copy(order="K")
    background = labels == 0
    for value in np.unique(labels[~background]):  # from the lowest, so that it keeps what others are as near to
        box = box_of_nonzero(labels == value)
        assert box is not None  # noqa: S101 - the value is there
        part = _wider(box, labels.shape, spacing_mm, reach).slices
        distance = distance_to(labels[part] == value, spacing_mm, threads=threads, what="--border")
        closer = background[part] & (distance <= reach) & (distance < nearest[part])
        nearest[part][closer] = distance[closer]
        result[part][closer] = value
    return result


def _wider(box: Box, shape: tuple[int, ...], spacing_mm: tuple[float, float, float], reach: float) -> Box:
    """The box with all voxels within `reach` mm of it, and at least one plane more, cut to the array."""
    margin = [max(1, min(n, math.ceil(reach / mm))) for n, mm in zip(shape, spacing_mm, strict=True)]
    start = three(max(0, a - m) for a, m in zip(box.start, margin, strict=True))
    return Box(start, three(min(n, b + m) for b, m, n in zip(box.stop, margin, shape, strict=True)))


def _refuse_shear(grid: Grid) -> None:
    directions = grid.affine[:3, :3] / np.array(grid.spacing_mm)
    cosine = float(np.abs(directions.T @ directions - np.eye(3)).max())
    if cosine > _RIGHT:
        raise InputError(
            f"its axes are up to {math.degrees(math.asin(min(1.0, cosine))):.3g}° from right angles, where a border in "
            "mm is not known; resample the scan to a grid without shear"
        )
