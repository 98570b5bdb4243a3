"""Scores on another grid, and their way back to the scan's own."""

from __future__ import annotations

import numpy as np
import pytest

from fakes import FakeEngine
from lowres_seg.runtime.interpolation import Sampling, linear_matrix, spline_matrix
from stages import Content, bright, build, predict, stage


def smooth(shape: tuple[int, int, int]) -> np.ndarray:
    i, j, k = (np.linspace(-1, 1, n) for n in shape)
    return np.asarray(1.5 - i[:, None, None] ** 2 - j[:, None] ** 2 - 1.5 * k**2 + 0.2 * i[:, None, None], np.float32)


def test_scores_return_before_or_after_they_are_activated(content: Content) -> None:
    """Cubic to 2 mm, scores 9 (x - 0.5), back by linear: by hand, axis after axis."""
    data = smooth((16, 18, 14))
    decode = {"kind": "regions", "activation": "sigmoid", "regions": [{"channel": 0, "threshold": 0.8, "label": 1}]}
    low = data.astype(np.float64)
    for axis in range(3):
        low = np.moveaxis(
            np.tensordot(spline_matrix(Sampling(data.shape[axis], data.shape[axis] // 2), 3), low, (1, axis)), 0, axis
        )
    low = low.clip(data.min(), data.max())

    def returned(x: np.ndarray) -> np.ndarray:
        for axis in range(3):
            x = np.moveaxis(
                np.tensordot(linear_matrix(Sampling(x.shape[axis], data.shape[axis])), x, (1, axis)), 0, axis
            )
        return x

    def sigmoid(x: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-x))

    expected = {"before": returned(sigmoid(9 * (low - 0.5))), "after": sigmoid(returned(9 * (low - 0.5)))}
    found = {}
    for activated, probabilities in expected.items():
        conform = {"spacing_mm": [2, 2, 2], "interpolation": "cubic", "shape": [8, 9, 7]}
        manifest = build(content, stage(conform=conform, decode=decode, restore={"activated": activated}))
        engine = FakeEngine(lambda x: 9 * (x - 0.5))
        found[activated] = predict(manifest, {"only": [engine]}, data).labels.data
        assert np.allclose(engine.seen[0][0], low, atol=1e-4)
        far = np.abs(probabilities - 0.8) > 1e-3
        assert np.array_equal(found[activated][far], probabilities[far] > 0.8)
        assert 0.05 < found[activated].mean() < 0.95
    assert not np.array_equal(found["before"], found["after"])


@pytest.mark.parametrize("activated", ["before", "after"])
@pytest.mark.parametrize("rules", ["nnunet", "monai"])
def test_windows_on_another_grid_return_to_the_scans_own(content: Content, activated: str, rules: str) -> None:
    data = smooth((16, 18, 14))
    one = stage(
        conform={"spacing_mm": [2, None, 1.5], "interpolation": "cubic"},
        windows={"roi_size": [4, 6, 5], "rules": rules},
        decode={"kind": "argmax", "labels": [0, 1], "activation": "softmax"},
        restore={"activated": activated},
    )
    found = predict(build(content, one), {"only": [FakeEngine(bright)]}, data).labels.data
    far = np.abs(data - 0.5) > 0.1  # off the surface, where a coarser grid decides
    assert far.mean() > 0.8
    assert np.array_equal(found[far], data[far] > 0.5)
    assert 0.1 < found.mean() < 0.9
