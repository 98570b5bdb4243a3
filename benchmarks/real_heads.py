"""Real cases of tumors, laid on the grid of the synthetic heads that networks of the gallery are trained on.

The cases are those of LOWRES_SEG_REALDATA, or of ../shared/realdata beside the checkout. Networks drew their labels.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from heads import CONTRASTS, Head, Shape
from numpy.typing import NDArray
from scipy.ndimage import zoom

from lowres_seg import Volume

FOLDER = Path(os.environ.get("LOWRES_SEG_REALDATA", Path(__file__).parents[2] / "shared" / "realdata")) / "tumor"
_FILES = dict(zip(CONTRASTS, ("t1n", "t1c", "t2w", "t2f"), strict=True))
#: Label of 2023's label maps, and that of the heads.
_ENHANCING_2023, _ENHANCING = 3, 4


def cases() -> list[str]:
    """Names of the cases that are there."""
    return sorted(file.parent.name for file in FOLDER.glob("*/seg-silver.nii.gz"))


def tumor(name: str, shape: Shape) -> Head:
    """One case: its brain fills the grid, as that of a synthetic head does.

    Images are resampled linearly, labels by nearest. The grade is not known, and given as high.
    """
    images = {contrast: _ras(FOLDER / name / f"{file}.nii.gz") for contrast, file in _FILES.items()}
    labels = _ras(FOLDER / name / "seg-silver.nii.gz")
    labels = np.where(labels == _ENHANCING_2023, _ENHANCING, labels).astype(np.uint8)
    inside = np.any([image != 0 for image in images.values()], axis=0)
    box = tuple(
        slice(int(where.min()), int(where.max()) + 1)
        for where in (inside.any(axis=tuple({0, 1, 2} - {axis})).nonzero()[0] for axis in range(3))
    )
    factors = [new / (side.stop - side.start) for new, side in zip(shape, box, strict=True)]
    brain = zoom(inside[box].astype(np.uint8), factors, order=0, mode="nearest", grid_mode=True) > 0
    laid = {}
    for contrast, image in images.items():
        resampled = zoom(image[box].astype(np.float32), factors, order=1, mode="nearest", grid_mode=True)
        laid[contrast] = np.where(brain, np.maximum(resampled, 1), np.float32(0))
    drawn = zoom(labels[box], factors, order=0, mode="nearest", grid_mode=True)
    return Head(laid, drawn, (drawn > 0).astype(np.uint8), high_grade=True)


def _ras(path: Path) -> NDArray[np.generic]:
    """Voxels of a scan whose axes run to the left or right, to the back or front, and up, as RAS."""
    volume = Volume.load(path)
    data = np.asarray(volume.data)
    signs = np.sign(np.diag(volume.grid.affine)[:3])
    assert (np.abs(volume.grid.affine[:3, :3]) > 0).sum() == 3, f"{path}: is oblique or permuted"
    assert signs.all(), f"{path}: is oblique or permuted"
    return np.flip(data, tuple(axis for axis in range(3) if signs[axis] < 0))
