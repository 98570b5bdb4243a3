"""From the scores of a network to labels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lowres_seg.errors import EngineError
from lowres_seg.stage import Decode, Regions

Scores = NDArray[np.float32]


def channels_used(decode: Decode) -> list[int]:
    """Channels of the scores that labels are decoded from, in ascending order."""
    if isinstance(decode, Regions):
        return sorted({region.channel for region in decode.regions})
    return list(range(len(decode.labels)))


def select(scores: Scores, decode: Decode) -> Scores:
    """Activate scores (C, I, J, K) and keep the channels that `channels_used` names.

    Raises
    ------
    EngineError
        If the network gives fewer channels than are decoded.
    """
    used = channels_used(decode)
    if used[-1] >= len(scores):
        raise EngineError(f"channel {used[-1]} is to be decoded, the network gives {len(scores)}")
    if isinstance(decode, Regions) and decode.activation == "softmax":
        e = np.exp(scores - scores.max(axis=0, keepdims=True))
        scores = e / e.sum(axis=0, keepdims=True)
    # A run of channels is a view; these arrays are among the largest there are.
    chosen = scores[used[0] : used[-1] + 1] if len(used) == used[-1] - used[0] + 1 else scores[used]
    if isinstance(decode, Regions) and decode.activation == "sigmoid":
        # exp of a large positive number overflows; this form only takes it of negative ones.
        e = np.exp(-np.abs(chosen))
        chosen = np.where(chosen >= 0, 1 / (1 + e), e / (1 + e))
    return np.asarray(chosen)


def labels_of(selected: Scores, decode: Decode) -> NDArray[np.uint8]:
    """Label map (I, J, K) of what `select` gave."""
    if not isinstance(decode, Regions):
        return np.asarray(np.array(decode.labels, np.uint8)[selected.argmax(axis=0)])
    places = {channel: place for place, channel in enumerate(channels_used(decode))}
    labels = np.zeros(selected.shape[1:], np.uint8)
    for region in decode.regions:
        labels[selected[places[region.channel]] > region.threshold] = region.label
    return labels
