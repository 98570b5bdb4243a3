from __future__ import annotations

import numpy as np
import pytest

from fakes import FakeEngine
from lowres_seg.bundle.rules import FillHoles, LargestComponent, SmallComponents, SmallLabel
from lowres_seg.runtime.cleanup import clean, fill_holes, keep_largest
from stages import Content, build, noise, predict, stage, where


def shell() -> np.ndarray:
    labels = np.zeros((9, 9, 9), np.uint8)
    labels[1:8, 1:8, 1:8] = 1
    labels[3:6, 3:6, 3:6] = 0
    return labels


def test_the_largest_component_stays() -> None:
    labels = np.zeros((8, 8, 8), np.uint8)
    labels[0:2, 0:2, 0:2] = 1
    labels[4:7, 4:7, 4:7] = 2
    labels[4, 4, 4] = 1
    found = keep_largest(labels, 26)
    assert (found[4:7, 4:7, 4:7] == labels[4:7, 4:7, 4:7]).all()
    assert found.sum() == labels[4:7, 4:7, 4:7].sum()


def test_of_components_of_one_size_the_first_or_all_stay() -> None:
    labels = np.zeros((8, 8, 8), np.uint8)
    labels[0, 0, :3] = labels[7, 7, :3] = 1
    labels[4, 4, :2] = 1
    (first,) = np.nonzero(clean(labels, [LargestComponent()], 1.0).any(axis=(1, 2)))
    assert first.tolist() == [0]
    assert np.nonzero(clean(labels, [LargestComponent(ties="all")], 1.0).any(axis=(1, 2)))[0].tolist() == [0, 7]


@pytest.mark.parametrize(("connectivity", "voxels"), [(6, 27), (18, 27), (26, 35)])
def test_connectivity_decides_whether_corners_touch(connectivity: int, voxels: int) -> None:
    labels = np.zeros((8, 8, 8), np.uint8)
    labels[0:3, 0:3, 0:3] = 1
    labels[3:5, 3:5, 3:5] = 1
    assert np.count_nonzero(keep_largest(labels, connectivity)) == voxels


def test_nothing_stays_nothing() -> None:
    nothing = np.zeros((4, 4, 4), np.uint8)
    assert not clean(nothing, [LargestComponent(), FillHoles()], 1.0).any()


def test_a_cavity_is_filled_in_3d() -> None:
    assert fill_holes(shell(), FillHoles()).sum() == 7**3


def test_a_tunnel_is_filled_only_slice_by_slice() -> None:
    labels = shell()
    labels[4, 4, :] = 0  # opens the cavity along axis 2
    assert fill_holes(labels, FillHoles())[4, 4, 4] == 0
    assert (fill_holes(labels, FillHoles(slices_along=2))[4, 4, 1:8] == 1).all()
    assert fill_holes(labels, FillHoles(slices_along=2))[0].sum() == 0


def test_another_label_in_a_hole_is_kept() -> None:
    labels = shell()
    labels[4, 4, 4] = 3
    found = fill_holes(labels, FillHoles(label=1))
    assert found[4, 4, 4] == 3
    assert np.count_nonzero(found == 1) == 7**3 - 1


def test_the_given_array_is_not_changed() -> None:
    labels = shell()
    clean(labels, [FillHoles(), LargestComponent()], 1.0)
    assert (labels == shell()).all()


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
        found = clean(of_counts(label4=count, label1=50, label2=7), [rule], 1.0)
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
    found = clean(labels, [rule], 1.0)
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
    assert np.array_equal(clean(labels, [rule], 1.0), expected)
    expected[10:15, 10:15, 10:18][labels[10:15, 10:15, 10:18] == 4] = becomes
    expected[15, 15, 18] = becomes
    assert np.array_equal(clean(labels, [rule.model_copy(update={"connectivity": 6})], 1.0), expected)


def test_no_component_is_none_too_small() -> None:
    labels = of_counts(label1=30)
    assert np.array_equal(clean(labels, [SmallComponents(label=4, fewer_than=9)], 1.0), labels)


def test_clean_up_is_a_stages_own(content: Content) -> None:
    rules = [{"rule": "small-label", "label": 4, "fewer_than": 20, "becomes": 1}]
    decode = {"kind": "argmax", "labels": [0, 4]}
    manifest = build(content, stage(conform={"shape": [6, 6, 6]}, decode=decode, cleanup=rules))
    for planes, label in ((slice(0, 1), 4), (slice(0, 0), 0)):
        engine = FakeEngine(where(None, (planes,)))
        assert predict(manifest, {"only": [engine]}, noise((6, 6, 6))).labels.data.max() == label
    few = FakeEngine(where(None, (slice(0, 1), slice(0, 2), slice(0, 3))))
    found = predict(manifest, {"only": [few]}, noise((6, 6, 6))).labels.data
    assert np.array_equal(np.unique(found, return_counts=True), [[0, 1], [210, 6]])


def test_a_bound_in_mm3_counts_by_the_volume_of_a_voxel() -> None:
    labels = of_components(3, 4)
    rule = SmallComponents(label=1, fewer_than=7, unit="mm3")
    assert np.array_equal(clean(labels, [rule], 2.0), of_components(0, 4))
    assert not clean(labels, [rule], 1.0).any()
    assert np.array_equal(clean(labels, [rule], 2.5), labels)


def of_components(*sizes: int) -> np.ndarray:
    """A line of label 1 for each size."""
    labels = np.zeros((9, 3 * len(sizes), 3), np.uint8)
    for place, size in enumerate(sizes):
        labels[:size, 3 * place, 1] = 1
    return labels


def test_the_largest_of_each_label_and_of_labels_together() -> None:
    labels = np.zeros((12, 5, 5), np.uint8)
    labels[0:4, 0, 0], labels[6:8, 0, 0] = 1, 1
    labels[4:6, 0, 0], labels[0:3, 3, 3] = 2, 2
    each = clean(labels, [LargestComponent(each=True)], 1.0)
    assert [(each[:, 0, 0] == value).sum() for value in (1, 2)] == [4, 0]
    assert (each[:, 3, 3] == 2).sum() == 3
    together = clean(labels, [LargestComponent()], 1.0)
    assert [(together[:, 0, 0] == value).sum() for value in (1, 2)] == [6, 2]
    assert not together[:, 3, 3].any()
    only_two = clean(labels, [LargestComponent(labels=(2,))], 1.0)
    assert np.array_equal(only_two == 1, labels == 1)
    assert (only_two == 2).sum() == 3
    assert np.array_equal(clean(labels, [LargestComponent(labels=(1,), count=2)], 1.0), labels)
