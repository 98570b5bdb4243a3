from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lowres_seg import InputError
from lowres_seg.bundle.stage import Normalise
from lowres_seg.runtime.normalise import normalise


def apply(x: np.ndarray, *rules: dict[str, Any], others: dict[str, np.ndarray] | None = None) -> np.ndarray:
    x = x.astype(np.float32)
    normalise(x, Normalise(rules=rules).rules, others or {}, [f"c{i}" for i in range(len(x))])
    return x


@pytest.fixture
def scan() -> np.ndarray:
    x = np.random.default_rng(0).gamma(2, 300, (2, 12, 10, 8))
    x[:, :4] = 0
    return x


def test_percentiles_of_all_voxels_to_zero_and_one(scan: np.ndarray) -> None:
    found = apply(scan, {"rule": "percentile-scale", "lower": 2, "upper": 98})
    for channel, result in zip(scan, found, strict=True):
        low, high = np.percentile(channel, [2, 98])
        assert np.allclose(result, (channel.clip(low, high) - low) / (high - low), atol=1e-5)


def test_percentiles_of_nonzero_voxels(scan: np.ndarray) -> None:
    found = apply(scan, {"rule": "percentile-scale", "lower": 1, "upper": 99, "voxels": "nonzero"})
    low, high = np.percentile(scan[0][scan[0] != 0], [1, 99])
    assert np.allclose(found[0], (scan[0].clip(low, high) - low) / (high - low), atol=1e-5)


def test_brainmages_rule(scan: np.ndarray) -> None:
    rule = {"rule": "percentile-scale", "lower": 2, "upper": 95, "voxels": "above-mean", "clip": "upper"}
    found = apply(scan, rule | {"divide_by": "upper"})
    x = scan[1]
    low, high = np.percentile(x[x >= x.mean()], [2, 95])
    assert np.allclose(found[1], (np.minimum(x, high) - low) / high, atol=1e-5)


def test_percentiles_of_another_stage(scan: np.ndarray) -> None:
    other = scan[:, ::2] * 3
    rule = {"rule": "percentile-scale", "lower": 5, "upper": 95, "statistics_of": "a"}
    found = apply(scan, rule, others={"a": other.astype(np.float32)})
    low, high = np.percentile(other[1], [5, 95])
    assert np.allclose(found[1], (scan[1].clip(low, high) - low) / (high - low), atol=1e-5)


@pytest.mark.parametrize("ddof", [0, 1])
def test_z_score(scan: np.ndarray, ddof: int) -> None:
    found = apply(scan, {"rule": "z-score", "ddof": ddof})
    for channel, result in zip(scan, found, strict=True):
        assert np.allclose(result, (channel - channel.mean()) / channel.std(ddof=ddof), atol=1e-5)


def test_z_score_of_nonzero_voxels_leaves_the_rest(scan: np.ndarray) -> None:
    found = apply(scan, {"rule": "z-score", "voxels": "nonzero"})
    brain = scan[0] != 0
    assert (found[0][~brain] == 0).all()
    assert np.allclose(found[0][brain], (scan[0][brain] - scan[0][brain].mean()) / scan[0][brain].std(), atol=1e-5)


def test_rules_follow_each_other(scan: np.ndarray) -> None:
    found = apply(scan, {"rule": "z-score"}, {"rule": "affine", "scale": 0.226, "shift": 0.449})
    assert found[0].mean() == pytest.approx(0.449, abs=1e-4)
    assert found[0].std() == pytest.approx(0.226, abs=1e-4)


def test_a_large_offset_does_not_spoil_the_z_score() -> None:
    x = np.random.default_rng(0).normal(30000, 1, (1, 64, 64, 64))
    found = apply(x, {"rule": "z-score"})
    assert found.std(dtype=np.float64) == pytest.approx(1, abs=1e-3)
    assert found.mean(dtype=np.float64) == pytest.approx(0, abs=1e-2)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"rule": "z-score"}, "do not vary"),
        ({"rule": "z-score", "voxels": "nonzero"}, "do not vary"),
        ({"rule": "percentile-scale", "lower": 1, "upper": 99}, "no contrast"),
        ({"rule": "percentile-scale", "lower": 1, "upper": 99, "voxels": "nonzero"}, "no voxel differs from zero"),
    ],
)
def test_no_contrast_is_an_error_and_no_division_by_zero(rule: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        apply(np.zeros((1, 4, 4, 4)), rule)
