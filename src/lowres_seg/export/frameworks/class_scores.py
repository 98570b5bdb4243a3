"""Scores of classes, whatever axes a network gives them: (1, C), (1, C, 1, 1) and others become (1, C, 1, 1, 1)."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any


def classes_of(shape: Sequence[int]) -> int | None:
    """Number of classes of an output that has one number for each and other axes than (1, C, 1, 1, 1); None if not.

    A network that drops axes of length 1 gives (C,), or one number without axes.

    Examples
    --------
    >>> [classes_of(shape) for shape in ((1, 3), (1, 3, 1, 1), (3,), ())]
    [3, 3, 3, 1]
    >>> [classes_of(shape) for shape in ((1, 3, 1, 1, 1), (2, 3), (1, 3, 8, 8))]
    [None, None, None]
    """
    if len(shape) < 2:
        return prod(shape)
    if len(shape) == 5 or shape[0] != 1 or any(side != 1 for side in shape[2:]):
        return None
    return int(shape[1])


def with_axes(scores: Any) -> Any:
    """Scores of classes, an array or a tensor, as (1, C, 1, 1, 1); those of voxels as they are."""
    classes = classes_of(scores.shape)
    return scores if classes is None else scores.reshape(1, classes, 1, 1, 1)
