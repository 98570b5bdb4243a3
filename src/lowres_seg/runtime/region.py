"""The region of a scan that a stage works on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowres_seg.bundle.stage import Above, BoxOf, NonZero
from lowres_seg.runtime.cleanup import keep_largest, nonzero_slices
from lowres_seg.runtime.conform import Fit
from lowres_seg.volumes.grid import Box, three


def box_of_nonzero(array: NDArray[Any]) -> Box | None:
    """Box around what is not zero in an (I, J, K) array; None if everything is."""
    slices = nonzero_slices(array)
    if not all(part.stop for part in slices):
        return None
    return Box(three(part.start for part in slices), three(part.stop for part in slices))


def box_of_values(channels: Sequence[NDArray[np.float32]], rule: NonZero | Above) -> Box:
    """Box around the voxels that are nonzero, or above a value, in any channel; the whole scan if there are none.

    Parameters
    ----------
    channels : sequence of (I, J, K) ndarray
    rule : NonZero or Above
        Value and margin.
    """
    chosen = channels if isinstance(rule, NonZero) else [channel > rule.above for channel in channels]
    start, stop = [], []
    for axis, n in enumerate(channels[0].shape):
        others = tuple(other for other in range(3) if other != axis)
        used = np.flatnonzero(np.logical_or.reduce([channel.any(axis=others) for channel in chosen]))
        low, high = (int(used[0]), int(used[-1]) + 1) if used.size else (0, n)
        start.append(max(0, low - rule.margin_voxels))
        stop.append(min(n, high + rule.margin_voxels))
    return Box(three(start), three(stop))


def box_around(labels: NDArray[np.uint8], fit: Fit, region: Box, rule: BoxOf) -> Box | None:
    """Box around the foreground of a stage's result, in that stage's orientation; None if there is no foreground.

    Parameters
    ----------
    labels : (I, J, K) ndarray of uint8
        The result, on the region that the stage worked on or on its conformed grid.
    fit : Fit
        How these two lie to each other.
    region : Box
        Where the region lies in the scan.
    rule : BoxOf
        Margin, rounding, and which slices count.
    """
    foreground = (keep_largest(labels, 26) if rule.largest else labels) != 0
    start, stop = [], []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        used = np.flatnonzero(foreground.mean(axis=others) > rule.min_occupancy)
        if used.size == 0:
            return None
        low, high = _ends(axis, int(used[0]), int(used[-1]) + 1, labels.shape, fit, rule)
        start.append(max(0, low) + region.start[axis])
        stop.append(min(fit.region[axis], high) + region.start[axis])
    if any(b <= a for a, b in zip(start, stop, strict=True)):
        return None
    return Box(three(start), three(stop))


def _ends(axis: int, low: int, high: int, shape: tuple[int, ...], fit: Fit, rule: BoxOf) -> tuple[int, int]:
    """Ends of the box along one axis, in voxels of the region, before the box is cut to it."""
    if shape == fit.region:
        offset, scale = 0, np.float32(1)
    else:
        offset = (fit.conformed[axis] - fit.resampled[axis]) // 2
        scale = np.float32(fit.region[axis] / fit.resampled[axis])
    # In float32, as deepbet computes it: in float64 its ties would round the other way.
    grow = np.float32(1) + np.float32(2) * np.float32(rule.margin_fraction)
    centre = scale * np.float32((low + high) / 2 - offset)
    size = grow * (scale * np.float32(high - low)) + np.float32(2 * rule.margin_voxels)
    if rule.rounding == "centre":
        centre, size = np.round(centre), np.round(size)
        return int(centre - size / 2), int(centre + size / 2)
    return math.floor(centre - size / 2), math.ceil(centre + size / 2)
