"""STAPLE: label maps of several members fused by how well each of them seems to know each label.

Warfield, Zou and Wells (2004) estimate the sensitivity and the specificity of each rater and the probability of the
true segmentation together, by expectation maximisation. Here each label is a segmentation of its own.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.uint8]
Floats = NDArray[np.float64]
#: Change of every sensitivity and specificity below which the estimate has settled, and the largest number of steps.
_SETTLED, _STEPS = 1e-7, 1000


def staple(maps: Sequence[Labels]) -> Labels:
    """Label of the highest probability, voxel by voxel; background where none exceeds a half. The lowest wins a tie.

    Parameters
    ----------
    maps : sequence of ndarray of uint8
        Label map of each member, all of one shape.
    """
    fused = maps[0].copy()
    apart = np.zeros(fused.shape, bool)
    for labels in maps[1:]:
        apart |= labels != maps[0]
    own, inverse = np.unique(np.stack([labels[apart] for labels in maps], axis=1), axis=0, return_inverse=True)
    # Voxels where all agree count too: they say how well the members know a label.
    agreed = np.bincount(maps[0][~apart], minlength=256)
    known = np.flatnonzero(agreed)
    said = np.concatenate([own, np.repeat(known[:, None], len(maps), axis=1)])
    counts = np.concatenate([np.bincount(inverse.ravel(), minlength=len(own)), agreed[known]]).astype(np.float64)
    values = np.unique(said)
    values = values[values > 0]
    if not len(values):
        return fused
    sure = np.stack([_probability(said == value, counts) for value in values])
    best = np.where(sure.max(axis=0) > 0.5, values[sure.argmax(axis=0)], 0).astype(np.uint8)
    fused[apart] = best[: len(own)][inverse.ravel()]
    table = np.zeros(256, np.uint8)
    table[known] = best[len(own) :]
    fused[~apart] = table[maps[0][~apart]]
    return fused


def _probability(said: NDArray[np.bool_], counts: Floats) -> Floats:
    """Probability of a label where members said what they said.

    Parameters
    ----------
    said : (N, R) ndarray of bool
        Which of the R members gave the label, for each combination that occurs.
    counts : (N,) ndarray
        Number of voxels of each combination.
    """
    probability = said.mean(axis=1)
    prior = float(counts @ probability / counts.sum())
    sensitivity, specificity = np.full(said.shape[1], np.inf), np.full(said.shape[1], np.inf)
    for _ in range(_STEPS):
        inside, outside = counts * probability, counts * (1 - probability)
        before = sensitivity, specificity
        sensitivity = _share(inside @ said, inside.sum())
        specificity = _share(outside @ ~said, outside.sum())
        foreground = prior * np.where(said, sensitivity, 1 - sensitivity).prod(axis=1)
        background = (1 - prior) * np.where(said, 1 - specificity, specificity).prod(axis=1)
        total = foreground + background
        # What no member could have said by these estimates is background.
        probability = np.divide(foreground, total, out=np.zeros(len(said)), where=total > 0)
        moved = max(np.abs(a - b).max() for a, b in zip(before, (sensitivity, specificity), strict=True))
        if moved <= _SETTLED:
            break
    return np.asarray(probability)


def _share(part: Floats, whole: float) -> Floats:
    """A share of a whole; all of it where there is nothing to be wrong about."""
    return part / whole if whole > 0 else np.ones_like(part)
