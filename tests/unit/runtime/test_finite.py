"""Scores, sums and intensities that are NaN or infinite are errors with a count, and never background."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

from fakes import FakeEngine
from lowres_seg import EngineError, InputError
from lowres_seg.runtime.finite import count_not_finite
from stages import Content, bright, build, noise, predict, stage

CONFORM = {"shape": [8, 8, 8]}
SHAPES: dict[str, dict[str, Any]] = {
    "whole": {},
    "windows": {"conform": {}, "windows": {"roi_size": [8, 8, 8], "rules": "monai"}},
    "windows in half precision": {"conform": {}, "windows": {"roi_size": [8, 8, 8]}},
    "mirrored": {"mirror_axes": [0, 2]},
    "regions": {"decode": {"kind": "regions", "regions": [{"channel": 1, "threshold": 0.5, "label": 1}]}},
    "labels": {"restore": {"what": "labels", "interpolation": "nearest"}},
}


def broken(value: float, count: int) -> Any:
    """Scores of which `count`, at as many voxels, are a value."""

    def function(x: np.ndarray) -> np.ndarray:
        scores = bright(x)
        scores[1].ravel()[5 : 5 + count] = value
        return scores

    return function


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("changes", SHAPES)
def test_scores_that_are_not_finite_are_an_error_with_their_count(content: Content, changes: str, value: float) -> None:
    manifest = build(content, stage(**{"conform": CONFORM, **SHAPES[changes]}))
    with pytest.raises(EngineError, match=r"volume: stage only: 8 of 1024 scores .* NaN or infinite, at 8 voxels") as e:
        predict(manifest, {"only": [FakeEngine(broken(value, 8))]}, noise((8, 8, 8)))
    assert "\n" not in str(e.value)


def test_classes_that_are_not_finite_are_an_error(content: Content) -> None:
    decode = {"kind": "classes", "names": ["low", "high"]}
    only = stage(conform=CONFORM, decode=decode, restore={"what": "nothing"})
    manifest = build(content, only).model_copy(update={"labels": ()})
    with pytest.raises(EngineError, match="1 of 2 scores"):
        predict(manifest, {"only": [FakeEngine(lambda _: np.reshape([0, np.nan], (2, 1, 1, 1)))]}, noise((8, 8, 8)))


def test_large_scores_are_no_error(content: Content) -> None:
    manifest = build(content, stage(conform=CONFORM))
    data = noise((8, 8, 8))
    found = predict(manifest, {"only": [FakeEngine(lambda x: 3e38 * np.sign(bright(x)))]}, data).labels.data
    assert np.array_equal(found, data > 0.5)


def test_sums_that_half_precision_does_not_hold_are_an_error(content: Content) -> None:
    manifest = build(content, stage(conform={}, windows={"roi_size": [8, 8, 8], "weights": "constant"}))
    data = noise((8, 8, 8))
    assert predict(manifest, {"only": [FakeEngine(lambda x: 6e4 * bright(x))]}, data).labels.data.any()
    with pytest.raises(EngineError, match="too large for float16"):
        predict(manifest, {"only": [FakeEngine(lambda x: 1e6 * bright(x))]}, data)


def test_intensities_that_overflow_when_they_are_normalised_are_an_error(content: Content) -> None:
    rules = [{"rule": "affine", "scale": 1e30, "shift": 0.0}]
    manifest = build(content, stage(conform=CONFORM, normalise={"rules": rules}))
    with pytest.raises(InputError, match="512 of 512 values that are NaN or infinite"):
        predict(manifest, {"only": [FakeEngine(bright)]}, 1e10 + 1e9 * noise((8, 8, 8)))


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_counting_raises_no_warning_and_no_false_alarm(dtype: type) -> None:
    most = np.finfo(dtype).max
    x = np.array([most, most, -most, 0, most], dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert count_not_finite(x) == 0
        assert count_not_finite(np.array([np.inf, -np.inf, 1], dtype)) == 2
        assert count_not_finite(np.full(7, np.nan, dtype)) == 7
