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
_TISSUES = (
    ("scalp", (82.0, 102.0, 104.0), (0.0, 0.0, 0.0), 700.0),
    ("skull", (76.0, 96.0, 98.0), (0.0, 0.0, 0.0), 120.0),
    ("csf", (70.0, 88.0, 74.0), (0.0, -4.0, 18.0), 220.0),
    ("grey matter", (67.0, 85.0, 71.0), (0.0, -4.0, 18.0), 480.0),
    ("white matter", (58.0, 75.0, 61.0), (0.0, -4.0, 18.0), 720.0),
    ("left ventricle", (8.0, 30.0, 12.0), (-12.0, 0.0, 22.0), 200.0),
    ("right ventricle", (8.0, 30.0, 12.0), (12.0, 0.0, 22.0), 200.0),
)


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
    data = np.zeros(shape)
    for _, half, middle, value in _TISSUES:
        data[_ellipsoid(x, y, z, half, middle)] = value
    # Folds of the cortex: without them networks find no brain in the phantom.
    cortex = _ellipsoid(x, y, z, (67.0, 85.0, 71.0), (0.0, -4.0, 18.0)) & (data == 720.0)
    folds = np.sin(x / 5.0) * np.sin(y / 6.0) * np.sin(z / 5.0) > 0.35
    data[cortex & folds] = 500.0
    noise = np.random.default_rng(seed).normal(0, 12, shape)
    return Volume.from_array(np.clip(data + noise, 0, None).astype(np.int16), affine)


def brain(volume: Volume) -> NDArray[np.bool_]:
    """Mask of the brain of `head`, ventricles included."""
    return _where(volume, (67.0, 85.0, 71.0), (0.0, -4.0, 18.0))


def _where(volume: Volume, half: tuple[float, float, float], middle: tuple[float, float, float]) -> NDArray[np.bool_]:
    i, j, k = np.meshgrid(*[np.arange(n) for n in volume.grid.shape], indexing="ij", sparse=True)
    a = volume.grid.affine
    x, y, z = (a[row, 0] * i + a[row, 1] * j + a[row, 2] * k + a[row, 3] for row in range(3))
    return _ellipsoid(x, y, z, half, middle)


def _ellipsoid(
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    z: NDArray[np.float64],
    half: tuple[float, float, float],
    middle: tuple[float, float, float],
) -> NDArray[np.bool_]:
    inside: NDArray[np.bool_] = (
        ((x - middle[0]) / half[0]) ** 2 + ((y - middle[1]) / half[1]) ** 2 + ((z - middle[2]) / half[2]) ** 2
    ) <= 1
    return inside
