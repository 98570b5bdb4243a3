"""Slices of a scan with the outlines of its labels, drawn in millimetres. This is the home of Pillow.

The patient's right is on the left, anterior and superior are up, as in radiology.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lowres_seg.view.labelled import others
from lowres_seg.volumes.grid import Reorientation
from lowres_seg.volumes.volume import Volume

#: Axis of RAS that each plane is cut across.
PLANES = {"sagittal": 0, "coronal": 1, "axial": 2}

#: A label map, and the colour (N, 3) of each of its values.
Overlay = tuple[NDArray[np.unsignedinteger[Any]], NDArray[np.uint8]]


def plane(
    scan: Volume, overlays: Sequence[Overlay], name: str, at: int, *, shades: tuple[float, float], side: int
) -> Image.Image:
    """Draw one slice with the outlines of labels.

    Parameters
    ----------
    scan : Volume
    overlays : sequence of (label map, colours)
        On the scan's grid. Later ones are drawn over earlier ones.
    name : str
        Of `PLANES`.
    at : int
        Place of the slice on the plane's axis of RAS.
    shades : tuple of 2 float
        Intensities that are drawn black and white.
    side : int
        Pixels of the longer side.
    """
    axis = PLANES[name]
    there = Reorientation(scan.grid, "RAS")
    across, up = others(axis)
    spacing = there.result.spacing_mm

    def cut(array: NDArray[Any]) -> NDArray[Any]:
        rows = np.take(there.apply(array), at, axis=axis).T[::-1]
        return np.asarray(rows[:, ::-1] if across == 0 else rows)

    low, high = shades
    grey = (np.nan_to_num(cut(scan.data).astype(np.float32), nan=low, posinf=high, neginf=low) - low) / (high - low)
    height, width = grey.shape[0] * spacing[up], grey.shape[1] * spacing[across]
    scale = side / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = Image.fromarray((np.clip(grey, 0, 1) * 255).astype(np.uint8))
    picture = np.asarray(small.resize(size, Image.Resampling.BILINEAR).convert("RGB")).copy()
    for array, colours in overlays:
        # As 32-bit numbers, because Pillow resizes none of 16.
        large = np.asarray(Image.fromarray(cut(array).astype(np.int32)).resize(size, Image.Resampling.NEAREST))
        edge = outline(large)
        picture[edge] = colours[large[edge]]
    return Image.fromarray(picture)


def outline(labels: NDArray[Any]) -> NDArray[np.bool_]:
    """Pixels of a label with a neighbour of another label to the left, right, top or bottom."""
    edge = np.zeros(labels.shape, bool)
    for axis in (0, 1):
        differs = np.diff(labels.astype(np.int32), axis=axis) != 0
        first, second = [slice(None)] * 2, [slice(None)] * 2
        first[axis], second[axis] = slice(None, -1), slice(1, None)
        edge[tuple(first)] |= differs
        edge[tuple(second)] |= differs
    return np.asarray(edge & (labels != 0))


def png(picture: Image.Image) -> bytes:
    """A picture as PNG of few colours, because many travel together."""
    stream = io.BytesIO()
    picture.quantize(128).save(stream, "PNG", optimize=True)
    return stream.getvalue()
