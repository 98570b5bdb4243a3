"""The scores that one network of a stage gives for one window: what it sees, in the order of its array, and back."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, combinations

import numpy as np
from numpy.typing import NDArray

from lowres_seg.bundle.stage import Classes, Stage
from lowres_seg.errors import EngineError
from lowres_seg.runtime.engine import Engine
from lowres_seg.runtime.finite import count_not_finite
from lowres_seg.runtime.ordering import contiguous

Array = NDArray[np.float32]


def scores_of(stage: Stage, network: str, engine: Engine, x: Array, channels: Sequence[int]) -> Array:
    """Scores (C, I, J, K) of one window, averaged over mirrored runs. Valid until the engine runs again.

    Parameters
    ----------
    stage : Stage
    network : str
    engine : Engine
    x : (C, I, J, K) ndarray
        All channels of the stage's input.
    channels : sequence of int
        Those that the network takes, in its order.

    Raises
    ------
    EngineError
        If the network fails, or gives scores of another shape, or some that are NaN or infinite.
    """
    if list(channels) != list(range(len(x))):
        x = x[list(channels)]
    order = stage.axis_order(network)
    axes = stage.mirror_axes
    flips = list(chain.from_iterable(combinations(axes, count) for count in range(len(axes) + 1)))
    total: Array | None = None
    for flipped in flips:
        along = tuple(1 + axis for axis in flipped)
        seen = np.flip(x, along).transpose(0, *(1 + axis for axis in order))[None]
        given = engine.run(contiguous(seen))
        spatial = (1, 1, 1) if isinstance(stage.decode, Classes) else seen.shape[2:]
        if given.shape[0] != 1 or given.shape[2:] != spatial:
            raise EngineError(f"stage {stage.name}: its network gave {given.shape} for an input of {seen.shape}")
        _refuse_not_finite(stage, network, given)
        back = np.flip(given[0].transpose(0, *(1 + order.index(axis) for axis in range(3))), along)
        if len(flips) == 1:
            return np.asarray(back)
        total = back.copy() if total is None else np.add(total, back, out=total)
        del given, back  # an engine then has its memory back for the next run
    assert total is not None  # noqa: S101 - one of the flips is the empty one
    total /= np.float32(len(flips))
    return total


def _refuse_not_finite(stage: Stage, network: str, scores: Array) -> None:
    """Refuse scores (1, C, ...) that are NaN or infinite: a comparison with NaN is false, which would be background."""
    bad = count_not_finite(scores)
    if bad:
        voxels = int(np.count_nonzero(~np.isfinite(scores[0]).all(axis=0)))
        raise EngineError(
            f"stage {stage.name}: {bad} of {scores.size} scores of network {network} are NaN or infinite, at {voxels} "
            "voxels; look at the scan's intensities there, or mend the network"
        )
