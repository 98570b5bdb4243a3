from __future__ import annotations

import gzip
import itertools
import struct
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowres_seg import Grid, InputError, Volume
from lowres_seg.volumes.grid import Box, Reorientation

OBLIQUE = np.array([[0.9, -0.1, 0.2, -80], [0.12, 1.1, -0.05, -100], [-0.2, 0.1, 2.9, -60], [0, 0, 0, 1]])
ORIENTATIONS = [
    "".join(pair[end] for pair, end in zip(axes, ends, strict=True))
    for axes in itertools.permutations(("LR", "PA", "IS"))
    for ends in itertools.product((0, 1), repeat=3)
]


def write(path: Path, data: np.ndarray, affine: np.ndarray | None = None, unit: str = "mm") -> Path:
    image = nib.Nifti1Image(data, np.eye(4) if affine is None else affine)
    image.header.set_xyzt_units(unit)
    image.to_filename(path)
    return path


def ramp(shape: tuple[int, ...] = (4, 5, 6), dtype: type = np.int16) -> np.ndarray:
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_reorientation_is_nibabels(orientation: str) -> None:
    data = ramp().astype(np.float32)
    there = Reorientation(Grid(data.shape, OBLIQUE), orientation)
    image = nib.Nifti1Image(data, OBLIQUE)
    target = nib.orientations.axcodes2ornt(orientation)
    expected = image.as_reoriented(nib.orientations.ornt_transform(nib.io_orientation(OBLIQUE), target))
    assert np.array_equal(there.apply(data), expected.get_fdata())
    assert np.allclose(there.result.affine, expected.affine)
    assert there.result.orientation == orientation
    assert np.array_equal(there.undo(there.apply(data)), data)


@given(
    orientation=st.sampled_from(ORIENTATIONS),
    ends=st.tuples(*[st.tuples(st.integers(0, n), st.integers(0, n)).map(sorted) for n in (4, 5, 6)]),
)
def test_a_box_follows_its_voxels(orientation: str, ends: tuple[list[int], ...]) -> None:
    data = ramp()
    box = Box(tuple(a for a, _ in ends), tuple(b for _, b in ends))
    there = Reorientation(Grid(data.shape, OBLIQUE), orientation)
    moved = there.apply_box(box)
    assert set(there.apply(data)[moved.slices].ravel()) == set(data[box.slices].ravel())
    assert there.undo_box(moved) == box


def test_grid_knows_spacing_volume_and_orientation() -> None:
    grid = Grid((4, 5, 6), np.diag([-2.0, 3.0, 4.0, 1.0]))
    assert grid.spacing_mm == (2.0, 3.0, 4.0)
    assert grid.voxel_ml == pytest.approx(0.024)
    assert grid.orientation == "LAS"


def test_same_space_sees_a_shift_of_a_tenth_of_a_millimetre() -> None:
    a, b = np.eye(4), np.eye(4)
    b[0, 3] = 0.1
    assert Grid((4, 4, 4), a).same_space(Grid((4, 4, 4), a + 1e-6))
    assert not Grid((4, 4, 4), a).same_space(Grid((4, 4, 4), b))
    assert not Grid((4, 4, 4), a).same_space(Grid((4, 4, 5), a))


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64])
def test_loads_what_nibabel_loads(tmp_path: Path, suffix: str, dtype: type) -> None:
    path = write(tmp_path / f"a{suffix}", ramp(dtype=dtype), OBLIQUE)
    volume = Volume.load(path)
    assert volume.data.dtype == np.float32
    assert np.array_equal(volume.data, nib.load(path).get_fdata())
    assert np.allclose(volume.grid.affine, OBLIQUE, atol=1e-5)


def test_scale_factors_are_applied(tmp_path: Path) -> None:
    image = nib.Nifti1Image(ramp(), np.eye(4))
    image.header.set_slope_inter(0.5, 100)
    image.to_filename(tmp_path / "a.nii")
    assert np.array_equal(Volume.load(tmp_path / "a.nii").data, nib.load(tmp_path / "a.nii").get_fdata())


def test_a_trailing_axis_of_one_is_dropped(tmp_path: Path) -> None:
    assert Volume.load(write(tmp_path / "a.nii.gz", ramp((4, 5, 6, 1)))).grid.shape == (4, 5, 6)


def test_several_gzip_members_are_one_file(tmp_path: Path) -> None:
    raw = write(tmp_path / "a.nii", ramp()).read_bytes()
    (tmp_path / "b.nii.gz").write_bytes(gzip.compress(raw[:400]) + gzip.compress(raw[400:]))
    assert np.array_equal(Volume.load(tmp_path / "b.nii.gz").data, ramp())


def test_saves_with_the_header_it_came_with(tmp_path: Path) -> None:
    image = nib.Nifti1Image(ramp(), OBLIQUE)
    image.set_qform(OBLIQUE, code=1)
    image.set_sform(OBLIQUE, code=4)
    image.header.set_xyzt_units("mm", "sec")
    image.header.set_slope_inter(2, 3)
    image.to_filename(tmp_path / "in.nii.gz")
    scan = Volume.load(tmp_path / "in.nii.gz")
    mask = (scan.data > 50).astype(np.uint8)
    Volume(mask, scan.grid, scan.header).save(tmp_path / "out.nii.gz")
    out = nib.load(tmp_path / "out.nii.gz")
    assert out.get_data_dtype() == np.uint8
    assert np.array_equal(np.asanyarray(out.dataobj), mask)
    assert np.array_equal(out.affine, nib.load(tmp_path / "in.nii.gz").affine)
    assert (int(out.header["qform_code"]), int(out.header["sform_code"])) == (1, 4)
    assert out.header.get_xyzt_units() == ("mm", "sec")
    assert np.isnan(out.header["scl_slope"]) or float(out.header["scl_slope"]) in (0.0, 1.0)


def test_nifti2_stays_nifti2(tmp_path: Path) -> None:
    nib.Nifti2Image(ramp(), np.eye(4)).to_filename(tmp_path / "in.nii")
    Volume.load(tmp_path / "in.nii").save(tmp_path / "out.nii")
    assert isinstance(nib.load(tmp_path / "out.nii"), nib.Nifti2Image)


def _claims(path: Path, shape: tuple[int, int, int]) -> Path:
    """Make the header of an uncompressed NIfTI-1 file claim another shape."""
    raw = bytearray(path.read_bytes())
    struct.pack_into("<3h", raw, 42, *shape)
    path.write_bytes(raw)
    return path


def _gz(path: Path) -> Path:
    target = path.with_name(path.name + ".gz")
    target.write_bytes(gzip.compress(path.read_bytes()))
    return target


def _bad_affine(spacing: float) -> np.ndarray:
    return np.diag([spacing, spacing, spacing, 1.0])


def _sform(path: Path, matrix: np.ndarray) -> Path:
    """Write an sform that nibabel itself would not write."""
    write(path, ramp())
    raw = bytearray(path.read_bytes())
    struct.pack_into("<hh", raw, 252, 0, 1)
    struct.pack_into("<12f", raw, 280, *matrix[:3].ravel())
    path.write_bytes(raw)
    return path


BAD = {  # one a line, however long
    "missing": (lambda f: f / "none.nii", "does not exist"),
    "folder": (lambda f: f, "is a folder"),
    "no nifti name": (lambda f: _text(f / "a.txt"), r"ends in \.nii"),
    "no nifti": (lambda f: _text(f / "a.nii"), "cannot be read as NIfTI"),
    "no gzip": (lambda f: _text(f / "a.nii.gz"), "cannot be read as NIfTI"),
    "empty file": (lambda f: _text(f / "a.nii", ""), "cannot be read as NIfTI"),
    "2D": (lambda f: write(f / "a.nii", ramp((4, 5))), "2 dimensions"),
    "4D": (lambda f: write(f / "a.nii", ramp((4, 5, 6, 2))), "4 dimensions"),
    "no voxels": (lambda f: _claims(write(f / "a.nii", ramp()), (4, 0, 6)), r"empty|cannot be read"),
    "complex": (lambda f: write(f / "a.nii", ramp(dtype=np.complex64)), "expected real numbers"),
    "metres": (lambda f: write(f / "a.nii", ramp(), unit="meter"), "counts in meter"),
    "micrometres": (lambda f: write(f / "a.nii", ramp(), unit="micron"), "counts in micron"),
    "spacing of metres": (lambda f: _sform(f / "a.nii", _bad_affine(0.001)), "is it in metres"),
    "spacing of micrometres": (lambda f: _sform(f / "a.nii", _bad_affine(1000)), "is it in metres"),
    "singular": (lambda f: _sform(f / "a.nii", np.diag([1.0, 1.0, 0.0, 1.0])), "singular"),
    "parallel axes": (lambda f: _sform(f / "a.nii", np.array([[1.0, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0]])), "singular"),
    "not finite": (lambda f: _sform(f / "a.nii", np.full((3, 4), np.nan)), "finite"),
    "truncated": (lambda f: _cut(write(f / "a.nii", ramp()), 400), "truncated"),
    "truncated gz": (lambda f: _cut(write(f / "a.nii.gz", np.random.default_rng(0).random((9, 9, 9))), -100), "truncated"),
    "claims more": (lambda f: _claims(write(f / "a.nii", ramp()), (4, 5, 7)), "header claims"),
    "claims terabytes": (lambda f: _claims(write(f / "a.nii", ramp()), (32767, 32767, 32767)), "header claims"),
    "claims more, gz": (lambda f: _gz(_claims(write(f / "a.nii", ramp()), (4, 5, 7))), "header claims"),
    "claims terabytes, gz": (lambda f: _gz(_claims(write(f / "a.nii", ramp()), (32767, 32767, 32767))), "header claims"),
}  # fmt: skip


def _text(path: Path, text: str = "hello\n") -> Path:
    path.write_text(text)
    return path


def _cut(path: Path, at: int) -> Path:
    path.write_bytes(path.read_bytes()[:at])
    return path


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_refused_in_one_line(tmp_path: Path, case: str) -> None:
    make, message = BAD[case]
    path = make(tmp_path)
    with pytest.raises(InputError, match=message) as caught:
        Volume.load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_false_claim_is_refused_before_anything_is_allocated(tmp_path: Path) -> None:
    import tracemalloc

    path = _gz(_claims(write(tmp_path / "a.nii", np.zeros((64, 64, 64), np.int16)), (1024, 1024, 512)))
    tracemalloc.start()
    with pytest.raises(InputError, match="header claims"):
        Volume.load(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 32 << 20  # the header claims 1 GiB


def test_a_header_without_orientation_is_doubted(tmp_path: Path) -> None:
    raw = bytearray(write(tmp_path / "a.nii", ramp()).read_bytes())
    struct.pack_into("<hh", raw, 252, 0, 0)
    (tmp_path / "a.nii").write_bytes(raw)
    assert "left and right are a guess" in Volume.load(tmp_path / "a.nii").doubts[0]


def test_forms_that_disagree_are_doubted(tmp_path: Path) -> None:
    image = nib.Nifti1Image(ramp(), np.eye(4))
    image.set_qform(np.diag([-1.0, 1, 1, 1]), code=1)
    image.set_sform(np.eye(4), code=1)
    image.to_filename(tmp_path / "a.nii")
    assert "disagree" in Volume.load(tmp_path / "a.nii").doubts[0]
    assert Volume.load(write(tmp_path / "b.nii", ramp())).doubts == ()


def test_an_output_is_not_replaced_unless_forced(tmp_path: Path) -> None:
    volume = Volume.from_array(ramp(), np.eye(4))
    volume.save(tmp_path / "a.nii")
    before = (tmp_path / "a.nii").read_bytes()
    with pytest.raises(InputError, match="--force"):
        Volume.from_array(ramp() + 1, np.eye(4)).save(tmp_path / "a.nii")
    assert (tmp_path / "a.nii").read_bytes() == before
    Volume.from_array(ramp() + 1, np.eye(4)).save(tmp_path / "a.nii", force=True)
    assert (tmp_path / "a.nii").read_bytes() != before
    assert [p.name for p in tmp_path.iterdir()] == ["a.nii"]


def test_an_output_needs_a_nifti_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="ends in"):
        Volume.from_array(ramp(), np.eye(4)).save(tmp_path / "mask.png")


@pytest.mark.parametrize(("factor", "message"), [(1e-40, "multiply the scan's intensities"), (1e300, "divide its")])
def test_values_that_float32_cannot_hold_are_refused_whatever_the_thread_does(
    tmp_path: Path, factor: float, message: str
) -> None:
    data = np.random.default_rng(0).random((4, 5, 6)) * 300 * factor
    nib.save(nib.Nifti1Image(data, np.eye(4)), tmp_path / "a.nii")
    with pytest.raises(InputError, match=message):
        Volume.load(tmp_path / "a.nii")


@pytest.mark.parametrize(("offset", "coarse"), [(0, False), (1e4, False), (1e7, True), (1e9, True)])
def test_intensities_far_from_zero_are_doubted(tmp_path: Path, offset: float, coarse: bool) -> None:
    data = np.random.default_rng(0).random((4, 5, 6)) * 300 + offset
    for dtype in (np.float64, np.uint32):
        nib.save(nib.Nifti1Image(data.astype(dtype), np.eye(4)), tmp_path / "a.nii")
        doubts = Volume.load(tmp_path / "a.nii").doubts
        assert any("so far from zero" in doubt for doubt in doubts) == coarse


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize(
    ("dtype", "stored"),
    [
        ("float16", "float32"),
        ("bool", "uint8"),
        ("longdouble", "float64"),
        ("int64", "int32"),
        ("uint64", "int32"),
        (">i8", "int32"),
        (">f2", "float32"),
        ("int16", "int16"),
        (">f4", "float32"),
    ],
)
def test_types_that_nifti_lacks_are_kept_by_value(tmp_path: Path, dtype: str, stored: str, suffix: str) -> None:
    data = ramp().astype(dtype)
    Volume.from_array(data, OBLIQUE).save(tmp_path / f"a{suffix}")
    found = nib.load(tmp_path / f"a{suffix}")
    assert found.get_data_dtype().newbyteorder("=") == np.dtype(stored)
    assert np.array_equal(np.asanyarray(found.dataobj), data)


@pytest.mark.parametrize(
    ("data", "stored"),
    [
        (np.full((2, 2, 2), 2**32 - 1), "uint32"),
        (np.full((2, 2, 2), -(2**53)), "float64"),
        (np.full((2, 2, 2), 2**53 + 1), None),
        (np.full((2, 2, 2), 2**64 - 1, np.uint64), None),
        (np.full((2, 2, 2), np.longdouble("1e400")), None),
        (np.full((2, 2, 2), np.longdouble(1) / 3), None),
    ],
)
def test_values_that_no_type_of_nifti_keeps_are_refused(tmp_path: Path, data: np.ndarray, stored: str | None) -> None:
    path = tmp_path / "a.nii"
    if stored is None:
        with pytest.raises(InputError, match=r"a\.nii: voxels of dtype \w+ have values that no type of NIfTI keeps"):
            Volume.from_array(data, np.eye(4)).save(path)
        assert not path.exists()
        return
    Volume.from_array(data, np.eye(4)).save(path)
    assert nib.load(path).get_data_dtype() == np.dtype(stored)
    assert np.array_equal(np.asanyarray(nib.load(path).dataobj), data)
