"""What is made of a result: chosen labels, a border, a box, another grid."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from lowres_seg import InputError, Volume
from lowres_seg.runtime.segmentation import Segmentation

NAMES = {1: "core", 2: "edema", 4: "rim"}
REGIONS = {"whole": (1, 2, 4), "inner": (1, 4, 9)}


def labels() -> np.ndarray:
    data = np.zeros((12, 10, 8), np.uint8)
    data[3:8, 2:7, 2:6] = 2
    data[4:7, 3:6, 3:5] = 1
    data[5, 4, 4] = 4
    return data


def result(data: np.ndarray | None = None, affine: Any = None) -> Segmentation:
    volume = Volume.from_array(labels() if data is None else data, np.eye(4) if affine is None else affine, name="case")
    return Segmentation(volume, NAMES, {}, regions=REGIONS, spread=Volume(volume.data.astype(np.float32), volume.grid))


@pytest.mark.parametrize(
    ("words", "names", "merged"),
    [
        ("edema", {2: "edema"}, {2: (2,)}),
        ("4, core", {4: "rim", 1: "core"}, {4: (4,), 1: (1,)}),
        ("rest=rim+2,core", {2: "rest", 1: "core"}, {2: (2, 4), 1: (1,)}),
        ("whole", {1: "whole"}, {1: (1, 2, 4)}),
        ("inner,edema", {1: "inner", 2: "edema"}, {1: (1, 4), 2: (2,)}),
        ("t=inner+edema", {1: "t"}, {1: (1, 2, 4)}),
    ],
)
def test_labels_are_chosen_and_merged(words: str, names: dict[int, str], merged: dict[int, tuple[int, ...]]) -> None:
    found = result().choose(words)
    assert found.label_names == names
    for value, members in merged.items():
        assert np.array_equal(found.labels.data == value, np.isin(labels(), members))
    assert set(np.unique(found.labels.data)) == {0, *merged}
    assert list(found.voxels()) == list(names.values())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            "brain",
            "labels: 'brain' is none of the bundle's, which has core (1), edema (2), rim (4); and the regions whole, inner",
        ),
        ("3", "labels: '3' is none of the bundle's"),
        ("core,core", "labels: core is named twice"),
        ("whole,rim", "labels: rim is in whole and in rim; a voxel has one label"),
        ("core+rim", "labels: 'core+rim' has no name; name what is merged: NEW=core+rim"),
        ("A=core", "labels: 'A' is no name for 'core'"),
        ("a/b=core", "labels: 'a/b' is no name"),
        ("", "labels: found '' (str), expected names such as core,edema"),
        ("core,", "labels: '' is none of the bundle's"),
        ("x=", "labels: '' is none of the bundle's"),
        (7, "labels: found 7 (int), expected names"),
    ],
)
def test_a_wrong_choice_is_told_in_one_line(words: Any, said: str) -> None:
    with pytest.raises(InputError) as caught:
        result().choose(words)
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)


def test_a_choice_that_is_not_there_is_a_doubt() -> None:
    data = labels()
    data[data == 4] = 0
    found = result(data).choose("rim")
    assert [(doubt.name, str(doubt)) for doubt in found.doubts] == [
        ("empty", "the result is empty: it has other labels than rim")
    ]
    assert result(data).choose("rim,core").doubts == ()


def test_a_border_shrinks_from_the_background_only() -> None:
    found = result().border(-1)
    assert np.array_equal(found.labels.data[4:7, 3:6, 3:5], labels()[4:7, 3:6, 3:5])
    assert found.voxels() == {"core": 17, "edema": 0, "rim": 1}
    assert [(doubt.name, str(doubt)) for doubt in found.doubts] == [
        ("label-gone", "edema is gone: a border of -1 mm has left no voxel of it")
    ]


@pytest.mark.parametrize("border_mm", [math.nan, math.inf, True, "1", None])
def test_a_border_is_a_finite_number(border_mm: Any) -> None:
    with pytest.raises(InputError, match="border_mm: found .*, expected a finite number of millimetres"):
        result().border(border_mm)


def test_an_empty_or_a_full_result_has_no_border_to_move() -> None:
    for data in (np.zeros((4, 5, 6), np.uint8), np.ones((4, 5, 6), np.uint8)):
        for border_mm in (3, -3, 0):
            assert np.array_equal(result(data).border(border_mm).labels.data, data)


def test_a_border_is_refused_where_axes_are_not_at_right_angles() -> None:
    tilted = np.eye(4)
    tilted[1, 2] = 0.3
    with pytest.raises(InputError, match=r"^case: its axes are up to 16\.7° from right angles, where a border in mm"):
        result(affine=tilted).border(1)


def test_a_crop_keeps_every_voxel_in_its_place(tmp_path: Path) -> None:
    affine = np.array([[0.0, -1.1, 0, 7], [0.9, 0, 0, -3], [0, 0, 2.5, 11], [0, 0, 0, 1]])
    for sform, qform in ((1, 0), (0, 1), (2, 1), (0, 0)):
        image = nib.Nifti1Image(labels().astype(np.float32), affine)
        image.set_sform(affine, sform)
        image.set_qform(affine, qform)
        nib.save(image, tmp_path / "scan.nii")
        scan = Volume.load(tmp_path / "scan.nii")
        whole = Volume(labels(), scan.grid, scan.header)
        found = Segmentation(whole, NAMES, {}, spread=Volume(labels().astype(np.float32), scan.grid)).crop()
        found.labels.save(tmp_path / "crop.nii", force=True)
        written = nib.load(tmp_path / "crop.nii")
        assert written.shape == found.labels.data.shape == (5, 5, 4)
        place = np.argwhere(np.asarray(written.dataobj) == 4)[0]
        assert written.affine @ [*place, 1] == pytest.approx(scan.grid.affine @ [5, 4, 4, 1], abs=1e-4)
        assert found.labels.grid.affine @ [*place, 1] == pytest.approx(scan.grid.affine @ [5, 4, 4, 1])
        assert found.spread is not None
        assert np.array_equal(found.spread.data, found.labels.data)
        if qform:
            assert written.get_qform() @ [*place, 1] == pytest.approx(affine @ [5, 4, 4, 1], abs=1e-4)


def test_a_crop_of_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="^case: its result is empty, and there is no box around it"):
        result(np.zeros((4, 5, 6), np.uint8)).crop()


def test_the_same_grid_changes_nothing() -> None:
    found = result().like(Volume(np.zeros((12, 10, 8), np.float32), result().labels.grid))
    assert np.array_equal(found.labels.data, labels())
    assert found.doubts == ()


def test_a_finer_grid_repeats_voxels_and_interpolates_other_maps() -> None:
    fine = np.diag([0.5, 0.5, 0.5, 1.0])
    fine[:3, 3] = -0.25
    found = result().like(Volume.from_array(np.zeros((24, 20, 16), np.float32), fine))
    assert np.array_equal(found.labels.data, labels().repeat(2, 0).repeat(2, 1).repeat(2, 2))
    assert found.spread is not None
    middle = found.spread.data[10:12, 8:10, 8:10]
    assert middle.min() > 1
    assert found.spread.data[0, 0, 0] == 0


def test_what_lies_beyond_the_other_grid_is_a_doubt() -> None:
    half = Volume.from_array(np.zeros((5, 10, 8), np.float32), np.eye(4), name="other")
    found = result().like(half)
    assert np.array_equal(found.labels.data, labels()[:5])
    assert [doubt.name for doubt in found.doubts] == ["beyond-the-grid", "label-gone"]
    assert str(found.doubts[0]) == "60% of what is labelled lies outside of other, whose grid the result has"
    assert str(found.doubts[1]) == "rim is gone: the grid of other has left no voxel of it"


def test_a_grid_that_shares_no_space_is_refused() -> None:
    away = np.eye(4)
    away[0, 3] = 100
    with pytest.raises(InputError, match="^case: no voxel of other lies within it"):
        result().like(Volume.from_array(np.zeros((5, 10, 8), np.float32), away, name="other"))
