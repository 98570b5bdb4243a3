"""Results of earlier stages as further channels of a stage's networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product

import numpy as np
from numpy.typing import NDArray

from lowres_seg.bundle.stage import MaskOf
from lowres_seg.runtime.conform import Fit
from lowres_seg.runtime.interpolation import Sampling, nearest_indices
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
    if axes:
        labels = _of_highest_score(labels, axes, mask)
    return labels if fit.separate is None else _nearest(labels, [(fit.separate, fit.axes[fit.separate])])


def _of_highest_score(
    labels: NDArray[np.int16], axes: Sequence[tuple[int, Sampling]], mask: MaskOf
) -> NDArray[np.int16]:
    nearest = _nearest(labels, axes)
    found = np.zeros(nearest.shape, np.int16)
    best = np.full(nearest.shape, -np.inf, np.float32)
    second, of_nearest = best.copy(), best.copy()
    values = np.unique(labels)
    for value in values:
        score = (labels == value)[None].astype(np.float32)
        for at, axis in axes:
            score = along(score, axis, at + 1, mask.interpolation)
        score = np.clip(score, 0, 1)[0] if is_clipped(mask.interpolation) else score[0]
        if mask.ties == "lowest":
            score = (1000 * score).astype(np.float16).astype(np.float32)
        np.copyto(of_nearest, score, where=nearest == value)
        # Values ascend, so that the lowest label keeps what a later one has no more of.
        np.maximum(second, np.minimum(score, best), out=second)
        found[score > best] = value
        np.maximum(best, score, out=best)
    if mask.ties == "nearest":
        if mask.interpolation == "linear":
            close = np.nonzero(best - second < _TIE)
            scores = _exact_scores(labels, values, axes, close)
            tied = scores == scores.max(axis=0)
            own = tied & (values[:, None] == nearest[close])
            found[close] = np.where(own.any(axis=0), nearest[close], values[tied.argmax(axis=0)])
        else:
            np.copyto(found, nearest, where=best - of_nearest < _TIE)
    return found


def _nearest(labels: NDArray[np.int16], axes: Sequence[tuple[int, Sampling]]) -> NDArray[np.int16]:
    for at, axis in axes:
        labels = np.take(labels, nearest_indices(axis), axis=at)
    return labels


def _exact_scores(
    labels: NDArray[np.int16],
    values: NDArray[np.int16],
    axes: Sequence[tuple[int, Sampling]],
    places: tuple[NDArray[np.intp], ...],
) -> NDArray[np.float64]:
    """Score of each value (V, N) at some of the new voxels, as SciPy sums it: in float64, corner after corner.

    Rounding decides between labels of equal scores.
    """
    along_axes = dict(axes)
    corners: list[list[tuple[NDArray[np.intp], NDArray[np.float64] | None]]] = []
    for at, place in enumerate(places):
        axis = along_axes.get(at)
        if axis is None:
            corners.append([(place, None)])
            continue
        position = np.clip(axis.positions(), 0, axis.n - 1)[place]
        low = np.floor(position)
        index = low.astype(np.intp)
        corners.append([(index, 1 - (position - low)), (np.minimum(index + 1, axis.n - 1), position - low)])
    total = np.zeros((len(values), len(places[0])))
    for corner in product(*corners):
        score = (labels[tuple(index for index, _ in corner)] == values[:, None]).astype(np.float64)
        for _, weight in corner:
            if weight is not None:
                score *= weight
        total += score
    return total
