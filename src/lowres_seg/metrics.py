"""How well two masks agree.

**Dice** is 2·|A∩B| / (|A| + |B|). **HD95** is the larger of the two directed 95th percentiles of the distance
from each surface voxel of one mask to the nearest surface voxel of the other, in millimetres. A surface voxel
is a voxel of the mask with at least one of its six face neighbours outside of it; what lies beyond the image
is outside. Percentiles interpolate linearly.

Empty masks: both empty give Dice 1 and 0 mm; one empty gives Dice 0 and the diagonal of the image.

This is the home of edt.
"""

from __future__ import annotations

from typing import Any

import edt
import numpy as np
from numpy.typing import NDArray

from lowres_seg.errors import InputError

Spacing = tuple[float, float, float]


def dice(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Dice similarity of two masks.

    Parameters
    ----------
    a, b : (I, J, K) ndarray of bool

    Raises
    ------
    InputError
        If the shapes differ.
    """
    _check(a, b)
    a, b = a.astype(bool, copy=False), b.astype(bool, copy=False)
    total = np.count_nonzero(a) + np.count_nonzero(b)
    return 1.0 if total == 0 else 2.0 * np.count_nonzero(a & b) / total


def hd95_mm(a: NDArray[Any], b: NDArray[Any], spacing_mm: Spacing) -> float:
    """95th percentile Hausdorff distance of two masks, as the module defines it.

    Parameters
    ----------
    a, b : (I, J, K) ndarray of bool
    spacing_mm : tuple of 3 float
        Distance between neighbouring voxels along each axis.

    Raises
    ------
    InputError
        If the shapes differ.
    """
    _check(a, b)
    a, b = a.astype(bool, copy=False), b.astype(bool, copy=False)
    if not a.any() and not b.any():
        return 0.0
    if not a.any() or not b.any():
        return float(np.sqrt(sum((n * s) ** 2 for n, s in zip(a.shape, spacing_mm, strict=True))))
    # Both surfaces lie in the joint box, so distances between them need nothing beyond it.
    box = _box(a | b)
    surface_a, surface_b = _surface(a[box]), _surface(b[box])
    return max(
        float(np.percentile(_distances(surface_b, spacing_mm)[surface_a], 95)),
        float(np.percentile(_distances(surface_a, spacing_mm)[surface_b], 95)),
    )


def _check(a: NDArray[Any], b: NDArray[Any]) -> None:
    if a.shape != b.shape or a.ndim != 3:
        raise InputError(f"masks of shape {a.shape} and {b.shape}: expected two 3D masks of one shape")


def _box(mask: NDArray[np.bool_]) -> tuple[slice, ...]:
    box = []
    for axis in range(3):
        used = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
        box.append(slice(int(used[0]), int(used[-1]) + 1))
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


def _distances(surface: NDArray[np.bool_], spacing_mm: Spacing) -> NDArray[np.float32]:
    """Distance of every voxel to the nearest one of `surface`, in millimetres."""
    return np.asarray(edt.edt(~surface, anisotropy=spacing_mm, black_border=False, parallel=1))
