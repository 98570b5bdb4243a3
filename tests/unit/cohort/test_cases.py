from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lowres_seg import Grid, InputError, Volume
from lowres_seg.cohort.cases import Cases, check_ignored, fingerprint, left_out
from lowres_seg.metrics.agreement import score
from lowres_seg.volumes.grid import Reorientation


@pytest.fixture
def folder(tmp_path: Path, lopsided: Callable[..., Volume]) -> Path:
    (tmp_path / "scans").mkdir()
    for name in ("a", "b"):
        scan = lopsided(seed=ord(name))
        scan.save(tmp_path / "scans" / f"{name}.nii.gz")
        Volume((scan.data > 0.5).astype(np.uint8), scan.grid).save(tmp_path / "scans" / f"{name}_label.nii.gz")
    return tmp_path


def table(folder: Path, text: str, name: str = "cases.csv") -> Path:
    (folder / name).write_text(text)
    return folder / name


def test_reads_a_table_relative_to_itself(folder: Path) -> None:
    text = "id,t1,label\none,scans/a.nii.gz,scans/a_label.nii.gz\ntwo,scans/b.nii.gz,\n"
    one, two = Cases.read(table(folder, text), ["t1"])
    assert (one.id, two.id) == ("one", "two")
    assert one.scan == {"t1": folder / "scans" / "a.nii.gz"}
    assert two.label is None
    scan = one.load()["t1"]
    label = one.load_label([1], scan)
    assert label is not None
    assert np.array_equal(label, scan.data > 0.5)


def test_tabs_byte_order_marks_and_missing_ids_are_fine(folder: Path) -> None:
    path = table(folder, "\ufefft1\tlabel\nscans/a.nii.gz\t\n", "cases.tsv")
    assert [case.id for case in Cases.read(path, ["t1"])] == ["a.nii.gz"]


def test_blanks_around_a_name_belong_to_it_where_a_file_has_them(folder: Path) -> None:
    scan = folder / "scans" / "a.nii.gz"
    for name in (" a.nii.gz", "a.nii.gz "):
        (folder / name).write_bytes(scan.read_bytes())
    path = table(folder, "id,t1\none, a.nii.gz\ntwo,a.nii.gz \nthree, scans/b.nii.gz \n")
    files = [case.scan["t1"] for case in Cases.read(path, ["t1"])]
    assert files == [folder / " a.nii.gz", folder / "a.nii.gz ", folder / "scans" / "b.nii.gz"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has the columns none; expected t1"),
        ("t1,label\n", "holds no case"),
        ("t2\nscans/a.nii.gz\n", "has the columns t2; expected t1"),
        ("t1,t2\nscans/a.nii.gz,scans/b.nii.gz\n", "has the columns t1, t2"),
        ("t1\nscans/none.nii\n", "line 2, column t1: .*none.nii does not exist"),
        ("t1,label\nscans/a.nii.gz,none.nii\n", "line 2, column label"),
        ("t1,label\nscans/a.nii.gz\n", "line 2 has another number of fields"),
        ("t1\nscans/a.nii.gz,extra\n", "line 2 has another number of fields"),
        ("t1,label\n,scans/a_label.nii.gz\n", "names no file for channel t1"),
        ("id,t1\nx,scans/a.nii.gz\nx,scans/b.nii.gz\n", "case x is there twice"),
    ],
)
def test_bad_tables_are_refused(folder: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Cases.read(table(folder, text), ["t1"])


def test_a_missing_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read as a table"):
        Cases.read(tmp_path / "none.csv", ["t1"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: Volume(v.data[:-1], Volume.from_array(v.data[:-1], v.grid.affine).grid), "lies on another grid"),
        (lambda v: Volume(v.data, _moved(v, 1.0)), r"first voxel at .* 1 mm apart"),
        (lambda v: Volume(v.data * 7, v.grid), r"holds values .* does not know: 7 in \d+ voxels; it writes 1;"),
        (lambda v: Volume(_with(v, 4), v.grid), r"does not know: 4 in 3 voxels; it writes 1; .*--ignore-label 4"),
        (lambda v: Volume(_with(v, 4.0000005), v.grid), "does not know: 4 in 3 voxels"),
        (lambda v: Volume(_with(v, -1), v.grid), "does not know: -1 in 3 voxels"),
        (lambda v: Volume(_with(v, 300), v.grid), "does not know: 300 in 3 voxels"),
        (lambda v: Volume(v.data * np.float32(0.5), v.grid), r"is no label map: it holds 0.5 in \d+ voxels"),
        (lambda v: Volume(_with(v, 1.0011), v.grid), r"is no label map: it holds 1\.001\d* in 3 voxels"),
        (lambda v: Volume(_with(v, np.nan), v.grid), "is no label map: it holds nan in 3 voxels"),
        (lambda v: Volume(_with(v, np.inf), v.grid), "is no label map: it holds inf in 3 voxels"),
    ],
)
def test_bad_labels_are_refused(folder: Path, change: Callable[[Volume], Volume], message: str) -> None:
    path = folder / "scans" / "a_label.nii.gz"
    change(Volume.load(path)).save(path, force=True)
    (case,) = Cases.read(table(folder, "t1,label\nscans/a.nii.gz,scans/a_label.nii.gz\n"), ["t1"])
    with pytest.raises(InputError, match=message):
        case.load_label([1], case.load()["t1"])


def _moved(volume: Volume, mm: float) -> Grid:
    affine = volume.grid.affine.copy()
    affine[2, 3] += mm
    return Grid(volume.grid.shape, affine)


def _with(volume: Volume, value: float) -> np.ndarray:
    data = volume.data.copy()
    data[0, 0, :3] = value
    return data


def test_labels_that_are_nearly_whole_numbers_are_rounded(folder: Path) -> None:
    path = folder / "scans" / "a_label.nii.gz"
    volume = Volume.load(path)
    Volume(volume.data * np.float32(1.0009) + np.float32(1e-7), volume.grid).save(path, force=True)
    (case,) = Cases.read(table(folder, "t1,label\nscans/a.nii.gz,scans/a_label.nii.gz\n"), ["t1"])
    assert np.array_equal(case.load_label([1], case.load()["t1"]), volume.data)


@pytest.mark.parametrize("value", [255, 4, 1000, -1])
def test_voxels_of_an_ignored_label_are_left_out_of_both(folder: Path, value: int) -> None:
    path = folder / "scans" / "a_label.nii.gz"
    volume = Volume.load(path)
    Volume(_with(volume, value), volume.grid).save(path, force=True)
    (case,) = Cases.read(table(folder, "t1,label\nscans/a.nii.gz,scans/a_label.nii.gz\n"), ["t1"])
    truth = case.load_label([1], case.load()["t1"], ignore=[value])
    assert truth is not None
    assert np.count_nonzero(truth == left_out([1])) == 3
    found = volume.data.astype(np.uint8)
    found[0, 0, :3] = 1  # wrong, if these voxels counted
    spacing = volume.grid.spacing_mm
    assert score(found, truth, {"a": [1]}, spacing, left_out=left_out([1]))["a"] == (1.0, 0.0)
    assert score(found, truth, {"a": [1]}, spacing)["a"].dice < 1


def test_a_label_of_the_bundle_cannot_be_ignored() -> None:
    check_ignored([255, 4], [1, 2, 3])
    for value, words in ((2, "a label of the bundle"), (0, "the background")):
        with pytest.raises(InputError, match=f"--ignore-label {value}: is {words}"):
            check_ignored([255, value], [1, 2, 3])
    assert left_out([1, 255]) == 254


def test_an_empty_label_map_is_one(folder: Path) -> None:
    path = folder / "scans" / "a_label.nii.gz"
    volume = Volume.load(path)
    Volume(np.zeros_like(volume.data, np.uint8), volume.grid).save(path, force=True)
    (case,) = Cases.read(table(folder, "t1,label\nscans/a.nii.gz,scans/a_label.nii.gz\n"), ["t1"])
    label = case.load_label([1], case.load()["t1"])
    assert label is not None
    assert not label.any()


def test_a_fingerprint_is_of_the_content(lopsided: Callable[..., Volume]) -> None:
    scan = lopsided()
    there = Reorientation(scan.grid, "LIA")
    turned = Volume(np.ascontiguousarray(there.apply(scan.data)), there.result, name="another name")
    assert fingerprint({"t1": scan}) == fingerprint({"t1": turned})
    changed = scan.data.copy()
    changed[0, 0, 0] += 1
    assert fingerprint({"t1": scan}) != fingerprint({"t1": Volume(changed, scan.grid)})
    assert fingerprint({"t1": scan}) != fingerprint({"t2": scan})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mr,label,label\na.nii,b.nii,c.nii\n", "each once"),
        ("mr,mr\na.nii,b.nii\n", "each once"),
        ("mr,id\na.nii," + "x" * 200_000 + "\n", "cannot be read (field larger than"),
    ],
)
def test_a_table_that_says_a_thing_twice_or_too_long_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "c.csv").write_text(text)
    with pytest.raises(InputError, match=re.escape(message)):
        Cases.read(tmp_path / "c.csv", ["mr"])


@pytest.mark.parametrize(
    ("classes", "words", "truths"),
    [
        (("lgg", "hgg"), "lgg,HGG, hgg ,", ["lgg", "hgg", "hgg", None]),
        (("hgg",), "hgg,not-hgg,Not-HGG,1,0,1.0,0.0,", ["hgg", "not-hgg", "not-hgg", "hgg", "not-hgg", "hgg", "not-hgg", None]),
        (("0", "1"), "1,0", ["1", "0"]),
        (("0",), "0,1,not-0", ["0", "0", "not-0"]),
        ((), "anything,,", [None, None, None]),
    ],
)  # fmt: skip
def test_the_truth_of_a_case_is_a_class(folder: Path, classes: tuple[str, ...], words: str, truths: list[str]) -> None:
    rows = [f"{n},scans/a.nii.gz,{word}" for n, word in enumerate(words.split(","))]
    path = table(folder, "\n".join(["id,t1,class", *rows]) + "\n")
    assert [case.truth for case in Cases.read(path, ["t1"], classes)] == truths


@pytest.mark.parametrize(
    ("classes", "word", "message"),
    [
        (("lgg", "hgg"), "high", "line 3, column class: found 'high', expected lgg or hgg; correct the table"),
        (("lgg", "hgg"), "1", "found '1', expected lgg or hgg"),
        (("a", "b", "c"), "not-a", "found 'not-a', expected a, b or c"),
        (("hgg",), "lgg", "found 'lgg', expected hgg, not-hgg, 1 or 0"),
        (("hgg",), "x" * 5000, "expected hgg, not-hgg, 1 or 0"),
    ],
)
def test_a_class_that_is_none_is_one_line(folder: Path, classes: tuple[str, ...], word: str, message: str) -> None:
    path = table(folder, f"id,t1,class\na,scans/a.nii.gz,{classes[0]}\nb,scans/b.nii.gz,{word}\n")
    with pytest.raises(InputError) as caught:
        Cases.read(path, ["t1"], classes)
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"{path}: line 3")
    assert len(str(caught.value)) < 400


def test_a_channel_may_be_called_class(folder: Path) -> None:
    (case,) = Cases.read(table(folder, "id,class\na,scans/a.nii.gz\n"), ["class"], ["lgg", "hgg"])
    assert (case.scan, case.truth) == ({"class": folder / "scans" / "a.nii.gz"}, None)
