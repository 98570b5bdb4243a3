"""Stages that follow each other: masks as channels, painting over, nothing to work on."""

from __future__ import annotations

import numpy as np
import pytest

from fakes import FakeEngine
from stages import Content, always, bright, build, noise, predict, stage, where


@pytest.mark.parametrize(("labels", "mask"), [([], [1, 2]), ([1], [1]), ([2, 3], [2])])
def test_a_network_sees_the_mask_of_another_stage(content: Content, labels: list[int], mask: list[int]) -> None:
    first = stage("first", conform={"shape": [6, 6, 6]}, decode={"kind": "argmax", "labels": [0, 1, 2, 3]})
    masks = [{"stage": "first", "labels": labels}]
    second = stage("second", conform={"orientation": "LPS", "shape": [12, 6, 8]}, mask_channels=masks)
    engine = FakeEngine(always(0, 1))
    coarse = FakeEngine(where(None, (slice(0, 2),), (slice(3, 4), slice(2, 5)), None))
    data = noise((6, 6, 6))
    predict(build(content, first, second), {"first": [coarse], "second": [engine]}, data)
    found = np.zeros((6, 6, 6))
    found[0:2], found[3:4, 2:5] = 1, 2
    expected = np.isin(found, mask)[::-1, ::-1].repeat(2, axis=0)
    (seen,) = engine.seen
    assert seen.shape == (2, 12, 6, 8)
    assert np.array_equal(seen[1][:, :, [0, 1, 2, 4, 5, 6]], expected)  # 8 planes of 6: the third and sixth twice
    assert seen[0].max() <= data.max()


def test_a_mask_is_not_normalised_and_padded_with_nothing(content: Content) -> None:
    first = stage("first", conform={"shape": [4, 4, 4]})
    second = stage(
        "second",
        conform={"pad": "noise"},
        windows={"roi_size": [8, 4, 4]},
        normalise={"rules": [{"rule": "affine", "scale": 3, "shift": 9}]},
        mask_channels=[{"stage": "first"}],
    )
    engine = FakeEngine(always(0, 1))
    engines = {"first": [FakeEngine(always(0, 1))], "second": [engine]}
    predict(build(content, first, second), engines, noise((4, 4, 4)))
    assert engine.seen[0][1, :, 0, 0].tolist() == [0, 0, 1, 1, 1, 1, 0, 0]


def test_a_stage_paints_over_anothers_result_and_leaves_the_rest(content: Content) -> None:
    first = stage("first", conform={"shape": [8, 8, 8]})
    second = stage(
        "second",
        region={"kind": "box-of", "stage": "first"},
        conform={"shape": [4, 4, 4]},
        decode={"kind": "argmax", "labels": [0, 3]},
        onto="first",
    )
    box = (slice(2, 6),) * 3
    engines = {"first": [FakeEngine(where(None, box))], "second": [FakeEngine(where(None, (slice(1, 2),)))]}
    found = predict(build(content, first, second), engines, noise((8, 8, 8))).labels.data
    expected = np.zeros((8, 8, 8))
    expected[box] = 1
    expected[3, 2:6, 2:6] = 3
    assert np.array_equal(found, expected)


def test_painting_leaves_the_earlier_result_itself_as_it_was(content: Content) -> None:
    """A third stage still sees the first one's mask."""
    shape = {"shape": [4, 4, 4]}
    first = stage("first", conform=shape)
    second = stage("second", conform=shape, decode={"kind": "argmax", "labels": [0, 3]}, onto="first")
    third = stage("third", conform=shape, mask_channels=[{"stage": "first", "labels": [3]}, {"stage": "second"}])
    engine = FakeEngine(always(1, 0))
    engines = {"first": [FakeEngine(always(0, 1))], "second": [FakeEngine(always(0, 1))], "third": [engine]}
    predict(build(content, first, second, third), engines, noise((4, 4, 4)))
    assert not engine.seen[0][1].any()
    assert engine.seen[0][2].all()


@pytest.mark.parametrize("onto", [None, "keep"])
def test_where_a_stage_finds_nothing_the_next_does_not_run(content: Content, onto: str | None) -> None:
    keep = stage("keep", conform={"shape": [6, 6, 6]}, decode={"kind": "argmax", "labels": [0, 2]})
    first = stage("first", conform={"shape": [4, 4, 4]}, restore={"what": "nothing"})
    second = stage(
        "second",
        region={"kind": "box-of", "stage": "first"},
        conform={"shape": [4, 4, 4]},
        mask_channels=[{"stage": "keep"}],
        onto=onto,
    )
    engine = FakeEngine(always(0, 1))
    kept = FakeEngine(where(None, (slice(0, 3),)))
    engines = {"keep": [kept], "first": [FakeEngine(always(1, 0))], "second": [engine]}
    result = predict(build(content, keep, first, second), engines, noise((6, 6, 6)))
    assert engine.seen == []
    assert "stage second has nothing to look at: the one before it found no foreground" in result.doubts
    assert ("the result is empty" in result.doubts) == (onto is None)
    assert np.array_equal(np.unique(result.labels.data), [0] if onto is None else [0, 2])
    assert result.labels.data.sum() == (0 if onto is None else 2 * 3 * 36)


def test_an_empty_mask_is_a_channel_of_zeros(content: Content) -> None:
    first = stage("first", conform={"shape": [4, 4, 4]})
    second = stage("second", conform={"shape": [4, 4, 4]}, mask_channels=[{"stage": "first"}])
    engine = FakeEngine(bright)
    data = noise((4, 4, 4))
    result = predict(build(content, first, second), {"first": [FakeEngine(always(1, 0))], "second": [engine]}, data)
    assert not engine.seen[0][1].any()
    assert np.array_equal(result.labels.data, data > 0.5)
    assert result.doubts == ()
