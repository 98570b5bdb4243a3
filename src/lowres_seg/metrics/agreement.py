"""How well two masks agree.

**Dice** is 2·|A∩B| / (|A| + |B|). **HD95** is a 95th percentile of the distances from the surface of each mask to the
surface of the other, in millimetres. Papers and packages define it differently. Each definition has a name here:

=====================  ===============================================================================================
``max-directed``       the larger of the two directed 95th percentiles, over surface voxels: the default, and MONAI's
``monai``              the same
``medpy``              the 95th percentile of both directions pooled, over surface voxels
``surface-distance``   the larger of the two directed 95th percentiles, weighted by area, over corners of voxels
``brats``              ``surface-distance``, with the challenge's number for an empty mask (by case, not by lesion)
=====================  ===============================================================================================

A surface voxel is a voxel of the mask with at least one of its six face neighbours outside of the mask; voxels beyond
the image count as outside. Percentiles interpolate linearly, except for ``surface-distance``, which takes the first
distance at which 95% of the area is reached.

Empty masks: two empty masks give Dice 1 and 0 mm. One empty mask gives Dice 0 and the diagonal of the image, or for
``brats`` 374 mm. In this case MedPy raises an error, and MONAI and surface-distance give NaN or infinity, which leaves
a mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from lowres_seg.errors import InputError
from lowres_seg.metrics.distances import directed
from lowres_seg.metrics.surface_area import areas_mm2, codes

Spacing = tuple[float, float, float]
Definition = Literal["max-directed", "monai", "medpy", "surface-distance", "brats"]
DEFINITIONS: tuple[Definition, ...] = get_args(Definition)
#: HD95 in BraTS 2023 of a region that only one mask has (github.com/rachitsaluja/BraTS-2023-Metrics).
BRATS_EMPTY_MM = 374.0


class Score(NamedTuple):
    """Agreement of one region of two label maps."""

    dice: float
    hd95_mm: float


def empty_policy(definition: Definition) -> str:
    """Scores of empty masks, in words. They are written beside every result."""
    other = f"{BRATS_EMPTY_MM:g} mm" if definition == "brats" else "the diagonal of the image"
    return f"both empty: Dice 1 and 0 mm; one empty: Dice 0 and {other}"


def dice(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Dice similarity of two masks.

    Parameters
    ----------
    a, b : (I, J, K) ndarray of bool

    Raises
    ------
    InputError
        If the shapes differ.

    Examples
    --------
    >>> a, b = np.zeros((2, 4, 4, 4), bool)
    >>> a[0], b[0, :2] = True, True
    >>> round(dice(a, b), 3)
    0.667
    """
    a, b = _checked(a, b)
    total = np.count_nonzero(a) + np.count_nonzero(b)
    return 1.0 if total == 0 else float(2.0 * np.count_nonzero(a & b) / total)


def hd95_mm(
    a: NDArray[Any], b: NDArray[Any], spacing_mm: Spacing, definition: Definition = "max-directed", *, threads: int = 1
) -> float:
    """95th percentile Hausdorff distance of two masks.

    Parameters
    ----------
    a, b : (I, J, K) ndarray of bool
    spacing_mm : tuple of 3 float
        Distance between neighbouring voxels along each axis.
    definition : str
        One of `DEFINITIONS`; the module describes them.
    threads : int
        For the distance transform.

    Raises
    ------
    InputError
        If the shapes differ, or there is no such definition.

    Examples
    --------
    >>> a, b = np.zeros((2, 8, 8, 8), bool)
    >>> a[2:5, 2:5, 2:5], b[2:5, 2:5, 4:7] = True, True
    >>> hd95_mm(a, b, (1.0, 1.0, 2.0))
    4.0
    """
    return hd95s_mm(a, b, spacing_mm, (definition,), threads=threads)[definition]


def hd95s_mm(
    a: NDArray[Any],
    b: NDArray[Any],
    spacing_mm: Spacing,
    definitions: tuple[Definition, ...] = DEFINITIONS,
    *,
    threads: int = 1,
) -> dict[Definition, float]:
    """HD95 of two masks under several definitions. Distances are computed once.

    Parameters and errors are those of `hd95_mm`.
    """
    unknown = [name for name in definitions if name not in DEFINITIONS]
    if unknown:
        raise InputError(f"HD95 {unknown[0]!r}: expected one of {', '.join(DEFINITIONS)}")
    a, b = _checked(a, b)
    if not a.any() or not b.any():
        one = a.any() or b.any()
        diagonal = float(np.sqrt(sum((n * s) ** 2 for n, s in zip(a.shape, spacing_mm, strict=True))))
        return {d: (BRATS_EMPTY_MM if d == "brats" else diagonal) if one else 0.0 for d in definitions}
    # Both surfaces lie in the joint box, so distances between them need no voxel beyond it.
    box = _box(a | b)
    a, b = np.ascontiguousarray(a[box]), np.ascontiguousarray(b[box])
    found: dict[Definition, float] = {}
    if {"max-directed", "monai", "medpy"} & set(definitions):
        there, back = directed(_surface(a), _surface(b), spacing_mm, threads=threads)
        larger = max(float(np.percentile(there, 95)), float(np.percentile(back, 95)))
        found |= {"max-directed": larger, "monai": larger}
        if "medpy" in definitions:
            found["medpy"] = float(np.percentile(np.concatenate([there, back]), 95))
    if {"surface-distance", "brats"} & set(definitions):
        larger = _by_area(codes(a), codes(b), spacing_mm, threads)
        found |= {"surface-distance": larger, "brats": larger}
    return {definition: found[definition] for definition in definitions}


def score(
    found: NDArray[np.uint8],
    truth: NDArray[np.uint8],
    regions: Mapping[str, Sequence[int]],
    spacing_mm: Spacing,
    definition: Definition = "max-directed",
    *,
    left_out: int | None = None,
    threads: int = 1,
) -> dict[str, Score]:
    """Dice and HD95 of each region of two label maps.

    Parameters
    ----------
    found, truth : (I, J, K) ndarray of uint8
    regions : mapping of str to sequence of int
        Label values of each region, by name.
    spacing_mm, definition, threads
        As for `hd95_mm`.
    left_out : int, optional
        Value in `truth` of voxels that count as background in both.
    """
    if left_out is not None:
        kept = truth != left_out
        found, truth = found * kept, truth * kept
    pairs = {name: (np.isin(found, values), np.isin(truth, values)) for name, values in regions.items()}
    return {
        name: Score(dice(a, b), hd95_mm(a, b, spacing_mm, definition, threads=threads))
        for name, (a, b) in pairs.items()
    }


def _checked(a: NDArray[Any], b: NDArray[Any]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    if a.shape != b.shape or a.ndim != 3:
        raise InputError(f"masks of shape {a.shape} and {b.shape}: expected two 3D masks of one shape")
    return a.astype(bool, copy=False), b.astype(bool, copy=False)


def _box(mask: NDArray[np.bool_]) -> tuple[slice, ...]:
    # Axis by axis, each time in a smaller box; the axis with the smallest stride comes last.
    box = [slice(None)] * 3
    for axis in sorted(range(3), key=lambda axis: -mask.strides[axis]):
        used = np.flatnonzero(mask[tuple(box)].any(axis=tuple(other for other in range(3) if other != axis)))
        box[axis] = slice(int(used[0]), int(used[-1]) + 1)
    return tuple(box)


def _surface(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    padded = np.pad(mask, 1)
    inside = mask.copy()
    for axis in range(3):
        for step in (0, 2):
            window = [slice(1, -1)] * 3
            window[axis] = slice(step, step + mask.shape[axis])
            inside &= padded[tuple(window)]
    return mask & ~inside


def _by_area(a: NDArray[np.uint8], b: NDArray[np.uint8], spacing_mm: Spacing, threads: int) -> float:
    """HD95 over the corners of voxels on the surfaces of two masks, weighted by area."""
    on_a, on_b = ((corners != 0) & (corners != 255) for corners in (a, b))
    areas = areas_mm2((float(spacing_mm[0]), float(spacing_mm[1]), float(spacing_mm[2])))
    on = (areas[a[on_a]], areas[b[on_b]])
    there, back = directed(on_a, on_b, spacing_mm, on, threads=threads)
    return max(_reached(there, on[0]), _reached(back, on[1]))


def _reached(distances: NDArray[Any], areas: NDArray[np.float64]) -> float:
    """Smallest distance within which 95% of the area lies."""
    order = np.lexsort((areas, distances))
    share = np.cumsum(areas[order])
    at = int(np.searchsorted(share / share[-1], 0.95))
    return float(distances[order[min(at, len(order) - 1)]])
