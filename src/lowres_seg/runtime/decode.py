"""From the scores of networks to labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lowres_seg.bundle.stage import Argmax, Classes, Decode, Regions
from lowres_seg.errors import EngineError

Scores = NDArray[np.float32]
Activation = Literal["none", "sigmoid", "softmax"]


def channels_used(decode: Decode) -> list[int]:
    """Channels of the scores that labels are decoded from, in ascending order."""
    if isinstance(decode, Regions):
        return sorted({region.channel for region in decode.regions})
    return list(range(len(decode.labels if isinstance(decode, Argmax) else decode.names)))


def select(scores: Scores, decode: Decode, *, probabilities: bool = False) -> Scores:
    """Activate scores (C, I, J, K) and keep the channels that `channels_used` names.

    Parameters
    ----------
    scores : (C, I, J, K) ndarray
    decode : Decode
    probabilities : bool
        Whether scores are activated that could be compared without: those of argmax.

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
    # A run of channels is a view; these arrays are among the largest there are.
    chosen = scores[used[0] : used[-1] + 1] if len(used) == used[-1] - used[0] + 1 else scores[used]
    return np.asarray(_sigmoid(chosen) if activation == "sigmoid" else chosen)


def combine(members: Sequence[Scores], decode: Decode, how: str) -> Scores:
    """One array of what `labels_of` takes, from the scores (C, I, J, K) of each member of an ensemble.

    Parameters
    ----------
    members : sequence of ndarray
    decode : Decode
    how : {"mean-scores", "mean-probabilities"}
    """
    if how == "mean-probabilities":
        total = select(members[0], decode, probabilities=True).astype(np.float32)
        for scores in members[1:]:
            total += select(scores, decode, probabilities=True)
        total /= np.float32(len(members))
        return total
    return select(mean(members), decode)


def mean(arrays: Sequence[Scores]) -> Scores:
    """Mean of arrays of one shape, in their precision; of a single one, that one itself."""
    if len(arrays) == 1:
        return arrays[0]
    total = arrays[0].copy()
    for array in arrays[1:]:
        total += array
    total /= total.dtype.type(len(arrays))
    return total


def labels_of(selected: Scores, decode: Decode) -> NDArray[np.uint8]:
    """Label map (I, J, K) of what `select` gave.

    Raises
    ------
    EngineError
        If `decode` is of classes, which give no label map.
    """
    if isinstance(decode, Argmax):
        return np.asarray(np.array(decode.labels, np.uint8)[selected.argmax(axis=0)])
    if isinstance(decode, Classes):
        raise EngineError("a network that tells classes gives no label map")
    places = {channel: place for place, channel in enumerate(channels_used(decode))}
    labels = np.zeros(selected.shape[1:], np.uint8)
    for region in decode.regions:
        where = selected[places[region.channel]] > region.threshold
        if region.within:
            others = [other for other in decode.regions if other.channel in region.within]
            where &= np.logical_or.reduce([selected[places[other.channel]] > other.threshold for other in others])
        labels[where] = region.label
    return labels


def vote(maps: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Label that most maps have, voxel by voxel; the lowest of those that tie."""
    best, most = np.zeros(maps[0].shape, np.uint8), np.zeros(maps[0].shape, np.uint8)
    for label in np.unique(np.concatenate([np.unique(labels) for labels in maps])):
        votes = np.asarray(np.sum([labels == label for labels in maps], axis=0, dtype=np.uint8))
        better = votes > most
        best[better], most[better] = label, votes[better]
    return best


def _sigmoid(x: Scores) -> Scores:
    y = np.negative(x, dtype=np.float32)
    with np.errstate(over="ignore"):  # of a large negative score the exponential is infinite, and its probability 0
        np.exp(y, out=y)
    y += 1
    return np.asarray(np.reciprocal(y, out=y))
