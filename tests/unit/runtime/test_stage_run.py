"""Stages at work, with engines that are functions: what networks see, and what becomes of their scores."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest
from openvino import opset13 as opset

from lowres_seg import EngineError, Manifest, Segmenter, Volume
from lowres_seg.bundle.rules import SmallComponents, SmallLabel
from lowres_seg.bundle.stage import Argmax, NonZero, Regions, Stage
from lowres_seg.runtime import interpolation
from lowres_seg.runtime.cleanup import clean
from lowres_seg.runtime.decode import combine, labels_of, select, vote
from lowres_seg.runtime.engine import Engine, OpenVinoEngine, TransientEngine
from lowres_seg.runtime.region import box_of_nonzero
from lowres_seg.runtime.segmenter import Segmentation
from lowres_seg.volumes.grid import Box

Content = Callable[..., dict[str, Any]]
ONE = {"kind": "argmax", "labels": [0, 1]}
IDENTITY = np.eye(4)


class Function:
    """An engine that applies a function to (C, D, H, W), and remembers what it was given."""

    def __init__(self, function: Callable[[np.ndarray], np.ndarray]) -> None:
        self.function = function
        self.seen: list[np.ndarray] = []

    def run(self, x: np.ndarray) -> np.ndarray:
        assert x.flags.c_contiguous
        self.seen.append(x[0].copy())
        return np.asarray(self.function(x[0]), np.float32)[None]


def bright(x: np.ndarray) -> np.ndarray:
    """Scores of background and of what is above a half, in every voxel by itself."""
    return np.stack([0.5 - x[0], x[0] - 0.5])


def sure(x: np.ndarray) -> np.ndarray:
    """As `bright`, with scores of 1 and -1: weights that half precision hardly holds leave them their sign."""
    return np.sign(bright(x))


def always(*scores: float) -> Callable[[np.ndarray], np.ndarray]:
    """The same scores everywhere."""
    return lambda x: np.ones((len(scores), *x.shape[1:])) * np.reshape(scores, (-1, 1, 1, 1))


def where(*boxes: tuple[slice, ...] | None) -> Callable[[np.ndarray], np.ndarray]:
    """Scores of 1 in one box for each channel, 0 elsewhere."""

    def function(x: np.ndarray) -> np.ndarray:
        scores = np.zeros((len(boxes), *x.shape[1:]))
        for channel, box in zip(scores, boxes, strict=True):
            if box is not None:
                channel[box] = 1
        return scores

    return function


def stage(name: str = "only", **changes: Any) -> dict[str, Any]:
    return {"name": name, "networks": [f"{name}-net"], "decode": ONE, **changes}


def build(content: Content, *stages: dict[str, Any], channels: Sequence[str] = ("t1",), top: int = 4) -> Manifest:
    """A manifest of stages, whose networks take what they are given."""
    parsed = [Stage.model_validate(one) for one in stages]
    networks = {
        name: {
            **content()["networks"]["net"],
            "input_shape": list(one.input_shape(name, len(channels))),
        }
        for one in parsed
        for name in one.networks
    }
    return Manifest.model_validate(
        content(
            schema_version=2,
            channels=list(channels),
            labels=[{"value": value, "name": f"label-{value}"} for value in range(1, top + 1)],
            stages=list(stages),
            networks=networks,
        )
    )


def predict(
    manifest: Manifest, engines: Mapping[str, Sequence[Engine]], *data: np.ndarray, affine: np.ndarray = IDENTITY
) -> Segmentation:
    volumes = [Volume.from_array(np.asarray(array, np.float32), affine) for array in data]
    scan: Any = volumes[0] if len(volumes) == 1 else dict(zip(manifest.channels, volumes, strict=True))
    return Segmenter(manifest, engines, threads=1).predict(scan)


def noise(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(shape, dtype=np.float32)


# -- windows ---------------------------------------------------------------------------------------------------------


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
    engine = Function(sure)
    found = predict(manifest, {"only": [engine]}, data).labels.data
    assert np.array_equal(found, data > 0.5)
    assert {x.shape for x in engine.seen} == {(1, *roi)}


def test_where_windows_meet_scores_are_averaged(content: Content) -> None:
    windows = {"roi_size": [4, 4, 4], "weights": "constant", "overlap": 0.5, "rules": "monai"}
    decode = {"kind": "regions", "regions": [{"channel": 0, "threshold": 0.6, "label": 1}]}
    manifest = build(content, stage(conform={}, windows=windows, decode=decode))
    along = np.array([1, 1, 0.4, 0.4])[:, None, None]  # of the first half of a window it is sure, of the second not
    engine = Function(lambda x: np.broadcast_to(along, x.shape))
    found = predict(manifest, {"only": [engine]}, noise((8, 4, 4))).labels.data
    # Windows at 0, 2 and 4: planes 0 and 1 are seen once, as a first half; 2 to 5 as both: 0.7; 6 and 7 as a second.
    assert found[:, 0, 0].tolist() == [1, 1, 1, 1, 1, 1, 0, 0]
    assert len(engine.seen) == 3


def test_a_region_smaller_than_a_window_is_padded_to_one(content: Content) -> None:
    manifest = build(content, stage(conform={"pad": "zero"}, windows={"roi_size": [8, 8, 8]}))
    data = 1 + noise((5, 8, 3))
    engine = Function(bright)
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
    found = predict(manifest, {"only": [Function(bright)]}, data, affine=np.diag([2.0, 2.0, 2.0, 1.0])).labels.data
    assert np.array_equal(found, data > 0.5)


# -- what networks see -----------------------------------------------------------------------------------------------


def oriented(data: np.ndarray, orientation: str) -> np.ndarray:
    """RAS data in two other orientations, by hand."""
    if orientation == "SPL":
        return data.transpose(2, 1, 0)[:, ::-1, ::-1]
    assert orientation == "LPS"
    return data[::-1, ::-1]


VIEWS = {
    ("SPL", "axial"): (0, 1, 2),
    ("SPL", "coronal"): (1, 0, 2),
    ("SPL", "sagittal"): (2, 0, 1),
    ("LPS", "axial"): (2, 0, 1),
    ("LPS", "coronal"): (1, 0, 2),
    ("LPS", "sagittal"): (0, 1, 2),
}


@pytest.mark.parametrize(("orientation", "view"), VIEWS)
def test_a_view_looks_along_its_axis_and_the_mask_comes_back(content: Content, orientation: str, view: str) -> None:
    data = noise((4, 5, 6))
    there = oriented(data, orientation)
    conform = {"orientation": orientation, "shape": there.shape}
    manifest = build(content, stage(conform=conform, views={"only-net": view}))
    # Only in the second slice of the view, and so that the other two axes show as well.
    engine = Function(
        lambda x: bright(x) * (np.arange(x.shape[1]) == 1)[:, None, None] + np.reshape([0.01, 0], (2, 1, 1, 1))
    )
    found = predict(manifest, {"only": [engine]}, data).labels.data
    order = VIEWS[orientation, view]
    assert np.array_equal(engine.seen[0][0], there.transpose(order))
    slices = {"axial": (2, "S"), "coronal": (1, "A"), "sagittal": (0, "R")}
    axis, positive = slices[view]
    runs_up = positive in orientation
    expected = np.zeros(data.shape, bool)
    place = [slice(None)] * 3
    place[axis] = slice(1, 2) if runs_up else slice(data.shape[axis] - 2, data.shape[axis] - 1)
    expected[tuple(place)] = data[tuple(place)] > 0.51
    assert np.array_equal(found, expected)


def test_views_of_an_ensemble_meet_in_windows(content: Content) -> None:
    names = ["a", "b", "c"]
    one = stage(
        networks=names,
        views={"a": "axial", "b": "coronal", "c": "sagittal"},
        conform={"orientation": "SPL"},
        windows={"roi_size": [4, 3, 2], "rules": "monai"},
    )
    manifest = build(content, one)
    assert [manifest.networks[name].input_shape[2:] for name in names] == [(4, 3, 2), (3, 4, 2), (2, 4, 3)]
    data = noise((6, 7, 9))
    engines = [Function(bright) for _ in names]
    assert np.array_equal(predict(manifest, {"only": engines}, data).labels.data, data > 0.5)


def test_mirrored_windows_are_mirrored_back_and_averaged(content: Content) -> None:
    shape = (4, 5, 6)
    decode = {"kind": "regions", "regions": [{"channel": 0, "threshold": 0.5, "label": 1}]}
    data = noise(shape)
    data[np.abs(data - 0.5) < 1e-3] = 0

    def leaning(x: np.ndarray) -> np.ndarray:
        i, _, k = np.indices(shape)
        return x + (i - 1.5) + 3 * (k - 2.5)

    def labels(**changes: Any) -> tuple[np.ndarray, list[np.ndarray]]:
        engine = Function(leaning)
        manifest = build(content, stage(conform={"shape": shape}, decode=decode, **changes))
        return predict(manifest, {"only": [engine]}, data).labels.data, engine.seen

    plain, _ = labels()
    assert not np.array_equal(plain, data > 0.5)
    found, seen = labels(mirror_axes=[0, 2])
    assert np.array_equal(found, data > 0.5)  # what leans one way leans the other in the mirror
    assert len(seen) == 4
    flips = [data, data[::-1], data[:, :, ::-1], data[::-1, :, ::-1]]
    assert all(any(np.array_equal(x[0], flipped) for x in seen) for flipped in flips)
    half, seen = labels(mirror_axes=[0])
    assert not np.array_equal(half, data > 0.5)
    assert len(seen) == 2


def test_mirror_axes_are_those_of_the_grid_in_a_view_too(content: Content) -> None:
    shape = (4, 5, 6)
    manifest = build(content, stage(conform={"shape": shape}, views={"only-net": "axial"}, mirror_axes=[1]))
    data = noise(shape)
    engine = Function(bright)
    found = predict(manifest, {"only": [engine]}, data).labels.data
    assert np.array_equal(found, data > 0.5)
    assert np.array_equal(engine.seen[0][0], data.transpose(2, 0, 1))
    assert np.array_equal(engine.seen[1][0], data[:, ::-1].transpose(2, 0, 1))


@pytest.mark.parametrize("axes", list(itertools.permutations(range(3))))
def test_a_stored_array_is_taken_as_it_is_in_any_order_of_axes(content: Content, axes: tuple[int, ...]) -> None:
    data = noise((4, 5, 6))
    there = data.transpose(axes)
    manifest = build(content, stage(conform={"orientation": "stored", "axes": axes, "shape": there.shape}))
    engine = Function(bright)
    affine = np.array([[0, 0, -2.0, 5], [1.0, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]])  # no orientation to speak of
    found = predict(manifest, {"only": [engine]}, data, affine=affine)
    assert np.array_equal(engine.seen[0][0], there)
    assert np.array_equal(found.labels.data, data > 0.5)


@pytest.mark.parametrize(("axes", "resampled"), [((0, 1, 2), (8, 5, 3)), ((2, 0, 1), (3, 8, 5))])
def test_the_spacing_of_a_stored_array_follows_its_axes(
    content: Content, axes: tuple[int, ...], resampled: tuple[int, ...]
) -> None:
    conform = {"orientation": "stored", "axes": axes, "spacing_mm": [1, 1, 1], "interpolation": "nearest"}
    manifest = build(content, stage(conform=conform, windows={"roi_size": [1, 1, 1], "overlap": 0}))
    engine = Function(bright)
    predict(manifest, {"only": [engine]}, noise((4, 5, 6)), affine=np.diag([2, 1, 0.5, 1]))
    assert len(engine.seen) == np.prod(resampled)


def test_padding_is_each_channels_minimum_or_zero_or_noise(content: Content) -> None:
    data = [2 + noise((4, 6, 6)), 5 + noise((4, 6, 6), seed=1)]
    seen = {}
    for pad in ("minimum", "zero", "noise"):
        conform = {"shape": [12, 6, 6], "pad": pad, "spacing_mm": [1, 1, 1]}
        manifest = build(content, stage(conform=conform), channels=("a", "b"))
        engines = [Function(bright), Function(bright)]
        for engine in engines:
            predict(manifest, {"only": [engine]}, *data)
        assert np.array_equal(engines[0].seen[0], engines[1].seen[0])
        seen[pad] = engines[0].seen[0]
        assert np.array_equal(seen[pad][:, 4:8], np.stack(data))
    for index, channel in enumerate(data):
        assert (seen["minimum"][index, :4] == channel.min()).all()
        around = np.concatenate([seen["noise"][index, :4], seen["noise"][index, 8:]])
        assert abs(around.mean()) < 0.25
        assert 0.8 < around.std() < 1.2
    assert not seen["zero"][:, :4].any()
    assert not seen["zero"][:, 8:].any()


def test_zeros_go_around_what_is_normalised_already(content: Content) -> None:
    """Scaled after padding, zeros would no longer be zero."""
    conform = {"shape": [12, 6, 6], "pad": "zero", "spacing_mm": [1, 1, 1]}
    manifest = build(content, stage(conform=conform, normalise={"rules": [{"rule": "affine", "shift": 7}]}))
    engine = Function(bright)
    data = noise((4, 6, 6))
    predict(manifest, {"only": [engine]}, data)
    assert np.allclose(engine.seen[0][0, 4:8], data + 7)
    assert not engine.seen[0][:, :4].any()


def test_intensities_are_normalised_before_or_after_they_are_conformed(content: Content) -> None:
    data = noise((4, 4, 4))
    rule = {"rule": "percentile-scale", "lower": 0, "upper": 100}
    seen = {}
    for when in ("before-conform", "after-conform"):
        conform = {"shape": [2, 2, 2], "interpolation": "linear"}
        manifest = build(content, stage(conform=conform, normalise={"when": when, "rules": [rule]}))
        engine = Function(bright)
        predict(manifest, {"only": [engine]}, data)
        seen[when] = engine.seen[0]
    means = data.reshape(2, 2, 2, 2, 2, 2).mean(axis=(1, 3, 5))
    assert np.allclose(seen["before-conform"][0], (means - data.min()) / np.ptp(data), atol=1e-5)
    assert np.allclose(seen["after-conform"][0], (means - means.min()) / np.ptp(means), atol=1e-5)


def test_the_nonzero_region_is_the_box_around_every_channel(content: Content) -> None:
    a, b = np.zeros((2, 10, 10, 10), np.float32)
    a[2:5, 3:6, 4:7] = 1
    b[4:7, 3, 4] = -1
    manifest = build(content, stage(region={"kind": "nonzero"}, conform={"shape": [5, 3, 3]}), channels=("a", "b"))
    engine = Function(always(0, 1))
    found = predict(manifest, {"only": [engine]}, a, b).labels.data
    box = (slice(2, 7), slice(3, 6), slice(4, 7))
    assert np.array_equal(engine.seen[0], np.stack([a[box], b[box]]))
    assert found[box].all()
    assert found.sum() == found[box].size


def test_the_nonzero_box_has_a_margin_within_the_scan() -> None:
    x = np.zeros((8, 8, 8), np.float32)
    x[1:3, 4, 6:8] = 1
    assert box_of_nonzero([x], NonZero(margin_voxels=2)) == Box((0, 2, 4), (5, 7, 8))
    assert box_of_nonzero([np.zeros((8, 8, 8), np.float32)], NonZero()) == Box((0, 0, 0), (8, 8, 8))


@pytest.mark.parametrize(("largest", "box"), [(False, slice(1, 9)), (True, slice(1, 5))])
def test_a_box_is_around_all_of_a_result_or_its_largest_component(content: Content, largest: bool, box: slice) -> None:
    coarse = stage("coarse", conform={"shape": [10, 10, 10]}, restore={"what": "nothing"})
    region = {"kind": "box-of", "stage": "coarse", "largest": largest}
    fine = stage("fine", region=region, conform={"shape": [4, 4, 4]})

    def two_blobs(x: np.ndarray) -> np.ndarray:
        found = np.zeros(x.shape[1:])
        found[1:5, 1:5, 1:5] = 1
        found[8, 8, 8] = 1
        return np.stack([0.5 - found, found - 0.5])

    engines = {"coarse": [Function(two_blobs)], "fine": [Function(always(0, 1))]}
    found = predict(build(content, coarse, fine), engines, noise((10, 10, 10))).labels.data
    expected = np.zeros((10, 10, 10))
    expected[box, box, box] = 1
    assert np.array_equal(found, expected)


# -- ensembles -------------------------------------------------------------------------------------------------------


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
    engines = [Function(always(*scores)) for scores in ([10, 0, 0], [0, 1.5, 0], [0, 1.5, 0])]
    found = predict(build(content, one), {"only": engines}, noise((6, 6, 6))).labels.data
    assert (found == expected).all()


@pytest.mark.parametrize("windows", WINDOWS)
def test_a_network_may_be_in_an_ensemble_twice(content: Content, windows: dict[str, Any] | None) -> None:
    one = stage(networks=["a", "a", "b"], conform={"shape": None if windows else [6, 6, 6]}, windows=windows)
    a, b = Function(always(0, 1)), Function(always(1.5, 0))
    found = predict(build(content, one), {"only": [a, a, b]}, noise((6, 6, 6))).labels.data
    assert found.all()  # 2/3 against 1/2; once each it would be 1/2 against 3/4


class Reused:
    """An engine whose result is memory that its next run overwrites, as OpenVINO's is."""

    def __init__(self, function: Callable[[np.ndarray], np.ndarray]) -> None:
        self.function = function
        self.memory: np.ndarray | None = None

    def run(self, x: np.ndarray) -> np.ndarray:
        result = np.asarray(self.function(x[0]), np.float32)[None]
        self.memory = np.empty_like(result) if self.memory is None else self.memory
        self.memory[:] = result
        return self.memory


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
    engine = Reused(bright)
    data = noise((6, 7, 8))
    data[np.abs(data - 0.5) < 0.01] = 0.6
    found = predict(manifest, {"only": [engine] * len(manifest.stages[0].networks)}, data).labels.data
    assert np.array_equal(found, data > 0.5)


# -- stages that follow each other -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("labels", "mask"), [([], [1, 2]), ([1], [1]), ([2, 3], [2])])
def test_a_network_sees_the_mask_of_another_stage(content: Content, labels: list[int], mask: list[int]) -> None:
    first = stage("first", conform={"shape": [6, 6, 6]}, decode={"kind": "argmax", "labels": [0, 1, 2, 3]})
    masks = [{"stage": "first", "labels": labels}]
    second = stage("second", conform={"orientation": "LPS", "shape": [12, 6, 8]}, mask_channels=masks)
    engine = Function(always(0, 1))
    coarse = Function(where(None, (slice(0, 2),), (slice(3, 4), slice(2, 5)), None))
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
    engine = Function(always(0, 1))
    engines = {"first": [Function(always(0, 1))], "second": [engine]}
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
    engines = {"first": [Function(where(None, box))], "second": [Function(where(None, (slice(1, 2),)))]}
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
    engine = Function(always(1, 0))
    engines = {"first": [Function(always(0, 1))], "second": [Function(always(0, 1))], "third": [engine]}
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
    engine = Function(always(0, 1))
    kept = Function(where(None, (slice(0, 3),)))
    engines = {"keep": [kept], "first": [Function(always(1, 0))], "second": [engine]}
    result = predict(build(content, keep, first, second), engines, noise((6, 6, 6)))
    assert engine.seen == []
    assert "stage second has nothing to look at: the one before it found no foreground" in result.doubts
    assert ("the result is empty" in result.doubts) == (onto is None)
    assert np.array_equal(np.unique(result.labels.data), [0] if onto is None else [0, 2])
    assert result.labels.data.sum() == (0 if onto is None else 2 * 3 * 36)


def test_an_empty_mask_is_a_channel_of_zeros(content: Content) -> None:
    first = stage("first", conform={"shape": [4, 4, 4]})
    second = stage("second", conform={"shape": [4, 4, 4]}, mask_channels=[{"stage": "first"}])
    engine = Function(bright)
    data = noise((4, 4, 4))
    result = predict(build(content, first, second), {"first": [Function(always(1, 0))], "second": [engine]}, data)
    assert not engine.seen[0][1].any()
    assert np.array_equal(result.labels.data, data > 0.5)
    assert result.doubts == ()


# -- labels ----------------------------------------------------------------------------------------------------------

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
    found = predict(manifest, {"only": [Function(lambda x: scores)]}, noise((8, 1, 1))).labels.data
    assert found.ravel().tolist() == list(BRATS.values())


def test_a_region_within_another_heeds_that_ones_threshold() -> None:
    decode = Regions(
        regions=(
            {"channel": 0, "threshold": 0.8, "label": 2},
            {"channel": 1, "threshold": 0.2, "label": 4, "within": (0,)},
        )
    )
    scores = columns([0.7, 0.3], [0.9, 0.3], [0.9, 0.1])
    assert labels_of(select(scores, decode), decode).ravel().tolist() == [0, 4, 2]


def of_counts(**voxels: int) -> np.ndarray:
    """A label map with so many voxels of each label, in runs."""
    labels = np.zeros((40, 40, 40), np.uint8)
    flat = labels.reshape(-1)
    start = 0
    for name, count in voxels.items():
        flat[start : start + count] = int(name.removeprefix("label"))
        start += count + 100
    return labels


@pytest.mark.parametrize("limit", [200, 1000])
def test_a_small_label_becomes_another(limit: int) -> None:
    rule = SmallLabel(label=4, fewer_than=limit, becomes=1)
    for count, expected in ((limit - 1, (limit - 1 + 50, 0)), (limit, (50, limit))):
        found = clean(of_counts(label4=count, label1=50, label2=7), [rule])
        assert (np.count_nonzero(found == 1), np.count_nonzero(found == 4)) == expected
        assert np.count_nonzero(found == 2) == 7


@pytest.mark.parametrize(
    ("enhancing", "necrotic", "suppressed"),
    [(129, 16955, True), (130, 16955, False), (129, 16954, False), (1, 17500, True), (500, 0, False), (5, 0, False)],
)
def test_a_small_label_beside_a_large_one(enhancing: int, necrotic: int, suppressed: bool) -> None:
    """A decision tree: enhancing tumor of at most 129.5 voxels beside necrosis of more than 16954."""
    rule = SmallLabel(label=4, fewer_than=129.5, becomes=1, beside=1, beside_more_than=16954)
    labels = of_counts(label4=enhancing, label1=necrotic)
    found = clean(labels, [rule])
    assert np.count_nonzero(found == 4) == (0 if suppressed else enhancing)
    assert np.count_nonzero(found) == enhancing + necrotic
    assert np.count_nonzero(labels == 4) == enhancing  # what was given stays


@pytest.mark.parametrize("becomes", [0, 1])
def test_small_components_change_each_by_itself(becomes: int) -> None:
    labels = np.zeros((20, 20, 20), np.uint8)
    labels[0:6, 0:6, 0:6] = 4  # 216 voxels
    labels[10:15, 10:15, 10:18] = 4  # 200
    labels[10, 10, 9] = 2  # touches, and is another label
    labels[18:20, 0:5, 0:5] = 4  # 50
    labels[15, 15, 18] = 4  # touches the second in a corner
    rule = SmallComponents(label=4, fewer_than=201, becomes=becomes)
    expected = labels.copy()
    expected[18:20, 0:5, 0:5] = becomes
    assert np.array_equal(clean(labels, [rule]), expected)
    expected[10:15, 10:15, 10:18][labels[10:15, 10:15, 10:18] == 4] = becomes
    expected[15, 15, 18] = becomes
    assert np.array_equal(clean(labels, [rule.model_copy(update={"connectivity": 6})]), expected)


def test_no_component_is_none_too_small() -> None:
    labels = of_counts(label1=30)
    assert np.array_equal(clean(labels, [SmallComponents(label=4, fewer_than=9)]), labels)


def test_clean_up_is_a_stages_own(content: Content) -> None:
    rules = [{"rule": "small-label", "label": 4, "fewer_than": 20, "becomes": 1}]
    decode = {"kind": "argmax", "labels": [0, 4]}
    manifest = build(content, stage(conform={"shape": [6, 6, 6]}, decode=decode, cleanup=rules))
    for planes, label in ((slice(0, 1), 4), (slice(0, 0), 0)):
        engine = Function(where(None, (planes,)))
        assert predict(manifest, {"only": [engine]}, noise((6, 6, 6))).labels.data.max() == label
    few = Function(where(None, (slice(0, 1), slice(0, 2), slice(0, 3))))
    found = predict(manifest, {"only": [few]}, noise((6, 6, 6))).labels.data
    assert np.array_equal(np.unique(found, return_counts=True), [[0, 1], [210, 6]])


# -- numbers ---------------------------------------------------------------------------------------------------------


def test_classes_give_numbers_and_no_mask(content: Content) -> None:
    decode = {"kind": "classes", "activation": "softmax", "names": ["low", "high"]}
    one = stage(conform={"shape": [4, 4, 4]}, decode=decode, restore={"what": "nothing"}, networks=["a", "b"])
    manifest = build(content, one | {"mirror_axes": [0]}, top=0)
    given = [np.reshape(scores, (2, 1, 1, 1)) for scores in ([1.0, 2.0], [3.0, 0.0])]
    engines = [Function(lambda x, s=scores: s) for scores in given]
    result = predict(manifest, {"only": engines}, noise((4, 4, 4)))
    high = 1 / (1 + np.exp(2 - 1))  # of the mean scores 2 and 1
    assert result.numbers == {"low": pytest.approx(1 - high), "high": pytest.approx(high)}
    assert not result.labels.data.any()
    assert result.doubts == ()
    assert len(engines[0].seen) == 2
    likely = build(content, one | {"ensemble": "mean-probabilities"}, top=0)
    result = predict(likely, {"only": engines}, noise((4, 4, 4)))
    assert result.numbers["high"] == pytest.approx(np.mean([1 / (1 + np.exp(-1)), 1 / (1 + np.exp(3))]))


def test_classes_stand_beside_a_mask(content: Content) -> None:
    decode = {"kind": "classes", "activation": "none", "names": ["volume"]}
    first = stage("first", conform={"shape": [4, 4, 4]}, decode=decode, restore={"what": "nothing"})
    second = stage("second", conform={"shape": [4, 4, 4]})
    data = noise((4, 4, 4))
    total = Function(lambda x: x.sum().reshape(1, 1, 1, 1))
    result = predict(build(content, first, second), {"first": [total], "second": [Function(bright)]}, data)
    assert result.numbers == {"volume": pytest.approx(data.sum(), rel=1e-5)}
    assert np.array_equal(result.labels.data, data > 0.5)


def test_scores_of_voxels_are_no_classes(content: Content) -> None:
    decode = {"kind": "classes", "names": ["low", "high"]}
    one = stage(conform={"shape": [4, 4, 4]}, decode=decode, restore={"what": "nothing"})
    with pytest.raises(EngineError, match=r"gave \(1, 2, 4, 4, 4\)"):
        predict(build(content, one, top=0), {"only": [Function(bright)]}, noise((4, 4, 4)))


# -- there and back --------------------------------------------------------------------------------------------------


def smooth(shape: tuple[int, int, int]) -> np.ndarray:
    i, j, k = (np.linspace(-1, 1, n) for n in shape)
    return np.asarray(1.5 - i[:, None, None] ** 2 - j[:, None] ** 2 - 1.5 * k**2 + 0.2 * i[:, None, None], np.float32)


def test_scores_return_before_or_after_they_are_activated(content: Content) -> None:
    """Cubic to 2 mm, scores 9 (x - 0.5), back by linear: by hand, axis after axis."""
    data = smooth((16, 18, 14))
    decode = {"kind": "regions", "activation": "sigmoid", "regions": [{"channel": 0, "threshold": 0.8, "label": 1}]}
    low = data.astype(np.float64)
    for axis in range(3):
        low = np.moveaxis(
            np.tensordot(interpolation.cubic(data.shape[axis], data.shape[axis] // 2), low, (1, axis)), 0, axis
        )
    low = low.clip(data.min(), data.max())

    def returned(x: np.ndarray) -> np.ndarray:
        for axis in range(3):
            x = np.moveaxis(np.tensordot(interpolation.linear(x.shape[axis], data.shape[axis]), x, (1, axis)), 0, axis)
        return x

    def sigmoid(x: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-x))

    expected = {"before": returned(sigmoid(9 * (low - 0.5))), "after": sigmoid(returned(9 * (low - 0.5)))}
    found = {}
    for activated, probabilities in expected.items():
        conform = {"spacing_mm": [2, 2, 2], "interpolation": "cubic", "shape": [8, 9, 7]}
        manifest = build(content, stage(conform=conform, decode=decode, restore={"activated": activated}))
        engine = Function(lambda x: 9 * (x - 0.5))
        found[activated] = predict(manifest, {"only": [engine]}, data).labels.data
        assert np.allclose(engine.seen[0][0], low, atol=1e-4)
        far = np.abs(probabilities - 0.8) > 1e-3
        assert np.array_equal(found[activated][far], probabilities[far] > 0.8)
        assert 0.05 < found[activated].mean() < 0.95
    assert not np.array_equal(found["before"], found["after"])


@pytest.mark.parametrize("activated", ["before", "after"])
@pytest.mark.parametrize("rules", ["nnunet", "monai"])
def test_windows_on_another_grid_return_to_the_scans_own(content: Content, activated: str, rules: str) -> None:
    data = smooth((16, 18, 14))
    one = stage(
        conform={"spacing_mm": [2, None, 1.5], "interpolation": "cubic"},
        windows={"roi_size": [4, 6, 5], "rules": rules},
        decode={"kind": "argmax", "labels": [0, 1], "activation": "softmax"},
        restore={"activated": activated},
    )
    found = predict(build(content, one), {"only": [Function(bright)]}, data).labels.data
    far = np.abs(data - 0.5) > 0.1  # off the surface, where a coarser grid decides
    assert far.mean() > 0.8
    assert np.array_equal(found[far], data[far] > 0.5)
    assert 0.1 < found.mean() < 0.9


# -- engines ---------------------------------------------------------------------------------------------------------


def write_leaning(path: Path, shift: int, shape: Sequence[int]) -> Path:
    """IR of a network of two scores, of which one looks at a neighbour along the first axis."""
    x = opset.parameter([1, 1, *shape], np.float32)
    kernel = np.zeros((2, 1, 3, 1, 1), np.float32)
    kernel[0, 0, 1], kernel[1, 0, 1 + shift], kernel[1, 0, 1] = 0.9, 0.8, 0.1
    scores = opset.convolution(x, opset.constant(kernel), [1] * 3, [1, 0, 0], [1, 0, 0], [1] * 3)
    openvino.save_model(openvino.Model([scores], [x], path.stem), path, compress_to_fp16=False)
    return path


@pytest.mark.parametrize("ensemble", ["mean-scores", "mean-probabilities", "vote"])
@pytest.mark.parametrize("windows", [None, {"rules": "nnunet"}, {"rules": "monai", "overlap": 0.25}])
def test_lean_and_resident_engines_give_the_same(
    content: Content, tmp_path: Path, windows: dict[str, Any] | None, ensemble: str
) -> None:
    size = [6, 5, 8]
    one = stage(
        networks=["up", "down"],
        conform={} if windows else {"shape": size},
        windows={"roi_size": size, **windows} if windows else None,
        ensemble=ensemble,
        mirror_axes=[1],
        decode={"kind": "argmax", "labels": [0, 1], "activation": "softmax"},
        restore={"what": "labels", "interpolation": "nearest"},
    )
    manifest = build(content, one)
    xmls = [write_leaning(tmp_path / f"{name}.xml", shift, size) for name, shift in (("up", 1), ("down", -1))]
    data = noise((11, 12, 13))
    found = {}
    for kind in (OpenVinoEngine, TransientEngine):
        engines = [kind(xml, threads=1, inference_precision="f32") for xml in xmls]
        found[kind] = predict(manifest, {"only": engines}, data).labels.data
        assert kind is OpenVinoEngine or all(engine._engine is None for engine in engines)
    assert np.array_equal(found[OpenVinoEngine], found[TransientEngine])
    assert 0.05 < found[OpenVinoEngine].mean() < 0.95
