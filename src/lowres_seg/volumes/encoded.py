"""A volume as the bytes of a NIfTI file that has its geometry and nothing else, to be shown."""

from __future__ import annotations

from typing import Any

import numpy as np
from isal import igzip
from numpy.typing import NDArray

from lowres_seg.volumes import without_web  # noqa: F401 - before nibabel, whose import it shortens
from lowres_seg.volumes.grid import Grid

import nibabel  # isort: skip


def encoded(data: NDArray[Any], grid: Grid, *, dtype: type[np.generic] | None = None, labels: bool = False) -> bytes:
    """Compressed NIfTI-1 with the affine of a grid, and no text of any header.

    Parameters
    ----------
    data : (I, J, K) ndarray
        Of a type that NIfTI has.
    grid : Grid
    dtype : numpy type, optional
        Type to store. Integers are scaled, so that they reach from the least value of `data` to the largest.
    labels : bool
        Say that it is a label map.
    """
    image = nibabel.Nifti1Image(data, grid.affine)
    image.header.set_xyzt_units("mm")
    if labels:
        image.header.set_intent("label")
    if dtype is not None:
        image.set_data_dtype(dtype)
    return igzip.compress(image.to_bytes(), 3, mtime=0)
