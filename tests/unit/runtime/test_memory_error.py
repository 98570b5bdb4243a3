"""Memory that runs out in a network or around it is an error of the scan, in one line."""

from __future__ import annotations

import numpy as np
import pytest

from fakes import FakeEngine
from lowres_seg import InputError
from stages import Content, bright, build, noise, predict, stage


def greedy(x: np.ndarray) -> np.ndarray:
    """Scores that no memory holds: NumPy's own MemoryError."""
    return np.empty((2, 1 << 20, *x.shape[1:], 1 << 20), np.float64)


def test_memory_that_runs_out_while_a_stage_runs_is_one_line(content: Content) -> None:
    manifest = build(content, stage(conform={"shape": [8, 8, 8]}))
    with pytest.raises(InputError, match="segmenting 8×8×8 voxels takes more memory than there is") as caught:
        predict(manifest, {"only": [FakeEngine(greedy)]}, noise((8, 8, 8)))
    assert str(caught.value).isprintable()
    again = predict(manifest, {"only": [FakeEngine(bright)]}, noise((8, 8, 8)))
    assert again.labels.data.any()
