"""A label map as its labels: values, names, colours, volumes, and where each lies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowres_seg.errors import InputError
from lowres_seg.view.colours import RGB, colour
from lowres_seg.volumes.grid import Box, Grid, Reorientation, three
from lowres_seg.volumes.volume import Volume

#: Number of values above which a file is no label map. Parcellations have up to 1000.
MOST_LABELS = 2000


@dataclass(frozen=True)
class Label:
    """One label of a map.

    Attributes
    ----------
    value : int
        In the file.
    name : str
    colour : tuple of 3 int
    voxels : int
    ml : float
    centre_mm : tuple of 3 float
        A voxel of it near its middle, in RAS+.
    """

    value: int
    name: str
    colour: RGB
    voxels: int
    ml: float
    centre_mm: tuple[float, float, float]


@dataclass(frozen=True, eq=False)
class Labelled:
    """A label map.

    Attributes
    ----------
    places : (I, J, K) ndarray of uint8 or uint16
        0 outside, and n of the n-th label.
    labels : tuple of Label
        Those that it holds, by their values.
    middle : tuple of 3 int
        Voxel that slices go through: on each axis the plane with most labelled voxels.
    """

    places: NDArray[Any]
    labels: tuple[Label, ...]
    middle: tuple[int, int, int]


def labelled(mask: Volume, names: Mapping[int, str]) -> Labelled:
    """Find the labels of a label map.

    Parameters
    ----------
    mask : Volume
        Of whole numbers; 0 is outside.
    names : mapping of int to str
        Names of values. A value without one is called ``label 7``.

    Raises
    ------
    InputError
        If it holds other numbers than whole ones, or more values than a label map has.
    """
    flat = np.ravel(mask.data, order="F")  # as files have them, so that nothing is copied
    where = np.flatnonzero(flat)
    held = flat[where]
    _check_whole(mask, held)
    values, index, counts = np.unique(held, return_inverse=True, return_counts=True)
    if len(values) > MOST_LABELS:
        raise InputError(
            f"{mask.name}: holds {len(values)} different values, a label map has up to {MOST_LABELS}; give the scan "
            "first and the mask second"
        )
    dtype = np.uint8 if len(values) <= np.iinfo(np.uint8).max else np.uint16
    places: NDArray[Any] = np.zeros(flat.shape, dtype)
    places[where] = index + 1
    places = places.reshape(mask.data.shape, order="F")
    grouped = np.split(where[np.argsort(index, kind="stable")], np.cumsum(counts)[:-1])
    labels = tuple(
        Label(
            value=int(value),
            name=names.get(int(value), f"label {int(value)}"),
            colour=colour(place),
            voxels=len(group),
            ml=len(group) * mask.grid.voxel_ml,
            centre_mm=in_mm(mask.grid, _nearest_to_middle(group, mask.grid.shape)),
        )
        for place, (value, group) in enumerate(zip(values.tolist(), grouped, strict=False))
    )
    there = Reorientation(mask.grid, "RAS")  # so that it is the same place in every orientation
    middle = _middle(there.apply(places))
    box = Box(middle, three(n + 1 for n in middle))
    return Labelled(places, labels, there.undo_box(box).start)


def in_mm(grid: Grid, voxel: tuple[int, int, int]) -> tuple[float, float, float]:
    """Where a voxel lies, in RAS+."""
    return three((grid.affine @ [*voxel, 1])[:3].tolist())


def _check_whole(mask: Volume, held: NDArray[Any]) -> None:
    wrong = held[~np.isfinite(held)] if held.dtype.kind == "f" else held[:0]
    wrong = wrong if len(wrong) else held[held != np.rint(held)]
    if len(wrong):
        raise InputError(
            f"{mask.name}: holds {wrong[0]:g}, expected a label map of whole numbers; give the scan first and the mask "
            "second"
        )


def _nearest_to_middle(group: NDArray[np.intp], shape: tuple[int, int, int]) -> tuple[int, int, int]:
    """The voxel of a label that is nearest to the middle of its voxels, which are given as places in the file."""
    found = np.stack(np.unravel_index(group, shape, order="F"))
    apart = ((found - np.median(found, axis=1, keepdims=True)) ** 2).sum(axis=0)
    return three(found[:, int(apart.argmin())].tolist())


def _middle(places: NDArray[Any]) -> tuple[int, int, int]:
    """On each axis the plane with most labelled voxels; the one in the middle of several."""
    marked = places != 0
    counts = [np.count_nonzero(marked, axis=others(axis)) for axis in range(3)]
    best = [np.flatnonzero(count == count.max()) for count in counts]
    return three(int(planes[len(planes) // 2]) for planes in best)


def others(axis: int) -> tuple[int, int]:
    """The two axes beside one of three."""
    first, second = (other for other in range(3) if other != axis)
    return first, second
