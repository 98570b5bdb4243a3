"""What the networks of a stage see of a scan: orientation, views, padding, intensities, regions."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from fakes import FakeEngine
from lowres_seg.bundle.stage import NonZero
from lowres_seg.runtime.region import box_of_values
from lowres_seg.volumes.grid import Box
from stages import Content, always, bright, build, noise, predict, stage


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
    engine = FakeEngine(
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
    engines = [FakeEngine(bright) for _ in names]
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
        engine = FakeEngine(leaning)
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
    engine = FakeEngine(bright)
    found = predict(manifest, {"only": [engine]}, data).labels.data
    assert np.array_equal(found, data > 0.5)
    assert np.array_equal(engine.seen[0][0], data.transpose(2, 0, 1))
    assert np.array_equal(engine.seen[1][0], data[:, ::-1].transpose(2, 0, 1))


@pytest.mark.parametrize("axes", list(itertools.permutations(range(3))))
def test_a_stored_array_is_taken_as_it_is_in_any_order_of_axes(content: Content, axes: tuple[int, ...]) -> None:
    data = noise((4, 5, 6))
    there = data.transpose(axes)
    manifest = build(content, stage(conform={"orientation": "stored", "axes": axes, "shape": there.shape}))
    engine = FakeEngine(bright)
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
    engine = FakeEngine(bright)
    predict(manifest, {"only": [engine]}, noise((4, 5, 6)), affine=np.diag([2, 1, 0.5, 1]))
    assert len(engine.seen) == np.prod(resampled)


def test_padding_is_each_channels_minimum_or_zero_or_noise(content: Content) -> None:
    data = [2 + noise((4, 6, 6)), 5 + noise((4, 6, 6), seed=1)]
    seen = {}
    for pad in ("minimum", "zero", "noise"):
        conform = {"shape": [12, 6, 6], "pad": pad, "spacing_mm": [1, 1, 1]}
        manifest = build(content, stage(conform=conform), channels=("a", "b"))
        engines = [FakeEngine(bright), FakeEngine(bright)]
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
    engine = FakeEngine(bright)
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
        engine = FakeEngine(bright)
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
    engine = FakeEngine(always(0, 1))
    found = predict(manifest, {"only": [engine]}, a, b).labels.data
    box = (slice(2, 7), slice(3, 6), slice(4, 7))
    assert np.array_equal(engine.seen[0], np.stack([a[box], b[box]]))
    assert found[box].all()
    assert found.sum() == found[box].size


def test_the_nonzero_box_has_a_margin_within_the_scan() -> None:
    x = np.zeros((8, 8, 8), np.float32)
    x[1:3, 4, 6:8] = 1
    assert box_of_values([x], NonZero(margin_voxels=2)) == Box((0, 2, 4), (5, 7, 8))
    assert box_of_values([np.zeros((8, 8, 8), np.float32)], NonZero()) == Box((0, 0, 0), (8, 8, 8))


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

    engines = {"coarse": [FakeEngine(two_blobs)], "fine": [FakeEngine(always(0, 1))]}
    found = predict(build(content, coarse, fine), engines, noise((10, 10, 10))).labels.data
    expected = np.zeros((10, 10, 10))
    expected[box, box, box] = 1
    assert np.array_equal(found, expected)
