from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fakes import FakeEngine
from lowres_seg import EngineError
from lowres_seg.bundle.stage import Regions, Stage
from lowres_seg.runtime.decode import labels_of, select
from stages import Content, build, noise, predict, stage


def decode(scores: list[list[float]], **rule: Any) -> list[int]:
    """Labels of voxels, each given by its scores."""
    parsed = Stage.model_fields  # the rule is parsed as a stage parses it
    assert "decode" in parsed
    stage = Stage(name="s", networks=("n",), conform={"shape": (1, 1, 1)}, decode=rule)
    x = np.array(scores, np.float32).T[:, :, None, None]
    return labels_of(select(x, stage.decode), stage.decode).ravel().tolist()


def test_argmax_maps_channels_to_labels() -> None:
    assert decode([[3, 1, 2], [0, 5, 1], [0, 1, 2]], kind="argmax", labels=[0, 1, 4]) == [0, 1, 4]


def test_a_threshold_is_exceeded_not_met() -> None:
    rule = {"kind": "regions", "regions": [{"channel": 1, "threshold": 0.5, "label": 1}]}
    assert decode([[0.9, 0.5], [0.1, 0.51]], **rule) == [0, 1]


def test_regions_are_painted_in_order() -> None:
    """WT, TC, ET as BraTS nests them: 2, then 1, then 4 on top."""
    regions = [{"channel": c, "label": label} for c, label in ((0, 2), (1, 1), (2, 4))]
    scores = [[0, 0, 0], [1, 0, 0], [1, 1, 0], [1, 1, 1], [0, 0, 1]]
    assert decode(scores, kind="regions", regions=regions) == [0, 2, 1, 4, 4]


def test_sigmoid_and_softmax() -> None:
    one = [{"channel": 1, "threshold": 0.6, "label": 1}]
    assert decode(
        [[0, 0.3], [0, 0.5], [-900, 900], [900, -900]], kind="regions", activation="sigmoid", regions=one
    ) == [
        0,
        1,
        1,
        0,
    ]
    assert decode([[0, 0.3], [0, 0.5], [9000, 9001]], kind="regions", activation="softmax", regions=one) == [0, 1, 1]


def test_channels_need_not_be_neighbours() -> None:
    regions = [{"channel": 3, "label": 2}, {"channel": 0, "label": 1}]
    assert decode([[0, 9, 9, 1], [1, 9, 9, 1], [0, 9, 9, 0]], kind="regions", regions=regions) == [2, 1, 0]


def test_a_channel_that_is_not_there_is_an_error() -> None:
    with pytest.raises(EngineError, match="channel 2 is to be decoded, the network gives 2"):
        decode([[0, 1]], kind="argmax", labels=[0, 1, 2])


#: Labels for whole tumor, tumor core and enhancing tumor, each there or not: 0, 1, 2 and 4 as BraTS has them.
BRATS = {
    (0, 0, 0): 0, (1, 0, 0): 2, (0, 1, 0): 1, (1, 1, 0): 1,
    (0, 0, 1): 0, (1, 0, 1): 4, (0, 1, 1): 4, (1, 1, 1): 4,
}  # fmt: skip


def test_regions_painted_within_others_are_the_table_of_brats(content: Content) -> None:
    regions = [
        {"channel": 0, "label": 2},
        {"channel": 1, "label": 1},
        {"channel": 2, "label": 4, "within": [0, 1]},
    ]
    decode = {"kind": "regions", "regions": regions}
    manifest = build(content, stage(conform={"shape": [8, 1, 1]}, decode=decode))
    scores = np.array(list(BRATS), np.float32).T[:, :, None, None]
    found = predict(manifest, {"only": [FakeEngine(lambda x: scores)]}, noise((8, 1, 1))).labels.data
    assert found.ravel().tolist() == list(BRATS.values())


def test_a_region_within_another_heeds_that_ones_threshold() -> None:
    decode = Regions(
        regions=(
            {"channel": 0, "threshold": 0.8, "label": 2},
            {"channel": 1, "threshold": 0.2, "label": 4, "within": (0,)},
        )
    )
    scores = np.array([[0.7, 0.3], [0.9, 0.3], [0.9, 0.1]], np.float32).T[:, None, None]
    assert labels_of(select(scores, decode), decode).ravel().tolist() == [0, 4, 2]
