"""Stages with windows: what networks see, and what becomes of their scores."""

from __future__ import annotations

import numpy as np
import pytest

from fakes import FakeEngine
from stages import Content, bright, build, noise, predict, stage, sure


@pytest.mark.parametrize("rules", ["nnunet", "monai"])
@pytest.mark.parametrize("weights", ["constant", "gaussian"])
@pytest.mark.parametrize("overlap", [0.0, 0.5, 0.75])
@pytest.mark.parametrize("roi", [(4, 5, 3), (12, 10, 9), (1, 10, 9), (5, 12, 20)])
def test_windows_give_what_one_piece_gives(
    content: Content, rules: str, weights: str, overlap: float, roi: tuple[int, ...]
) -> None:
    windows = {"roi_size": roi, "rules": rules, "weights": weights, "overlap": overlap}
    manifest = build(content, stage(conform={}, windows=windows))
    data = noise((12, 10, 9))
    engine = FakeEngine(sure)
    found = predict(manifest, {"only": [engine]}, data).labels.data
    assert np.array_equal(found, data > 0.5)
    assert {x.shape for x in engine.seen} == {(1, *roi)}


def test_where_windows_meet_scores_are_averaged(content: Content) -> None:
    windows = {"roi_size": [4, 4, 4], "weights": "constant", "overlap": 0.5, "rules": "monai"}
    decode = {"kind": "regions", "regions": [{"channel": 0, "threshold": 0.6, "label": 1}]}
    manifest = build(content, stage(conform={}, windows=windows, decode=decode))
    along = np.array([1, 1, 0.4, 0.4])[:, None, None]  # of the first half of a window it is sure, of the second not
    engine = FakeEngine(lambda x: np.broadcast_to(along, x.shape))
    found = predict(manifest, {"only": [engine]}, noise((8, 4, 4))).labels.data
    # Windows at 0, 2 and 4: planes 0 and 1 are seen once, as a first half; 2 to 5 as both: 0.7; 6 and 7 as a second.
    assert found[:, 0, 0].tolist() == [1, 1, 1, 1, 1, 1, 0, 0]
    assert len(engine.seen) == 3


def test_a_region_smaller_than_a_window_is_padded_to_one(content: Content) -> None:
    manifest = build(content, stage(conform={"pad": "zero"}, windows={"roi_size": [8, 8, 8]}))
    data = 1 + noise((5, 8, 3))
    engine = FakeEngine(bright)
    found = predict(manifest, {"only": [engine]}, data).labels.data
    assert found.shape == (5, 8, 3)
    assert found.all()
    (seen,) = engine.seen
    assert np.array_equal(seen[0, 1:6, :, 2:5], data)
    assert np.count_nonzero(seen) == data.size


def test_labels_of_windows_are_restored_by_nearest(content: Content) -> None:
    restore = {"what": "labels", "interpolation": "nearest"}
    conform = {"spacing_mm": [1, 1, 1]}
    windows = {"roi_size": [4, 4, 4], "rules": "monai"}
    manifest = build(content, stage(conform=conform | {"interpolation": "nearest"}, windows=windows, restore=restore))
    data = noise((4, 5, 6))
    found = predict(manifest, {"only": [FakeEngine(bright)]}, data, affine=np.diag([2.0, 2.0, 2.0, 1.0])).labels.data
    assert np.array_equal(found, data > 0.5)
