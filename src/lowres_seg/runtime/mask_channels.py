"""Results of earlier stages as further channels of a stage's networks."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from lowres_seg.bundle.stage import MaskOf
from lowres_seg.runtime.conform import Fit
from lowres_seg.runtime.interpolation import nearest_indices
from lowres_seg.runtime.placement import Placement
from lowres_seg.runtime.resampling import along, is_clipped

Array = NDArray[np.float32]
Labels = NDArray[np.uint8]
#: Value of background outside of the scan, where that is a label of its own.
_OUTSIDE = -1
#: Scores of labels that differ by less are equal: they are sums in float32.
_TIE = 1e-5


def mask_channels(
    placement: Placement, results: Mapping[str, Labels], inside: NDArray[np.bool_] | None, *, threads: int
) -> Array:
    """Mask channels of a stage, (M, *conformed).

    Parameters
    ----------
    placement : Placement
        Of the stage.
    results : mapping of str to (I, J, K) ndarray of uint8
        Labels of each stage that a mask shows, on the scan's own grid.
    inside : (I, J, K) ndarray of bool or None
        Voxels of the region inside the scan; needed for a mask with `outside_apart`.
    threads : int
    """
    fit = placement.fit
    masks: list[Array] = []
    last: tuple[MaskOf, NDArray[np.int16]] | None = None
    for mask in placement.stage.mask_channels:
        there = placement.oriented.apply(results[mask.stage])[placement.box.slices]
        if mask.interpolation == "nearest":
            chosen = _shown(there, mask)[None]
            masks.append(fit.resample(chosen, "nearest", threads=threads))
            continue
        if last is None or not mask.resampled_alike(last[0]):
            labels = there.astype(np.int16)
            if mask.outside_apart:
                assert inside is not None  # noqa: S101 - the caller looks for such masks
                labels[(labels == 0) & ~inside] = _OUTSIDE
            last = mask, _resampled(labels, fit, mask)
        masks.append(_shown(last[1], mask)[None])
    return np.concatenate([fit.place(fit.cut(mask), 0.0) for mask in masks])


def _shown(labels: NDArray[np.uint8] | NDArray[np.int16], mask: MaskOf) -> Array:
    return (np.isin(labels, mask.labels) if mask.labels else labels > 0).astype(np.float32)


def _resampled(labels: NDArray[np.int16], fit: Fit, mask: MaskOf) -> NDArray[np.int16]:
    """Resample a label map (I, J, K) to the grid of a stage: each voxel gets the label of the highest score."""
    axes = [(at, axis) for at, axis in enumerate(fit.axes) if at != fit.separate and not axis.changes_nothing]
    nearest = labels
    for at, axis in axes:
        nearest = np.take(nearest, nearest_indices(axis), axis=at)
    found = np.zeros(nearest.shape, np.int16)
    best = np.full(nearest.shape, -np.inf, np.float32)
    of_nearest = np.zeros(nearest.shape, np.float32)
    for value in np.unique(labels) if axes else []:
        score = (labels == value)[None].astype(np.float32)
        for at, axis in axes:
            score = along(score, axis, at + 1, mask.interpolation)
        score = np.clip(score, 0, 1)[0] if is_clipped(mask.interpolation) else score[0]
        if mask.ties == "lowest":
            score = (1000 * score).astype(np.float16).astype(np.float32)
        else:
            np.copyto(of_nearest, score, where=nearest == value)
        # Values ascend, so that the lowest label keeps what a later one has no more of.
        better = score > best + (0 if mask.ties == "lowest" else _TIE)
        found[better] = value
        np.maximum(best, score, out=best)
    if not axes:
        found = labels
    elif mask.ties == "nearest":
        np.copyto(found, nearest, where=of_nearest >= best - _TIE)
    if fit.separate is not None:
        found = np.take(found, nearest_indices(fit.axes[fit.separate]), axis=fit.separate)
    return found
