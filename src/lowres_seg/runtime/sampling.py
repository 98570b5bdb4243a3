"""Scores of a network whose dropout is kept on: the mean of several runs of one window, and their spread."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from lowres_seg.bundle.dropout import DropoutMask, Samples
from lowres_seg.bundle.stage import Decode
from lowres_seg.runtime.decode import select

Array = NDArray[np.float32]


def drawn(masks: Iterable[DropoutMask], key: Sequence[int]) -> list[Array]:
    """Values of each mask, scaled by 1 / (1 - probability).

    Parameters
    ----------
    masks : iterable of DropoutMask
    key : sequence of int
        Seed of the generator: the same key gives the same values, whatever was drawn before.
    """
    generator = np.random.default_rng(list(key))
    return [
        (generator.random(mask.shape, dtype=np.float32) >= mask.probability).astype(np.float32)
        / np.float32(1 - mask.probability)
        for mask in masks
    ]


def keys(samples: Samples, member: int, at: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Keys of the runs of one window of one member."""
    for sample in range(samples.count):
        yield samples.seed, member, *at, sample


def mean_and_spread(runs: Iterable[Callable[[], Array]], decode: Decode) -> Array:
    """Mean of the activated scores of some runs, and as one more channel their spread.

    Parameters
    ----------
    runs : iterable of callable
        Each gives the scores (C, I, J, K) of one run.
    decode : Decode
        Which channels are decoded, and how scores are activated.

    Returns
    -------
    (decoded + 1, I, J, K) ndarray
        The last channel is the standard deviation over the runs, largest over the decoded channels.
    """
    mean, squares, count = np.zeros(1, np.float32), np.zeros(1, np.float32), 0
    for run in runs:
        count += 1
        scores = select(run(), decode, probabilities=True)
        off = scores - mean
        mean = mean + off / np.float32(count)
        squares = squares + off * (scores - mean)
    spread = np.sqrt(squares / np.float32(count)).max(axis=0, keepdims=True)
    return np.concatenate([mean, spread])
