"""The one fake of these tests: an engine that is a function."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from lowres_seg.bundle.dropout import DropoutMask


class FakeEngine:
    """An engine that applies a function to (C, D, H, W), and remembers its inputs.

    Its result is memory that the next run overwrites, as OpenVINO's is.
    """

    def __init__(self, function: Callable[..., np.ndarray], *, lean: bool = False, remember: bool = True) -> None:
        self.function = function
        self.lean = lean
        self.remember = remember
        self.seen: list[np.ndarray] = []
        self.masks: tuple[DropoutMask, ...] = ()
        self.prepared = 0
        self.releases = 0
        self._memory = np.empty(0, np.float32)

    def run(self, x: np.ndarray, masks: Sequence[np.ndarray] = ()) -> np.ndarray:
        assert x.flags.c_contiguous
        if self.remember:
            self.seen.append(x[0].copy())
        result = np.asarray(self.function(x[0], *masks), np.float32)[None]
        if self._memory.shape != result.shape:
            self._memory = np.empty_like(result)
        self._memory[:] = result
        return self._memory

    def prepare(self) -> None:
        self.prepared += 1

    def release(self) -> None:
        self.releases += 1


def fixed(scores: np.ndarray) -> FakeEngine:
    """An engine that gives the scores (C, D, H, W) whatever its input is."""
    return FakeEngine(lambda _: scores)
