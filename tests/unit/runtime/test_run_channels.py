"""Networks of one stage that take some of a scan's channels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fakes import FakeEngine
from lowres_seg import Manifest
from lowres_seg.bundle.words import sentences
from lowres_seg.runtime.placement import Placement
from lowres_seg.volumes.grid import Grid
from stages import Content, bright, build, noise, predict, stage

CHANNELS = ("t1", "t1c", "t2", "flair")
SIDES = (6, 5, 7)
WINDOWS = [None, {"roi_size": [3, 4, 5], "weights": "constant", "rules": "monai"}, {"roi_size": [4, 4, 4]}]


def single(windows: dict[str, Any] | None, **changes: Any) -> dict[str, Any]:
    """A stage of four networks, each of one channel, whose sigmoids are averaged."""
    return stage(
        **{
            "networks": list(CHANNELS),
            "inputs": {name: [name] for name in CHANNELS},
            "conform": {"shape": None if windows else SIDES},
            "windows": windows,
            "ensemble": "mean-probabilities",
            "decode": {
                "kind": "regions",
                "activation": "sigmoid",
                "regions": [{"channel": 0, "threshold": 0.5, "label": 1}],
            },
            **changes,
        }
    )


@pytest.mark.parametrize("windows", WINDOWS)
@pytest.mark.parametrize("lean", [False, True])
def test_sigmoids_of_single_channel_networks_are_averaged(
    content: Content, windows: dict[str, Any] | None, lean: bool
) -> None:
    data = [noise(SIDES, seed) for seed in range(4)]
    gains = (1.0, -2.0, 3.0, 0.5)
    engines = [FakeEngine(lambda x, g=gain: g * (x - 0.5), lean=lean) for gain in gains]
    found = predict(build(content, single(windows), channels=CHANNELS), {"only": engines}, *data).labels.data
    mean = np.mean([1 / (1 + np.exp(-g * (x - 0.5))) for g, x in zip(gains, data, strict=True)], axis=0)
    sure = np.abs(mean - 0.5) > 1e-3  # nnU-Net's sums are of half precision
    assert sure.mean() > 0.9
    assert np.array_equal(found[sure], mean[sure] > 0.5)
    assert all(seen.shape[0] == 1 for engine in engines for seen in engine.seen)
    if windows is None:
        assert all(np.array_equal(e.seen[0][0], x) for e, x in zip(engines, data, strict=True))


def test_a_network_takes_its_channels_in_its_order_and_the_masks_behind_them(content: Content) -> None:
    data = [noise((4, 4, 4), seed) for seed in range(3)]
    first = stage("first", conform={"shape": [4, 4, 4]})
    second = stage(
        "second",
        networks=["all", "two"],
        inputs={"two": ["flair", "t1"]},
        conform={"shape": [4, 4, 4]},
        mask_channels=[{"stage": "first"}],
    )
    every, two = FakeEngine(bright), FakeEngine(bright)
    manifest = build(content, first, second, channels=("t1", "t2", "flair"))
    predict(manifest, {"first": [FakeEngine(bright)], "second": [every, two]}, *data)
    mask = data[0] > 0.5
    assert np.array_equal(every.seen[0], [*data, mask])
    assert np.array_equal(two.seen[0], [data[2], data[0], mask])
    assert manifest.networks["all"].input_shape[1] == 4
    assert manifest.networks["two"].input_shape[1] == 3
    assert "all, two (of flair and t1)" in " ".join(sentences(manifest.stages[1]))


def test_a_network_of_other_channels_than_the_stage_gives_is_refused(content: Content) -> None:
    made = build(content, single(None), channels=CHANNELS).model_dump()
    del made["stages"][0]["inputs"]["t2"]
    with pytest.raises(ValueError, match=r"network t2 takes \(1, 1, 6, 5, 7\), stage only gives it \(1, 4, 6, 5, 7\)"):
        Manifest.model_validate(made)


def test_memory_counts_the_channels_of_the_network_that_takes_most(content: Content) -> None:
    windows = {"roi_size": [4, 4, 4]}
    grid = Grid((6, 6, 6), np.eye(4))
    shared, own = single(windows, inputs={}), single(windows)
    counted = [
        Placement.of(build(content, one, channels=CHANNELS).stages[0], grid).array_bytes(4, 1, in_turn=False)
        for one in (shared, own)
    ]
    # Four channels of a window in float32, against one that is picked and turned.
    assert counted[0] - counted[1] == 4 * (4 - 2) * 4**3
