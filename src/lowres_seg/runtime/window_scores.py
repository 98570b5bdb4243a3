"""The scores that one network of a stage gives for one window: what it sees, in the order of its array, and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, combinations

import numpy as np
from numpy.typing import NDArray
from typing_extensions import assert_never

from lowres_seg.bundle.stage import Classes, Stage
from lowres_seg.bundle.windows import Windows
from lowres_seg.errors import EngineError
from lowres_seg.runtime.engine import Engine
from lowres_seg.runtime.finite import count_not_finite
from lowres_seg.runtime.ordering import contiguous
from lowres_seg.runtime.sampling import drawn, keys, mean_and_spread
from lowres_seg.runtime.watch import Watch

Array = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Tiling:
    """The windows of one network of a stage, and what it sees in each.

    Attributes
    ----------
    windows : Windows
        In the order of the conformed grid.
    axis : int
        Axis of the conformed grid that is the first of the network's array.
    beyond : (C,) ndarray or None
        Values of the slices beyond the grid, for each channel; None for those of the last slice.
    """

    windows: Windows
    axis: int
    beyond: Array | None

    @classmethod
    def of(cls, stage: Stage, network: str, x: Array) -> Tiling:
        """Windows of a network over the stage's input (C, I, J, K)."""
        windows = stage.windows_of(network)
        assert windows is not None  # noqa: S101 - the caller asks a stage with windows
        beyond: Array | None
        match windows.beyond:
            case "zero":
                beyond = np.zeros(len(x), np.float32)
            case "edge":
                beyond = None
            case "mean":
                beyond = x.mean(axis=(1, 2, 3), dtype=np.float64).astype(np.float32)
            case _:
                assert_never(windows.beyond)
        return cls(windows, stage.axis_order(network)[0], beyond)

    def window(self, x: Array, at: tuple[int, int, int]) -> Array:
        """The window that begins at voxel `at` of (C, I, J, K), with the slices on each side of it."""
        box = [slice(first, first + n) for first, n in zip(at, self.windows.roi_size, strict=True)]
        if not self.windows.neighbours:
            return x[:, box[0], box[1], box[2]]
        first, stop = at[self.axis] - self.windows.neighbours, at[self.axis] + self.windows.neighbours + 1
        before, after = max(0, -first), max(0, stop - x.shape[1 + self.axis])
        box[self.axis] = slice(first + before, stop - after)
        found = x[:, box[0], box[1], box[2]]
        along = 1 + self.axis
        ends = (np.take(found, [0] * before, along), np.take(found, [-1] * after, along))
        if self.beyond is not None:
            for end in ends:
                end[:] = self.beyond[:, None, None, None]
        return np.concatenate([ends[0], found, ends[1]], along) if before or after else found


def scores_of(
    stage: Stage, network: str, engine: Engine, x: Array, channels: Sequence[int], key: Sequence[int] = ()
) -> Array:
    """Scores (C, I, J, K) of one window, averaged over mirrored runs. Valid until the engine runs again.

    Parameters
    ----------
    stage : Stage
    network : str
    engine : Engine
    x : (C, I, J, K) ndarray
        All channels of the stage's input in the window, with the slices on each side that the network sees.
    channels : sequence of int
        Those that the network takes, in its order.
    key : sequence of int
        Of the masks of its dropout; without any it is off.

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
    for place, flipped in enumerate(flips):
        along = tuple(1 + axis for axis in flipped)
        seen = _stacked(np.flip(x, along).transpose(0, *(1 + axis for axis in order)), stage)[None]
        given = engine.run(contiguous(seen), drawn(engine.masks, (*key, place)) if key else ())
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


@dataclass(eq=False)
class Runs:
    """The runs of a stage's networks over all windows, one after the other.

    Attributes
    ----------
    stage : Stage
    watch : Watch
        Asked before each run, and told of each.
    windows : int
        Number of windows of all networks together.
    done : int
    """

    stage: Stage
    watch: Watch
    windows: int
    done: int = 0

    def scores(
        self,
        member: int,
        network: str,
        engine: Engine,
        x: Array,
        channels: Sequence[int],
        at: tuple[int, int, int] = (0, 0, 0),
    ) -> Array:
        """Scores of one window as of `scores_of`; with samples activated, and their spread as a last channel.

        Raises
        ------
        EngineError
            As of `scores_of`, or if the engine has no masks to sample with.
        """
        samples = self.stage.samples
        if samples is None:
            return self._one(network, engine, x, channels, ())
        if not engine.masks:
            raise EngineError(
                f"stage {self.stage.name}: network {network} was loaded without masks of its dropout, so that all "
                "samples would be alike; load it with those of the manifest"
            )
        runs = (partial(self._one, network, engine, x, channels, key) for key in keys(samples, member, at))
        return mean_and_spread(runs, self.stage.decode)

    def _one(self, network: str, engine: Engine, x: Array, channels: Sequence[int], key: Sequence[int]) -> Array:
        self.watch.check()
        scores = scores_of(self.stage, network, engine, x, channels, key)
        self.done += 1
        total = self.windows * (1 if self.stage.samples is None else self.stage.samples.count)
        self.watch.done(self.stage.name, self.done, total)
        return scores


def _stacked(seen: Array, stage: Stage) -> Array:
    """Make the slices of (C, slices, H, W) channels of one slice, if the network sees several."""
    if stage.windows is None or not stage.windows.neighbours:
        return seen
    by_slice = seen if stage.windows.neighbours_by == "channel" else seen.transpose(1, 0, 2, 3)
    return by_slice.reshape(-1, 1, *seen.shape[2:])


def _refuse_not_finite(stage: Stage, network: str, scores: Array) -> None:
    """Refuse scores (1, C, ...) that are NaN or infinite: a comparison with NaN is false, which would be background."""
    bad = count_not_finite(scores)
    if bad:
        voxels = int(np.count_nonzero(~np.isfinite(scores[0]).all(axis=0)))
        raise EngineError(
            f"stage {stage.name}: {bad} of {scores.size} scores of network {network} are NaN or infinite, at {voxels} "
            "voxels; look at the scan's intensities there, or mend the network"
        )
