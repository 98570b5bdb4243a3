"""A phantom head: nested ellipsoids with the contrast of a T1 scan.

It is the reference case of bundles, which must not hold the scan of a person, and it serves in tests. It has no
anatomy, so nothing about accuracy follows from it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lowres_seg.volumes.grid import Grid
from lowres_seg.volumes.volume import Volume

#: Name, half axes in mm (right, anterior, superior), centre in mm, intensity. Later tissues lie inside earlier ones.
TISSUES = (
    ("scalp", (82.0, 102.0, 104.0), (0.0, 0.0, 0.0), 700.0),
    ("skull", (76.0, 96.0, 98.0), (0.0, 0.0, 0.0), 120.0),
    ("csf", (70.0, 88.0, 74.0), (0.0, -4.0, 18.0), 220.0),
    ("grey matter", (67.0, 85.0, 71.0), (0.0, -4.0, 18.0), 480.0),
    ("white matter", (58.0, 75.0, 61.0), (0.0, -4.0, 18.0), 720.0),
    ("left ventricle", (8.0, 30.0, 12.0), (-12.0, 0.0, 22.0), 200.0),
    ("right ventricle", (8.0, 30.0, 12.0), (12.0, 0.0, 22.0), 200.0),
)
#: Intensity of the folds of the cortex, which lie in the white matter.
FOLDS = 500.0
_GREY, _WHITE = 3, 4


def grid(shape: tuple[int, int, int], spacing_mm: float = 2.0) -> Grid:
    """Grid of `head`: RAS, centred."""
    affine = np.diag([spacing_mm, spacing_mm, spacing_mm, 1.0])
    affine[:3, 3] = -(np.array(shape) - 1) / 2 * spacing_mm
    return Grid(shape, affine)


def head(shape: tuple[int, int, int] = (96, 112, 112), spacing_mm: float = 2.0, seed: int = 0) -> Volume:
    """Phantom head in RAS, centred, as int16 voxels with a little noise.

    Parameters
    ----------
    shape : tuple of 3 int
    spacing_mm : float
        Isotropic.
    seed : int
        Seed of the noise. The same seed gives the same voxels everywhere.
    """
    centre, affine = (np.array(shape) - 1) / 2, grid(shape, spacing_mm).affine
    axes = [np.arange(n) * spacing_mm - c * spacing_mm for n, c in zip(shape, centre, strict=True)]
    x, y, z = np.meshgrid(*axes, indexing="ij", sparse=True)
    data = np.array([0.0, *(value for *_, value in TISSUES), FOLDS])[tissues(x, y, z)]
    noise = np.random.default_rng(seed).normal(0, 12, shape)
    return Volume.from_array(np.clip(data + noise, 0, None).astype(np.int16), affine)


def tissues(x: NDArray[np.floating], y: NDArray[np.floating], z: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Tissue of each point: 1 for the first of `TISSUES`, one more than there are for the folds, 0 outside of the head.

    Parameters
    ----------
    x, y, z : ndarray of float
        Millimetres to the right, to the front and up. Their shapes are broadcast.
    """
    found = np.zeros(np.broadcast_shapes(x.shape, y.shape, z.shape), np.uint8)
    for number, (_, half, middle, _) in enumerate(TISSUES, 1):
        found[_ellipsoid(x, y, z, half, middle)] = number
    # Without folds networks find no brain in the phantom.
    folds = np.sin(x / 5.0) * np.sin(y / 6.0) * np.sin(z / 5.0) > 0.35
    found[(found == _WHITE + 1) & folds] = len(TISSUES) + 1
    return found


def brain(volume: Volume) -> NDArray[np.bool_]:
    """Mask of the brain of `head`, ventricles included."""
    _, half, middle, _ = TISSUES[_GREY]
    return _where(volume, half, middle)


def _where(volume: Volume, half: tuple[float, float, float], middle: tuple[float, float, float]) -> NDArray[np.bool_]:
    i, j, k = np.meshgrid(*[np.arange(n) for n in volume.grid.shape], indexing="ij", sparse=True)
    a = volume.grid.affine
    x, y, z = (a[row, 0] * i + a[row, 1] * j + a[row, 2] * k + a[row, 3] for row in range(3))
    return _ellipsoid(x, y, z, half, middle)


def _ellipsoid(
    x: NDArray[np.floating],
    y: NDArray[np.floating],
    z: NDArray[np.floating],
    half: tuple[float, float, float],
    middle: tuple[float, float, float],
) -> NDArray[np.bool_]:
    inside: NDArray[np.bool_] = (
        ((x - middle[0]) / half[0]) ** 2 + ((y - middle[1]) / half[1]) ** 2 + ((z - middle[2]) / half[2]) ** 2
    ) <= 1
    return inside
