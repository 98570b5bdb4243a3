"""Pictures of slices with the outlines of two masks. This is the home of Pillow."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lowres_seg.volumes.grid import Reorientation
from lowres_seg.volumes.volume import Volume

#: Colours of the outlines of the label map and of the mask. Colour-blind readers can tell them apart, on grey too.
LABEL_RGB, MASK_RGB = (86, 180, 233), (230, 159, 0)
#: Length of the longer side of a picture, in pixels.
SIDE = 320
PLANES = {"sagittal": 0, "coronal": 1, "axial": 2}


def three_planes(scan: Volume, found: NDArray[np.uint8], truth: NDArray[np.uint8]) -> dict[str, str]:
    """Draw in each plane the slice through the middle of the label map, or of the mask if the label map is empty.

    Parameters
    ----------
    scan : Volume
    found, truth : (I, J, K) ndarray of uint8
        On the scan's grid.

    Returns
    -------
    dict of str to str
        PNG in base64, by plane. The patient's right is on the left, anterior and superior are up, as in radiology.
    """
    there = Reorientation(scan.grid, "RAS")
    grey, mask, label = (there.apply(array) for array in (scan.data, found, truth))
    marked = label if label.any() else mask
    middle = (
        [int(np.median(np.flatnonzero(marked.any(axis=_others(axis))))) for axis in range(3)]
        if marked.any()
        else [n // 2 for n in marked.shape]
    )
    low, high = np.percentile(grey, (1, 99.5))
    grey = np.clip((grey.astype(np.float32) - low) / max(float(high - low), 1e-6), 0, 1)
    spacing = there.result.spacing_mm
    drawn = {}
    for plane, axis in PLANES.items():
        across, up = _others(axis)
        cut = [np.take(array, middle[axis], axis=axis) for array in (grey, mask, label)]
        shown, found_cut, truth_cut = (_upright(a, flip=across == 0) for a in cut)
        drawn[plane] = _png(shown, found_cut, truth_cut, spacing[across], spacing[up])
    return drawn


def _others(axis: int) -> tuple[int, int]:
    first, second = (other for other in range(3) if other != axis)
    return first, second


def _upright(cut: NDArray[Any], *, flip: bool) -> NDArray[Any]:
    """Rows from top to bottom. With `flip` the patient's right is on the left."""
    rows = cut.T[::-1]
    return rows[:, ::-1] if flip else rows


def _png(grey: NDArray[np.float32], mask: NDArray[Any], label: NDArray[Any], width_mm: float, height_mm: float) -> str:
    height, width = grey.shape[0] * height_mm, grey.shape[1] * width_mm
    scale = SIDE / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    picture = np.asarray(
        Image.fromarray((grey * 255).astype(np.uint8)).resize(size, Image.Resampling.BILINEAR).convert("RGB")
    ).copy()
    for array, colour in ((label, LABEL_RGB), (mask, MASK_RGB)):
        large = np.asarray(Image.fromarray(array.astype(np.uint8)).resize(size, Image.Resampling.NEAREST))
        picture[_outline(large)] = colour
    stream = io.BytesIO()
    Image.fromarray(picture).quantize(128).save(stream, "PNG", optimize=True)
    return base64.b64encode(stream.getvalue()).decode("ascii")


def _outline(labels: NDArray[Any]) -> NDArray[np.bool_]:
    """Pixels of a label with a neighbour of another label to the left, right, top or bottom."""
    edge = np.zeros(labels.shape, bool)
    for axis in (0, 1):
        differs = np.diff(labels.astype(np.int16), axis=axis) != 0
        first, second = [slice(None)] * 2, [slice(None)] * 2
        first[axis], second[axis] = slice(None, -1), slice(1, None)
        edge[tuple(first)] |= differs
        edge[tuple(second)] |= differs
    return np.asarray(edge & (labels != 0))
