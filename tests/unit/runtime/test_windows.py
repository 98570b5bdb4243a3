from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lowres_seg.bundle.windows import Windows
from lowres_seg.runtime.windows import Accumulator, rows, starts, weights


def windows(roi: tuple[int, int, int] = (4, 4, 4), **changes: Any) -> Windows:
    return Windows(roi_size=roi, **changes)


@pytest.mark.parametrize(
    ("size", "roi", "overlap", "expected"),
    [
        (4, 4, 0.5, [0]),
        (5, 4, 0.5, [0, 1]),
        (10, 4, 0.5, [0, 2, 4, 6]),
        (11, 4, 0.5, [0, 2, 4, 5, 7]),  # 7 in four equal steps of 1.75; 3.5 goes to the even neighbour
        (16, 4, 0.0, [0, 4, 8, 12]),
        (13, 4, 0.0, [0, 3, 6, 9]),
        (3, 1, 0.5, [0, 1, 2]),
        (1, 1, 0.5, [0]),
        (3, 2, 0.625, [0, 0, 1]),  # a step below one voxel: nnU-Net looks twice, and so it counts twice
    ],
)
def test_nnunets_windows_are_spread_evenly(size: int, roi: int, overlap: float, expected: list[int]) -> None:
    assert starts(size, 0, windows((roi, 1, 1), overlap=overlap, rules="nnunet")) == expected


@pytest.mark.parametrize(
    ("size", "roi", "overlap", "expected"),
    [
        (4, 4, 0.5, [0]),
        (5, 4, 0.5, [0, 1]),
        (10, 4, 0.25, [0, 3, 6]),
        (11, 4, 0.25, [0, 3, 6, 7]),  # the last one is moved back into the grid
        (10, 4, 0.0, [0, 4, 6]),
        (7, 4, 0.9, [0, 1, 2, 3]),  # a step is one voxel at least
        (3, 1, 0.5, [0, 1, 2]),
        (1, 1, 0.5, [0]),
    ],
)
def test_monais_windows_keep_their_step_but_the_last(size: int, roi: int, overlap: float, expected: list[int]) -> None:
    assert starts(size, 0, windows((roi, 1, 1), overlap=overlap, rules="monai")) == expected


@pytest.mark.parametrize("rules", ["nnunet", "monai"])
def test_constant_weights_are_one(rules: str) -> None:
    found = weights(windows((3, 4, 5), weights="constant", rules=rules))
    assert found.shape == (3, 4, 5)
    assert found.dtype == np.float32
    assert (found == 1).all()


def test_nnunets_gaussian_peaks_at_ten_behind_the_middle_and_is_positive() -> None:
    found = weights(windows((8, 9, 16), rules="nnunet"))
    assert np.unravel_index(found.argmax(), found.shape) == (4, 4, 8)
    assert found.max() == 10
    for d in range(4):  # sigma is an eighth of the window: 2 voxels along the last axis
        assert found[4, 4, 8 + d] == pytest.approx(10 * math.exp(-0.5 * (d / 2) ** 2), rel=1e-3)
    assert np.array_equal(found, found.astype(np.float16).astype(np.float32))
    # The corner is below what half precision can hold; it weighs as much as the least that it can.
    assert found.min() > 0
    assert found[0, 0, 0] == found.min() == np.float32(np.finfo(np.float16).smallest_subnormal)


def test_nnunets_gaussian_is_cut_off_at_four_sigma() -> None:
    found = weights(windows((1, 1, 64), sigma_scale=0.05, rules="nnunet"))[0, 0]  # sigma 3.2, cut off beyond 13
    assert found[32 + 13] == pytest.approx(10 * math.exp(-0.5 * (13 / 3.2) ** 2), rel=0.01)
    assert (found[: 32 - 13] == found[32 + 13]).all()
    assert (found[32 + 14 :] == found[32 + 13]).all()


def test_monais_gaussian_is_symmetric_and_a_thousandth_at_least() -> None:
    found = weights(windows((8, 9, 16), rules="monai"))
    assert np.array_equal(found, found[::-1, ::-1, ::-1])
    middle = math.exp(-0.5 * (0.5 / 1) ** 2) * math.exp(-0.5 * (0.5 / 2) ** 2)  # between voxels on two of the axes
    assert found.max() == found[3, 4, 7] == pytest.approx(middle, rel=1e-6)
    assert found.min() == found[0, 0, 0] == np.float32(1e-3)
    assert found[3, 4, 5] / found[3, 4, 7] == pytest.approx(math.exp(-0.5 * (2.5**2 - 0.5**2) / 4), rel=1e-5)


def test_a_wide_gaussian_of_monai_is_not_raised_to_a_thousandth() -> None:
    found = weights(windows((4, 4, 4), sigma_scale=1.0, rules="monai"))
    assert found.min() == pytest.approx(math.exp(-0.5 * 3 * (1.5 / 4) ** 2), rel=1e-5)


def grids() -> st.SearchStrategy[tuple[tuple[int, int, int], Windows]]:
    """Grids, and windows no larger than they are."""

    def pair(axes: list[tuple[int, int]], **rest: Any) -> tuple[tuple[int, int, int], Windows]:
        shape = [max(1, a) for a, _ in axes]
        roi = [min(b, n) for n, (_, b) in zip(shape, axes, strict=True)]
        return (shape[0], shape[1], shape[2]), windows((roi[0], roi[1], roi[2]), **rest)

    return st.builds(
        pair,
        st.lists(st.tuples(st.integers(1, 13), st.integers(1, 6)), min_size=3, max_size=3),
        overlap=st.sampled_from([0.0, 0.25, 0.5, 0.625, 0.9]),
        weights=st.sampled_from(["constant", "gaussian"]),
        rules=st.sampled_from(["nnunet", "monai"]),
    )


@settings(max_examples=60, deadline=None)
@given(grids())
def test_windows_cover_every_voxel_and_stay_inside(case: tuple[tuple[int, int, int], Windows]) -> None:
    shape, rule = case
    seen = np.zeros(shape, int)
    last = 0
    for row, stop in rows(shape, rule):
        assert len({plane for plane, _, _ in row}) == 1
        assert row[0][0] >= last  # nothing that was taken is reached again
        for at in row:
            assert all(a >= 0 and a + n <= m for a, n, m in zip(at, rule.roi_size, shape, strict=True))
            seen[tuple(slice(a, a + n) for a, n in zip(at, rule.roi_size, strict=True))] += 1
        assert last <= stop <= shape[0]
        last = stop
    assert last == shape[0]
    assert seen.min() >= 1


def by_hand(
    shape: tuple[int, int, int], rule: Windows, scores: list[tuple[tuple[int, int, int], np.ndarray]]
) -> np.ndarray:
    total, weight = np.zeros((2, *shape)), np.zeros(shape)
    w = weights(rule).astype(np.float64)
    for at, values in scores:
        box = tuple(slice(a, a + n) for a, n in zip(at, rule.roi_size, strict=True))
        total[(slice(None), *box)] += w * values
        weight[box] += w
    return total / weight


@settings(max_examples=60, deadline=None)
@given(grids(), st.integers(0, 9))
def test_planes_taken_on_the_way_are_the_weighted_mean_of_all(
    case: tuple[tuple[int, int, int], Windows], seed: int
) -> None:
    shape, rule = case
    rng = np.random.default_rng(seed)
    rolling, whole = (Accumulator(shape, rule, planes=n) for n in (rule.roi_size[0], shape[0]))
    scores: list[tuple[tuple[int, int, int], np.ndarray]] = []
    found = np.full((2, *shape), np.nan, np.float32)
    end = 0
    for row, stop in rows(shape, rule):
        for at in row:
            values = rng.uniform(1, 2, (2, *rule.roi_size)).astype(np.float32)
            scores.append((at, values))
            rolling.add(values, at)
            whole.add(values, at)
        where, part = rolling.take(stop)
        assert (where.start, where.stop) == (end, stop)
        end = stop
        found[:, where] = part
    everything = whole.take(shape[0])
    assert everything[0] == slice(0, shape[0])
    assert np.array_equal(everything[1].astype(np.float32), found)
    # Half a bit in eleven, times the few windows that meet at a voxel; subnormal weights are coarser still.
    expected = by_hand(shape, rule, scores)
    if rule.convention == "monai":
        assert np.allclose(found, expected, rtol=1e-5)
    elif rule.weights == "constant":
        assert np.allclose(found, expected, rtol=len(scores) * 2**-11)
    assert found.min() >= 0.9
    assert found.max() <= 2.1


def test_sums_are_kept_in_half_precision_under_nnunets_rules_only() -> None:
    scores = np.full((1, 4, 4, 4), 1 / 3, np.float32)
    for rules, kind in (("nnunet", np.float16), ("monai", np.float32)):
        one = Accumulator((4, 4, 4), windows(rules=rules, weights="constant"), planes=4)
        one.add(scores, (0, 0, 0))
        _, found = one.take(4)
        assert found.dtype == kind
        assert found[0, 0, 0, 0] == kind(1 / 3)
