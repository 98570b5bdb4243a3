"""Networks that see slices: along several axes, in windows of their own order, and with the slices beside them."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest

from fakes import FakeEngine
from lowres_seg import Manifest
from lowres_seg.bundle.words import sentences
from lowres_seg.runtime.placement import Placement
from lowres_seg.volumes.grid import Grid
from stages import Content, build, noise, predict, stage

VIEWS = {"a": "axial", "c": "coronal", "s": "sagittal"}
#: Order of the axes of each member's array, in the orientation RAS.
ORDERS = {"a": (2, 0, 1), "c": (1, 0, 2), "s": (0, 1, 2)}
SIDES = (6, 8, 7)
ROI = (1, 5, 4)


def brighter_than_its_window(x: np.ndarray) -> np.ndarray:
    """Scores that depend on all voxels of a window."""
    return np.stack([x[0].mean() - x[0], x[0] - x[0].mean()])


def average(data: np.ndarray, order: tuple[int, ...], function: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Scores (2, *data.shape) of windows of ROI in the order of an array, half overlapping, equally weighted."""
    turned = data.transpose(order)
    total, count = np.zeros((2, *turned.shape)), np.zeros(turned.shape)
    starts = [
        sorted({min(first, n - roi) for first in range(0, n, max(1, roi // 2))})
        for n, roi in zip(turned.shape, ROI, strict=True)
    ]
    for at in product(*starts):
        box = tuple(slice(first, first + n) for first, n in zip(at, ROI, strict=True))
        total[(slice(None), *box)] += function(turned[box][None])
        count[box] += 1
    return (total / count).transpose(0, *(1 + order.index(axis) for axis in range(3)))


def views(ensemble: str, rules: str = "monai") -> dict[str, Any]:
    return stage(
        networks=list(VIEWS),
        views=VIEWS,
        conform={},
        windows={"roi_size": ROI, "axes": "view", "weights": "constant", "rules": rules},
        ensemble=ensemble,
        decode={"kind": "argmax", "labels": [0, 1], "activation": "softmax"},
        restore={"what": "labels", "interpolation": "nearest"},
    )


@pytest.mark.parametrize("lean", [False, True])
@pytest.mark.parametrize("ensemble", ["mean-scores", "mean-probabilities", "vote"])
def test_members_see_slices_along_three_axes(content: Content, ensemble: str, lean: bool) -> None:
    data = noise(SIDES)
    engines = [FakeEngine(brighter_than_its_window, lean=lean) for _ in VIEWS]
    manifest = build(content, views(ensemble), version=3)
    assert {name: network.input_shape for name, network in manifest.networks.items()} == dict.fromkeys(
        VIEWS, (1, 1, *ROI)
    )
    found = predict(manifest, {"only": engines}, data).labels.data
    scores = [average(data, ORDERS[name], brighter_than_its_window) for name in VIEWS]
    if ensemble == "vote":
        margin = np.sum([np.sign(one[1] - one[0]) for one in scores], axis=0)
    elif ensemble == "mean-scores":
        margin = np.mean(scores, axis=0)[1] - np.mean(scores, axis=0)[0]
    else:
        margin = np.mean([1 / (1 + np.exp(one[0] - one[1])) for one in scores], axis=0) - 0.5
    sure = np.abs(margin) > 1e-5
    assert sure.mean() > 0.99
    assert np.array_equal(found[sure], margin[sure] > 0)
    assert all(seen.shape == (1, *ROI) for engine in engines for seen in engine.seen)


def test_slices_of_three_views_are_summed_in_half_precision_as_nnunets_are(content: Content) -> None:
    """Positions of nnU-Net: slices do not overlap, windows within them do."""
    data = noise((5, 5, 5))
    one = views("mean-scores", "nnunet")
    one["windows"] = {**one["windows"], "roi_size": [1, 5, 5]}
    engines = [FakeEngine(brighter_than_its_window) for _ in VIEWS]
    found = predict(build(content, one, version=3), {"only": engines}, data).labels.data
    margin = sum(data - data.mean(axis=tuple(other for other in range(3) if other != axis), keepdims=True) for axis in range(3))  # fmt: skip
    sure = np.abs(margin) > 0.01
    assert np.array_equal(found[sure], margin[sure] > 0)
    assert [len(engine.seen) for engine in engines] == [5, 5, 5]


def test_sums_are_whole_for_each_member_whose_windows_lie_elsewhere(content: Content) -> None:
    grid = Grid(SIDES, np.eye(4))
    apart, alike = views("mean-scores"), views("mean-scores")
    alike["windows"] = {**alike["windows"], "axes": "grid"}
    sums = [Placement.of(build(content, one, version=3).stages[0], grid).sums(in_turn=False) for one in (apart, alike)]
    assert [(one.count, one.planes) for one in sums] == [(3, 6), (1, 1)]
    assert "in windows of 1×5×4 voxels of each view" in " ".join(sentences(build(content, apart, version=3).stages[0]))


def padded(data: list[np.ndarray], axis: int, slices: int, beyond: str) -> np.ndarray:
    """Channels (C, I, J, K) with slices before the first and after the last one, by numpy."""
    widths = [(slices, slices) if at == axis else (0, 0) for at in range(3)]
    if beyond == "mean":
        return np.stack([np.pad(one, widths, constant_values=one.mean(dtype=np.float64)) for one in data])
    return np.stack([np.pad(one, widths, mode="edge" if beyond == "edge" else "constant") for one in data])


@pytest.mark.parametrize("beyond", ["zero", "edge", "mean"])
@pytest.mark.parametrize("by", ["slice", "channel"])
@pytest.mark.parametrize("view", [None, "axial", "coronal"])
def test_a_network_sees_the_slices_beside_its_own(content: Content, view: str | None, by: str, beyond: str) -> None:
    data = [noise((4, 5, 3), seed) for seed in range(2)]
    axis, roi = {None: (0, (1, 5, 3)), "axial": (2, (1, 4, 5)), "coronal": (1, (1, 4, 3))}[view]
    neighbours = 2
    one = stage(
        conform={},
        views={} if view is None else {"only-net": view},
        windows={
            "roi_size": roi,
            "axes": "view",
            "neighbours": neighbours,
            "neighbours_by": by,
            "beyond": beyond,
            "rules": "monai",
        },
    )
    manifest = build(content, one, channels=("t1", "t2"), version=3)
    assert manifest.networks["only-net"].input_shape == (1, 10, *roi)
    own = 4 if by == "slice" else 2  # place of t1 in the slice itself
    engine = FakeEngine(lambda x: np.stack([0.5 - x[own], x[own] - 0.5]))
    found = predict(manifest, {"only": [engine]}, *data).labels.data
    assert np.array_equal(found, data[0] > 0.5)
    wide = np.moveaxis(padded(data, axis, neighbours, beyond), 1 + axis, 1)
    assert len(engine.seen) == data[0].shape[axis]
    for place, seen in enumerate(engine.seen):
        near = wide[:, place : place + 5]
        stacked = near.transpose(1, 0, 2, 3) if by == "slice" else near
        assert np.allclose(seen, stacked.reshape(10, *roi), atol=1e-6)


def test_a_mirrored_network_sees_its_neighbours_in_the_other_order(content: Content) -> None:
    data = noise((4, 3, 3))
    windows = {"roi_size": [1, 3, 3], "neighbours": 1, "beyond": "edge", "rules": "monai"}
    engine = FakeEngine(lambda x: np.stack([0.5 - x[0:1, 0], x[0:1, 0] - 0.5]))
    manifest = build(content, stage(conform={}, windows=windows, mirror_axes=[0]), version=3)
    found = predict(manifest, {"only": [engine]}, data).labels.data
    wide = np.pad(data, [(1, 1), (0, 0), (0, 0)], mode="edge")
    assert np.array_equal(found, (wide[:-2] + wide[2:]) / 2 > 0.5)
    assert np.array_equal(engine.seen[1][:, 0], engine.seen[0][::-1, 0])


def test_neighbours_and_channels_of_a_network_are_counted_together(content: Content) -> None:
    windows = {"roi_size": [1, 4, 4], "neighbours": 1, "rules": "monai"}
    one = stage(networks=["x", "y"], inputs={"x": ["t2"]}, conform={}, windows=windows)
    manifest: Manifest = build(content, one, channels=("t1", "t2"), version=3)
    assert [manifest.networks[name].input_shape[1] for name in ("x", "y")] == [3, 6]
    assert "each with the slice on either side" in " ".join(sentences(manifest.stages[0]))
