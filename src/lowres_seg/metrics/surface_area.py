"""Area of the surface between eight neighbouring voxels, as DeepMind's surface-distance measures it.

A corner at which eight voxels meet has a code of eight bits: which of the voxels belong to the mask. The first voxel,
lower along every axis, is the highest bit. Marching cubes lays triangles between the voxels, and surface-distance fixes
which ones. The table holds the components of their normals. The length of a normal is the area of its triangle.

Source: Nikolov et al., Deep learning to achieve clinically applicable segmentation of head and neck anatomy for
radiotherapy, 2018. The figures are those of the package surface-distance (Apache-2.0).
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

#: For the codes 0 to 127, the triangles' normals: three digits each, the components in eighths, unsigned. A code and
#: its complement have the same surface.
_NORMALS = """
- 111 111 220220 111 202202 111111 111222400 111 111111 202202 111222400 220220 111222400 111222400 400400 111
022022 111111 040111222 111111 004111222 111111111 111111222222 111111 022022111 111202202 022111202333
111220220 022111220333 111111222400 111222400 111 111111 022022 040111222 111111 111202202 022022111
022111202333 111111 111111111 004111222 111111222222 111220220 111111222400 022111220333 111222400 220220
040111222 040111222 040040 111220220 111202220333 040111111222 040111222 111220220 040111111222 111202220333
040111222 220220220220 111220220 111220220 220220 111 111111 111111 111220220 022022 004111222 022022111
022111220333 111111 111111111 111202202 111111222400 040111222 111111222222 022111202333 111222400 202202
004111222 111202202 111202220333 004111222 004004 004111111222 004111222 111202202 004111111222 202202202202
111202202 111202220333 004111222 111202202 202202 111111 111111111 022022111 040111111222 022022111 004111111222
022022022022 022022111 111111111 111111111111 004111111222 111111111 040111111222 111111111 022022111 111111
111222400 111111222222 022111202333 040111222 022111220333 004111222 022022111 022022 111111222400 111111111
111202202 111111 111220220 111111 111111 111
"""


@lru_cache(maxsize=32)
def areas_mm2(spacing_mm: tuple[float, float, float]) -> NDArray[np.float64]:
    """Area of the surface at a corner, for each of the 256 codes.

    Parameters
    ----------
    spacing_mm : tuple of 3 float
        Distance between neighbouring voxels along each axis.

    Returns
    -------
    (256,) ndarray
        In mm².
    """
    x, y, z = spacing_mm
    faces = np.array([y * z, x * z, x * y]) / 8
    half = []
    for row in _NORMALS.split():
        normals = [row[i : i + 3] for i in range(0, len(row), 3)] if row != "-" else []
        half.append(sum(float(np.linalg.norm([int(n) * f for n, f in zip(t, faces, strict=True)])) for t in normals))
    return np.array(half + half[::-1])


def codes(mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Code of every corner of a mask. Voxels beyond the image are outside of the mask.

    Parameters
    ----------
    mask : (I, J, K) ndarray of bool

    Returns
    -------
    (I + 1, J + 1, K + 1) ndarray of uint8
    """
    padded = np.pad(mask, 1).view(np.uint8)
    found = np.zeros(tuple(n + 1 for n in mask.shape), np.uint8)
    for bit in range(8):
        i, j, k = bit >> 2 & 1, bit >> 1 & 1, bit & 1
        window = padded[i : i + found.shape[0], j : j + found.shape[1], k : k + found.shape[2]]
        found |= window << np.uint8(7 - bit)
    return found
