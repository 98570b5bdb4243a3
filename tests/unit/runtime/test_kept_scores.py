"""Scores of labels beside them, against numpy: what they hold is what the labels were decoded from."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fakes import FakeEngine
from lowres_seg import InputError, Segmenter, Volume
from lowres_seg.runtime.segmentation import Segmentation
from stages import Content, always, bright, build, noise, stage, where

SHAPE = (16, 18, 14)
SOFTMAX = {"kind": "argmax", "labels": [0, 1, 3], "activation": "softmax"}
SIGMOID = {
    "kind": "regions",
    "activation": "sigmoid",
    "regions": [{"channel": 0, "label": 1}, {"channel": 2, "label": 2, "threshold": 0.7}],
}


def three(x: np.ndarray) -> np.ndarray:
    return np.stack([0.6 - x[0], 3 * x[0] - 2, 2 * np.sin(20 * x[0])])


def found_in(
    manifest: Any, engines: dict[str, Any], *data: np.ndarray, scores: Any = "float16", turned: bool = False
) -> Segmentation:
    volumes = [
        Volume.from_array(np.asarray(array, np.float32), np.diag([-1.0 if turned else 1.0, 1, 1, 1])) for array in data
    ]
    scan = dict(zip(manifest.channels, volumes, strict=True))
    return Segmenter(manifest, engines, threads=1).predict(scan, scores=scores)


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(axis=0))
    return e / e.sum(axis=0)


@pytest.mark.parametrize("windows", [None, {"roi_size": [6, 7, 5], "rules": "monai"}])
def test_scores_of_argmax_are_probabilities(content: Content, windows: Any) -> None:
    shape = {} if windows else {"shape": list(SHAPE)}
    manifest = build(content, stage(conform=shape, windows=windows, decode=SOFTMAX), version=3)
    data = noise(SHAPE)
    found = found_in(manifest, {"only": [FakeEngine(three)]}, data)
    expected = softmax(three(data[None]))
    assert list(found.scores) == ["label-1", "label-2", "label-3", "label-4"]
    for name, channel in (("label-1", 1), ("label-3", 2)):
        assert found.scores[name].data.dtype == np.float16
        assert found.scores[name].data == pytest.approx(expected[channel], abs=1e-3)
        assert found.scores[name].grid == found.labels.grid
    assert not found.scores["label-2"].data.any()
    assert np.array_equal(found.labels.data, np.array([0, 1, 3])[expected.argmax(axis=0)])
    plain = found_in(manifest, {"only": [FakeEngine(three)]}, data, scores=None)
    assert np.array_equal(plain.labels.data, found.labels.data)
    assert plain.scores == {}
    merged = found.choose("both=label-1+label-3")
    assert merged.scores["both"].data == pytest.approx(1 - expected[0], abs=2e-3)
    bytes_ = found_in(manifest, {"only": [FakeEngine(three)]}, data, scores="uint8").scores["label-1"].data
    assert bytes_.dtype == np.uint8
    assert np.abs(bytes_ / 255 - expected[1]).max() <= 0.5 / 255 + 1e-6


@pytest.mark.parametrize("activated", ["before", "after"])
def test_scores_of_regions_are_what_is_thresholded(content: Content, activated: str) -> None:
    """From a grid of 2 mm, in the orientation of the stage: where they exceed the threshold, there is the label."""
    conform = {"orientation": "RAS", "spacing_mm": [2, 2, 2], "shape": [8, 9, 7]}
    manifest = build(content, stage(conform=conform, decode=SIGMOID, restore={"activated": activated}))
    i, j, k = (np.linspace(-1, 1, n) for n in SHAPE)
    data = np.asarray(1.5 - i[:, None, None] ** 2 - j[:, None] ** 2 - 1.5 * k**2 + 0.3 * i[:, None, None])
    found = found_in(manifest, {"only": [FakeEngine(three)]}, data, turned=True)
    first, second = (found.scores[name].data.astype(np.float64) for name in ("label-1", "label-2"))
    far = (np.abs(first - 0.5) > 1e-3) & (np.abs(second - 0.7) > 1e-3)
    expected = np.where(second > 0.7, 2, np.where(first > 0.5, 1, 0))
    assert far.mean() > 0.98
    assert np.array_equal(found.labels.data[far], expected[far])
    assert {0, 1, 2} == set(np.unique(expected))
    merged = found.choose("any=label-1+label-2").scores["any"].data
    assert np.array_equal(merged, np.maximum(first, second).astype(np.float16))


def test_scores_follow_a_crop_and_another_grid(content: Content) -> None:
    manifest = build(content, stage(conform={"shape": list(SHAPE)}, decode=SOFTMAX))
    data = np.zeros(SHAPE)
    data[4:9, 5:11, 3:8] = 1
    found = found_in(manifest, {"only": [FakeEngine(three)]}, data).choose("label-3")
    box = found.crop()
    assert np.array_equal(box.scores["label-3"].data, found.scores["label-3"].data[4:9, 5:11, 3:8])
    other = np.diag([0.5, 1, 1, 1.0])
    moved = found.like(Volume.from_array(np.zeros((32, *SHAPE[1:]), np.float32), other))
    assert np.array_equal(moved.scores["label-3"].data[::2], found.scores["label-3"].data)


def test_what_lies_outside_of_a_box_has_no_score(content: Content) -> None:
    """The last stage looks at a box of the first, and writes over its result: each label has the score of its stage."""
    box = (slice(4, 9), slice(5, 11), slice(3, 8))
    first = stage(
        "first", conform={"shape": list(SHAPE)}, decode={"kind": "argmax", "labels": [0, 1], "activation": "softmax"}
    )
    last = stage(
        "last",
        conform={"shape": [5, 6, 5]},
        region={"kind": "box-of", "stage": "first"},
        decode={"kind": "regions", "activation": "sigmoid", "regions": [{"channel": 0, "label": 2}]},
        onto="first",
    )
    engines = {"first": [FakeEngine(where(None, box))], "last": [FakeEngine(always(2.0))]}
    found = found_in(build(content, first, last), engines, noise(SHAPE))
    inside = np.zeros(SHAPE, bool)
    inside[box] = True
    assert found.scores["label-2"].data[inside] == pytest.approx(1 / (1 + np.exp(-2)), abs=1e-3)
    assert not found.scores["label-2"].data[~inside].any()
    assert found.scores["label-1"].data[inside] == pytest.approx(np.e / (1 + np.e), abs=1e-3)
    assert found.scores["label-1"].data[~inside] == pytest.approx(0.5, abs=1e-3)
    nothing = {**engines, "first": [FakeEngine(always(1.0, 0.0))]}
    empty = found_in(build(content, first, last), nothing, noise(SHAPE))
    assert not empty.scores["label-2"].data.any()


def test_scores_without_an_activation_are_kept_as_they_are_or_refused(content: Content) -> None:
    manifest = build(content, stage(conform={"shape": list(SHAPE)}))
    data = noise(SHAPE)
    found = found_in(manifest, {"only": [FakeEngine(bright)]}, data)
    assert found.scores["label-1"].data == pytest.approx(data - 0.5, abs=1e-3)
    for scores, network, said in (
        (
            "uint8",
            bright,
            "stage only: its scores lie between -0.4999 and 0.4999, and are no probabilities; keep them as float16",
        ),
        ("float16", always(0.0, 1e5), "and float16 holds none over 65504; leave scores out"),
    ):
        with pytest.raises(InputError) as caught:
            found_in(manifest, {"only": [FakeEngine(network)]}, data, scores=scores)
        assert said in str(caught.value)


def test_labels_without_scores_are_refused_before_anything_runs(content: Content) -> None:
    votes = build(
        content,
        stage(
            networks=["a", "b"],
            ensemble="vote",
            conform={"shape": list(SHAPE)},
            restore={"what": "labels", "interpolation": "nearest"},
        ),
    )
    engine = FakeEngine(bright)
    with pytest.raises(InputError, match=r"scores: stage only joins the labels of its networks \(vote\)"):
        found_in(votes, {"only": [engine, engine]}, noise(SHAPE))
    manifest = build(content, stage(conform={"shape": list(SHAPE)}))
    with pytest.raises(InputError, match="scores: found 'float32', expected float16 or uint8"):
        found_in(manifest, {"only": [engine]}, noise(SHAPE), scores="float32")
    assert not engine.seen
