"""From the scores of networks to labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from typing_extensions import assert_never

from lowres_seg.bundle.scores import channels_used
from lowres_seg.bundle.stage import Activation, Argmax, Classes, Decode, Regions
from lowres_seg.errors import EngineError
from lowres_seg.metrics.classification import decision

Scores = NDArray[np.float32]
Labels = NDArray[np.uint8]


def select(scores: Scores, decode: Decode, *, probabilities: bool = False) -> Scores:
    """Activate scores (C, I, J, K), and keep the channels that `channels_used` names.

    Parameters
    ----------
    scores : (C, I, J, K) ndarray
    decode : Decode
    probabilities : bool
        Whether scores for argmax are activated too. Without it they are compared as they are.

    Raises
    ------
    EngineError
        If the network gives fewer channels than are decoded.
    """
    used = channels_used(decode)
    if used[-1] >= len(scores):
        raise EngineError(f"channel {used[-1]} is to be decoded, the network gives {len(scores)}")
    activation: Activation = "none" if isinstance(decode, Argmax) and not probabilities else decode.activation
    if activation == "softmax":
        scores = scores.astype(np.float32, copy=False)
        e = np.exp(scores - scores.max(axis=0, keepdims=True))
        scores = e / e.sum(axis=0, keepdims=True)
    # A run of channels is taken as a view, because these arrays are large.
    chosen = scores[used[0] : used[-1] + 1] if len(used) == used[-1] - used[0] + 1 else scores[used]
    return np.asarray(_sigmoid(chosen) if activation == "sigmoid" else chosen)


def combine(members: Sequence[Scores], decode: Decode, ensemble: str, *, probabilities: bool = False) -> Scores:
    """Combine the scores (C, I, J, K) of each member of an ensemble to one array for `labels_of`.

    Parameters
    ----------
    members : sequence of ndarray
    decode : Decode
    ensemble : {"mean-scores", "mean-probabilities"}
    probabilities : bool
        Whether scores for argmax are activated too, because they are resampled before they are compared.
    """
    if ensemble == "mean-probabilities":
        total = select(members[0], decode, probabilities=True).astype(np.float32)
        for scores in members[1:]:
            total += select(scores, decode, probabilities=True)
        total /= np.float32(len(members))
        return total
    return select(mean(members), decode, probabilities=probabilities)


def mean(arrays: Sequence[Scores]) -> Scores:
    """Mean of arrays of one shape, in their own precision. A single array is returned as it is."""
    if len(arrays) == 1:
        return arrays[0]
    total = arrays[0].copy()
    for array in arrays[1:]:
        total += array
    total /= total.dtype.type(len(arrays))
    return total


def labels_of(selected: Scores, decode: Decode) -> Labels:
    """Label map (I, J, K) of the scores that `select` or `combine` gave.

    Raises
    ------
    EngineError
        If `decode` is of classes, which give no label map.
    """
    match decode:
        case Argmax():
            return np.asarray(np.array(decode.labels, np.uint8)[selected.argmax(axis=0)])
        case Regions():
            return _painted(selected, decode)
        case Classes():
            raise EngineError("a network that classifies gives no label map")
        case _:
            assert_never(decode)


def flips(a: Scores, b: Scores, decode: Decode) -> tuple[int, int]:
    """Number of voxels with another label, and of all voxels, of two arrays of scores (C, I, J, K).

    Scores of classes count as one voxel, whose label is the decision.
    """
    first, second = select(a, decode), select(b, decode)
    if isinstance(decode, Classes):
        return int(_decided(first, decode) != _decided(second, decode)), 1
    differ = labels_of(first, decode) != labels_of(second, decode)
    return int(np.count_nonzero(differ)), differ.size


def _decided(selected: Scores, decode: Classes) -> str:
    values = dict(zip(decode.names, map(float, selected.ravel()), strict=True))
    return decision(values, decode.names)


def _painted(selected: Scores, decode: Regions) -> Labels:
    places = {channel: place for place, channel in enumerate(channels_used(decode))}
    labels = np.zeros(selected.shape[1:], np.uint8)
    for region in decode.regions:
        where = selected[places[region.channel]] > region.threshold
        if region.within:
            others = [other for other in decode.regions if other.channel in region.within]
            where &= np.logical_or.reduce([selected[places[other.channel]] > other.threshold for other in others])
        labels[where] = region.label
    return labels


def vote(maps: Sequence[Labels]) -> Labels:
    """Label that most maps have, voxel by voxel. The lowest label wins a tie."""
    best, most = np.zeros(maps[0].shape, np.uint8), np.zeros(maps[0].shape, np.uint8)
    for label in np.unique(np.concatenate([np.unique(labels) for labels in maps])):
        votes = np.asarray(np.sum([labels == label for labels in maps], axis=0, dtype=np.uint8))
        better = votes > most
        best[better], most[better] = label, votes[better]
    return best


def _sigmoid(x: Scores) -> Scores:
    y = np.negative(x, dtype=np.float32)
    with np.errstate(over="ignore"):  # a large negative score gives an infinite exponential, and a probability of 0
        np.exp(y, out=y)
    y += 1
    return np.asarray(np.reciprocal(y, out=y))
