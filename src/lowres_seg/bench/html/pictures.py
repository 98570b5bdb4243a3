"""Pictures of slices with the outlines of two masks."""

from __future__ import annotations

import base64

import numpy as np
from numpy.typing import NDArray

from lowres_seg.view.labelled import others
from lowres_seg.view.planes import PLANES, plane, png
from lowres_seg.view.shades import shades
from lowres_seg.volumes.grid import Reorientation
from lowres_seg.volumes.volume import Volume

#: Colours of the outlines of the label map and of the mask. Colour-blind readers can tell them apart, on grey too.
LABEL_RGB, MASK_RGB = (86, 180, 233), (230, 159, 0)
#: Length of the longer side of a picture, in pixels.
SIDE = 320


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
    marked = Reorientation(scan.grid, "RAS").apply(truth if truth.any() else found)
    middle = (
        [int(np.median(np.flatnonzero(marked.any(axis=others(axis))))) for axis in range(3)]
        if marked.any()
        else [n // 2 for n in marked.shape]
    )
    overlays = [
        (array, np.full((256, 3), colour, np.uint8)) for array, colour in ((truth, LABEL_RGB), (found, MASK_RGB))
    ]
    window = shades(scan.data)
    drawn = {name: plane(scan, overlays, name, middle[axis], shades=window, side=SIDE) for name, axis in PLANES.items()}
    return {name: base64.b64encode(png(picture)).decode("ascii") for name, picture in drawn.items()}
