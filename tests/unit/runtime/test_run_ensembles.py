"""Stages with several networks: means, votes, and memory that engines use again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from fakes import FakeEngine
from lowres_seg.bundle.stage import Argmax, Regions
from lowres_seg.runtime.decode import combine, labels_of, vote
from stages import Content, always, bright, build, noise, predict, stage

WINDOWS = [None, *({"roi_size": [4, 4, 4], "weights": "constant", "rules": rules} for rules in ("monai", "nnunet"))]


def columns(*scores: Sequence[float]) -> np.ndarray:
    """Scores (C, 1, 1, voxels) of voxels, each given by its scores."""
    return np.array(scores, np.float32).T[:, None, None]


def test_the_mean_of_scores_and_that_of_probabilities_may_disagree() -> None:
    decode = Argmax(labels=(0, 1, 2), activation="softmax")
    members = [columns([10, 0, 0]), columns([0, 1.5, 0]), columns([0, 1.5, 0])]
    assert labels_of(combine(members, decode, "mean-scores"), decode).item() == 0  # 3.3 against 1
    assert labels_of(combine(members, decode, "mean-probabilities"), decode).item() == 1  # 1.31 against 1.38
    sure = Regions(activation="sigmoid", regions=({"channel": 0, "threshold": 0.6, "label": 1},))
    pair = [columns([10]), columns([-6])]
    assert labels_of(combine(pair, sure, "mean-scores"), sure).item() == 1  # sigmoid(2) = 0.88
    assert labels_of(combine(pair, sure, "mean-probabilities"), sure).item() == 0  # 0.501


def test_members_of_an_ensemble_keep_their_scores() -> None:
    decode = Argmax(labels=(0, 1), activation="softmax")
    members = [columns([1, 2]), columns([3, 1])]
    before = [member.copy() for member in members]
    for how in ("mean-scores", "mean-probabilities"):
        combine(members, decode, how)
        assert all(np.array_equal(a, b) for a, b in zip(members, before, strict=True))


def test_the_label_with_most_votes_wins_and_the_lowest_of_a_tie() -> None:
    maps = np.array([[1, 2, 0, 3, 4, 0], [2, 2, 3, 1, 4, 1], [3, 1, 3, 1, 4, 1]], np.uint8)[:, None, None]
    assert vote(list(maps)).ravel().tolist() == [1, 2, 3, 1, 4, 1]
    assert vote([maps[0], maps[1]]).ravel().tolist() == [1, 2, 0, 1, 4, 0]


@pytest.mark.parametrize("windows", WINDOWS)
@pytest.mark.parametrize(("ensemble", "expected"), [("mean-scores", 0), ("mean-probabilities", 1), ("vote", 1)])
def test_an_ensemble_goes_through_a_stage(
    content: Content, windows: dict[str, Any] | None, ensemble: str, expected: int
) -> None:
    one = stage(
        networks=["a", "b", "c"],
        conform={"shape": None if windows else [6, 6, 6]},
        windows=windows,
        ensemble=ensemble,
        decode={"kind": "argmax", "labels": [0, 1, 2], "activation": "softmax"},
        restore={"what": "labels", "interpolation": "nearest"},
    )
    engines = [FakeEngine(always(*scores)) for scores in ([10, 0, 0], [0, 1.5, 0], [0, 1.5, 0])]
    found = predict(build(content, one), {"only": engines}, noise((6, 6, 6))).labels.data
    assert (found == expected).all()


@pytest.mark.parametrize("windows", WINDOWS)
def test_a_network_may_be_in_an_ensemble_twice(content: Content, windows: dict[str, Any] | None) -> None:
    one = stage(networks=["a", "a", "b"], conform={"shape": None if windows else [6, 6, 6]}, windows=windows)
    a, b = FakeEngine(always(0, 1)), FakeEngine(always(1.5, 0))
    found = predict(build(content, one), {"only": [a, a, b]}, noise((6, 6, 6))).labels.data
    assert found.all()  # 2/3 against 1/2; once each it would be 1/2 against 3/4


@pytest.mark.parametrize(
    "changes",
    [
        {"conform": {"shape": [6, 7, 8]}, "mirror_axes": [0, 1]},
        {"conform": {}, "windows": {"roi_size": [3, 4, 5]}, "mirror_axes": [2]},
        {"conform": {}, "windows": {"roi_size": [3, 4, 5], "rules": "monai"}, "networks": ["a", "a"]},
        {"conform": {"shape": [6, 7, 8]}, "networks": ["a", "a"]},
    ],
)
def test_memory_that_the_next_run_overwrites_is_no_harm(content: Content, changes: dict[str, Any]) -> None:
    manifest = build(content, stage(**changes))
    engine = FakeEngine(bright)
    data = noise((6, 7, 8))
    data[np.abs(data - 0.5) < 0.01] = 0.6
    found = predict(manifest, {"only": [engine] * len(manifest.stages[0].networks)}, data).labels.data
    assert np.array_equal(found, data > 0.5)


@pytest.mark.parametrize("conform", [{}, {"spacing_mm": [2, 2, 2]}])
def test_stages_average_their_probabilities_on_the_scans_grid(content: Content, conform: dict[str, object]) -> None:
    """Stages of other orientations and grids; the first one alone would give other labels."""
    data = noise((8, 10, 6))
    after = {"windows": {"roi_size": [2, 2, 2], "rules": "monai"}, "restore": {"activated": "after"}}
    decode = {"kind": "argmax", "labels": [0, 1], "activation": "softmax"}
    plain = stage("plain", conform={"pad": "zero"}, decode=decode, **after)
    turned = stage("turned", conform={"orientation": "PLI", "pad": "zero", **conform}, decode=decode, **after)
    engines = {
        "plain": [FakeEngine(lambda x: np.stack([0 * x[0], 8 * (x[0] - 0.6)]))],
        "turned": [FakeEngine(always(0.0, 0.5))],
        "last": [FakeEngine(always(0.0, 0.5))],
    }
    last = {**turned, "name": "last", "networks": ["last-net"], "mean_with": ["plain", "turned"]}
    sure = 1 / (1 + np.exp(-np.array(0.5)))
    means = (1 / (1 + np.exp(-8 * (data - 0.6))) + 2 * sure) / 3
    found = predict(build(content, plain, turned, last), engines, data).labels.data
    assert np.array_equal(found, means > 0.5)
    alone = predict(build(content, plain), {"plain": engines["plain"]}, data).labels.data
    assert 0.01 < (alone != found).mean() < 0.99
