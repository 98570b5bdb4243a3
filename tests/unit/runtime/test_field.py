"""Scans larger than the field of a network: what it did not see is background, and a doubt says so."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fakes import FakeEngine
from stages import Content, always, build, noise, predict, stage

MM2 = np.diag([2.0, 2.0, 2.0, 1.0])
RESTORES: dict[str, dict[str, Any]] = {
    "labels": {"what": "labels", "interpolation": "nearest"},
    "labels, rounded": {"what": "labels", "interpolation": "linear", "rounding": "nearest"},
    "scores": {"what": "scores", "interpolation": "linear"},
    "scores by nearest": {"what": "scores", "interpolation": "nearest"},
    "scores, activated after": {"what": "scores", "interpolation": "linear", "activated": "after"},
    "scores by splines": {"what": "scores", "interpolation": "spline-3"},
}


def seen_of(found: np.ndarray) -> tuple[slice, ...]:
    """The box of the label, which must fill it."""
    places = np.nonzero(found)
    box = tuple(slice(int(at.min()), int(at.max()) + 1) for at in places)
    assert found[box].all()
    return box


@pytest.mark.parametrize("restore", RESTORES)
@pytest.mark.parametrize("orientation", ["RAS", "PIL"])
def test_what_a_network_did_not_see_is_background(content: Content, restore: str, orientation: str) -> None:
    conform = {"orientation": orientation, "shape": [16, 16, 16], "spacing_mm": [2, 2, 2], "pad": "zero"}
    manifest = build(content, stage(conform=conform, restore=RESTORES[restore]), version=3)
    result = predict(manifest, {"only": [FakeEngine(always(-1, 1))]}, noise((24, 10, 17)), affine=MM2)
    i, j, k = seen_of(result.labels.data)
    assert (i.stop - i.start, j.stop - j.start, k.stop - k.start) == (16, 10, 16)
    (doubt,) = [doubt for doubt in result.doubts if doubt.name == "beyond-the-field"]
    assert "larger than the field of the network (32×32×32 mm)" in doubt
    assert f"{24 * 10 * 17 - 16 * 10 * 16} of {24 * 10 * 17} voxels were not seen" in doubt


@pytest.mark.parametrize("restore", RESTORES)
def test_a_voxel_of_the_scan_is_seen_if_its_centre_is_in_a_voxel_of_the_network(content: Content, restore: str) -> None:
    conform = {"shape": [8, 8, 8], "spacing_mm": [3, 3, 3], "pad": "zero"}
    manifest = build(content, stage(conform=conform, restore=RESTORES[restore]), version=3)
    # 36 voxels of 1 mm are 12 of 3 mm, of which the network sees those from 2 to 10: 6 mm to 30 mm.
    found = predict(manifest, {"only": [FakeEngine(always(-1, 1))]}, noise((36, 24, 25))).labels.data
    assert seen_of(found) == (slice(6, 30), slice(0, 24), slice(0, 25))


def test_a_scan_within_the_field_is_seen_to_its_border(content: Content) -> None:
    conform = {"shape": [8, 8, 8], "spacing_mm": [3, 3, 3], "pad": "zero"}
    manifest = build(content, stage(conform=conform))
    # 25 mm are rounded to 8 voxels of 3 mm: half a millimetre at each end is not cut off.
    result = predict(manifest, {"only": [FakeEngine(always(-1, 1))]}, noise((25, 23, 24)))
    assert result.labels.data.all()
    assert result.doubts == ()


@pytest.mark.parametrize(
    "conform",
    [
        {"at_most": [8, 8, 8], "spacing_mm": [None, None, None], "pad": "zero"},
        {"shape": [8, 8, 8], "spacing_mm": [1, 1, 1], "pad": "zero", "convention": "monai"},
        {"shape": [8, 8, 8], "spacing_mm": [1, 1, 1], "pad": "zero", "pad_side": "end"},
        {"shape": [8, 8, 8], "spacing_mm": [1, 1, 1], "pad": "zero", "orientation": "stored", "axes": [2, 0, 1]},
        {"shape": [8, 8, 8], "spacing_mm": [1, 1, 1]},
    ],
)
def test_every_way_to_crop_is_a_field(content: Content, conform: dict[str, Any]) -> None:
    windows = {"roi_size": [8, 8, 8], "rules": "monai"}
    manifest = build(content, stage(conform=conform, windows=windows), version=3)
    result = predict(manifest, {"only": [FakeEngine(always(-1, 1))]}, noise((11, 8, 7)))
    i, j, k = seen_of(result.labels.data)
    assert (i.stop - i.start, j, k) == (8, slice(0, 8), slice(0, 7))
    assert "264" not in result.doubts[0]
    assert f"{3 * 56} of {11 * 56} voxels were not seen" in result.doubts[0]


def test_what_a_crop_leaves_out_is_background_and_no_doubt(content: Content) -> None:
    conform = {"spacing_mm": [None, None, None], "pad": "zero", "crop": {"above": 0.5}}
    windows = {"roi_size": [4, 4, 4], "rules": "monai"}
    manifest = build(content, stage(conform=conform, windows=windows), version=3)
    data = np.zeros((12, 12, 12))
    data[3:9, 4:10, 2:7] = 1
    result = predict(manifest, {"only": [FakeEngine(always(-1, 1))]}, data)
    assert seen_of(result.labels.data) == (slice(3, 9), slice(4, 10), slice(2, 7))
    assert result.doubts == ()


@pytest.mark.parametrize(
    "decode",
    [
        {"kind": "argmax", "labels": [1, 0]},
        {"kind": "regions", "regions": [{"channel": 1, "threshold": 0.3, "label": 1}], "activation": "sigmoid"},
        {"kind": "regions", "regions": [{"channel": 1, "threshold": -0.5, "label": 1}]},
    ],
)
def test_zeros_outside_are_background_however_they_are_decoded(content: Content, decode: dict[str, Any]) -> None:
    conform = {"shape": [8, 8, 8], "spacing_mm": [1, 1, 1], "pad": "zero"}
    restore = {"outside": "zero", "activated": "after"}
    manifest = build(content, stage(conform=conform, decode=decode, restore=restore), version=3)
    scores = (1, -1) if decode["kind"] == "argmax" else (-1, 1)
    found = predict(manifest, {"only": [FakeEngine(always(*scores))]}, noise((12, 8, 8))).labels.data
    assert seen_of(found) == (slice(2, 10), slice(0, 8), slice(0, 8))


def test_scores_that_a_later_stage_averages_say_nothing_of_what_was_not_seen(content: Content) -> None:
    conform = {"shape": [8, 8, 8], "spacing_mm": [1, 1, 1], "pad": "zero"}
    decode = {"kind": "regions", "regions": [{"channel": 0, "threshold": 0.4, "label": 1}]}
    late = {"decode": decode, "restore": {"activated": "after"}}
    first = stage("first", conform=conform, **late)
    second = stage("second", conform=conform | {"shape": [12, 8, 8]}, mean_with=["first"], **late)
    manifest = build(content, first, second, version=3)
    engines = {"first": [FakeEngine(always(1))], "second": [FakeEngine(always(0))]}
    result = predict(manifest, engines, noise((12, 8, 8)))
    assert seen_of(result.labels.data) == (slice(2, 10), slice(0, 8), slice(0, 8))
    assert [doubt[:11] for doubt in result.doubts if doubt.name == "beyond-the-field"] == ["stage first"]
