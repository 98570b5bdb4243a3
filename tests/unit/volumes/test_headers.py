"""Headers that say odd things: what they say elsewhere is used and doubted, or they are refused by the field."""

from __future__ import annotations

import math
import struct
import tracemalloc
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from lowres_seg import Grid, InputError, Volume

#: Oblique, 0.9×1.1×2.5 mm.
AFFINE = nib.affines.from_matvec(
    nib.eulerangles.euler2mat(0.1, -0.2, 0.3) @ np.diag([0.9, 1.1, 2.5]), [-80.0, -100.0, -60.0]
)
SHAPE = (6, 7, 8)
PIXDIM, XYZT, QFORM_CODE, SFORM_CODE, QUATERN, SROW, OFFSET = 76, 123, 252, 254, 256, 280, 108


def scan(path: Path, codes: tuple[int, int] = (1, 1), **fields: tuple[int, str, float]) -> Path:
    """A scan with a sform and a qform, and bytes of its header that are then written over: (place, format, value)."""
    image = nib.Nifti1Image(np.arange(336, dtype=np.int16).reshape(SHAPE), AFFINE)
    image.set_qform(AFFINE, code=codes[0])
    image.set_sform(AFFINE, code=codes[1])
    image.to_filename(path)
    raw = bytearray(path.read_bytes())
    for place, form, value in fields.values():
        struct.pack_into(form, raw, place, value)
    path.write_bytes(raw)
    return path


def loads(path: Path, *words: str) -> Volume:
    """Load a scan whose voxels and grid are right, with one doubt that has these words."""
    volume = Volume.load(path)
    assert np.array_equal(volume.data.ravel(), np.arange(336))
    assert np.allclose(volume.grid.affine, AFFINE, atol=1e-4)
    assert len(volume.doubts) == bool(words)
    for word in words:
        assert word in volume.doubts[0]
    # A mask that is written with the header lies where the scan was taken to lie, for every reader.
    mask = path.with_name("mask.nii")
    Volume((volume.data > 7).astype(np.uint8), volume.grid, volume.header).save(mask, force=True)
    written = nib.load(mask)
    assert np.allclose(written.affine, AFFINE, atol=1e-4)
    assert np.allclose(written.header.get_zooms(), (0.9, 1.1, 2.5), atol=1e-5)
    assert written.header.get_xyzt_units()[0] in ("mm", "unknown")
    again = Volume.load(mask)
    assert again.doubts == ()
    assert again.grid.same_space(volume.grid)
    return volume


def refused(path: Path, *words: str) -> None:
    with pytest.raises(InputError) as caught:
        Volume.load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("codes", [(0, 1), (1, 0), (1, 1), (1, 4), (2, 2)])
def test_a_sound_header_is_not_doubted(tmp_path: Path, codes: tuple[int, int]) -> None:
    loads(scan(tmp_path / "a.nii", codes))


def test_real_scans_are_not_doubted(realdata: Path) -> None:
    paths = [path for folder in ("heads", "lesions", "tumor") for path in (realdata / folder).rglob("*.nii.gz")]
    assert len(paths) > 20
    assert [doubt for path in paths for doubt in Volume.load(path).doubts] == []


# Where the voxels begin.


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_voxels_of_a_single_file_do_not_begin_at_byte_0(tmp_path: Path, kind: type, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    kind(np.arange(336, dtype=np.int16).reshape(SHAPE), AFFINE).to_filename(path)
    with nib.openers.Opener(str(path)) as stream:
        raw = bytearray(stream.read())
    place, form, first = (108, "<f", 352) if kind is nib.Nifti1Image else (168, "<q", 544)
    assert struct.unpack_from(form, raw, place) == (first,)
    struct.pack_into(form, raw, place, 0)
    with nib.openers.Opener(str(path), "wb") as stream:
        stream.write(bytes(raw))
    volume = Volume.load(path)
    assert np.array_equal(volume.data.ravel(), np.arange(336))
    assert f"read from byte {first}" in volume.doubts[0]


@pytest.mark.parametrize("value", [1.0, 16, 348, 351, -352, 352.5, math.nan, math.inf, 3e9, 1e30])
def test_voxels_begin_behind_the_header_and_within_the_file(tmp_path: Path, value: float) -> None:
    refused(scan(tmp_path / "a.nii", at=(OFFSET, "<f", value)), "vox_offset" if not 400 < value < 1e9 else "claims")


def test_a_first_byte_beyond_the_file_is_refused(tmp_path: Path) -> None:
    refused(scan(tmp_path / "a.nii", at=(OFFSET, "<f", 100_000)), "header claims 100672 bytes", "holds 1024")


def test_extensions_that_a_file_cannot_hold_take_no_memory(tmp_path: Path) -> None:
    path = scan(tmp_path / "a.nii", offset=(OFFSET, "<f", 2.0e8))
    tracemalloc.start()
    refused(path, "its header claims 200000672 bytes", "the file holds 1024")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


def test_a_first_byte_that_is_no_multiple_of_16_is_taken_at_its_word(tmp_path: Path) -> None:
    path = scan(tmp_path / "a.nii", at=(OFFSET, "<f", 357))
    raw = path.read_bytes()
    path.write_bytes(raw[:352] + bytes(5) + raw[352:])
    loads(path)


def test_voxels_behind_extensions_are_found(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.arange(336, dtype=np.int16).reshape(SHAPE), AFFINE)
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"scanner 7"))
    image.to_filename(tmp_path / "a.nii.gz")
    assert np.array_equal(Volume.load(tmp_path / "a.nii.gz").data.ravel(), np.arange(336))


# What travels.

PATIENT = b"DOE^JANE"


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_a_file_that_is_written_has_geometry_intent_and_units_alone(tmp_path: Path, kind: type, order: str) -> None:
    header = kind.header_class(endianness=order)
    image = kind(np.arange(336, dtype=np.int16).reshape(*SHAPE, 1), AFFINE, header)
    image.set_sform(AFFINE, 4)
    image.set_qform(AFFINE, 1)
    texts = ("descrip", "aux_file", "intent_name")
    texts += ("db_name",) if kind is nib.Nifti1Image else ()
    for name in texts:
        image.header[name] = PATIENT
    image.header["intent_code"], image.header["intent_p1"] = 1002, 7
    image.header.set_xyzt_units("mm", "msec")
    image.header.set_dim_info(0, 1, 2)
    image.header["slice_duration"], image.header["toffset"] = 3, 4
    image.header["cal_max"], image.header["pixdim"][4] = 9, 2500
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"patient: " + PATIENT))
    image.header.extensions.append(nib.nifti1.Nifti1Extension(2, b"(0010,0010) " + PATIENT))
    image.to_filename(tmp_path / "a.nii")
    assert (tmp_path / "a.nii").read_bytes().count(PATIENT) == len(texts) + 2
    scan = Volume.load(tmp_path / "a.nii")
    Volume((scan.data > 50).astype(np.uint8), scan.grid, scan.header).save(tmp_path / "b.nii")
    assert PATIENT not in (tmp_path / "b.nii").read_bytes()
    found, before = nib.load(tmp_path / "b.nii"), nib.load(tmp_path / "a.nii")
    assert type(found) is kind
    assert len(found.header.extensions) == 0
    assert found.header.endianness == order
    assert np.array_equal(found.affine, before.affine)
    for name in (
        "qform_code",
        "sform_code",
        "intent_code",
        "intent_p1",
        "xyzt_units",
        "srow_x",
        "quatern_b",
        "qoffset_z",
    ):
        assert np.array_equal(found.header[name], before.header[name]), name
    assert np.array_equal(found.header["pixdim"][:4], before.header["pixdim"][:4])
    for name in ("dim_info", "slice_duration", "toffset", "cal_max"):
        assert not found.header[name], name


# Units.


@pytest.mark.parametrize("code", [4, 7, 2 | 56, 2 | 64, 2 | 128, 10 | 192, 255])
def test_units_that_the_format_does_not_define_are_millimetres_with_a_doubt(tmp_path: Path, code: int) -> None:
    if code & 7 == 3:
        refused(scan(tmp_path / "a.nii", at=(XYZT, "<B", code)), "micron")
    else:
        loads(scan(tmp_path / "a.nii", at=(XYZT, "<B", code)), "xyzt_units", str(code), "mm")


@pytest.mark.parametrize("code", [0, 2, 8, 10, 18, 26, 34, 42, 50])
def test_units_that_the_format_defines_are_not_doubted(tmp_path: Path, code: int) -> None:
    loads(scan(tmp_path / "a.nii", at=(XYZT, "<B", code)))


@pytest.mark.parametrize("code", [1, 1 | 56, 3, 3 | 192])
def test_a_spatial_unit_holds_whatever_the_other_bits_are(tmp_path: Path, code: int) -> None:
    refused(scan(tmp_path / "a.nii", at=(XYZT, "<B", code)), "meter" if code & 7 == 1 else "micron")


# The quaternion.


def turned(path: Path, square: float, codes: tuple[int, int]) -> Path:
    """A scan turned by 180° about an oblique axis, whose quaternion has b² + c² + d² = `square`."""
    axis = np.array([0.6, 0.0, 0.8])
    affine = nib.affines.from_matvec((2 * np.outer(axis, axis) - np.eye(3)) @ np.diag([1, 1.5, 2]), [10, 20, 30])
    image = nib.Nifti1Image(np.arange(336, dtype=np.int16).reshape(SHAPE), affine)
    image.set_sform(affine, codes[1])
    image.set_qform(affine, codes[0])
    image.to_filename(path)
    raw = bytearray(path.read_bytes())
    struct.pack_into("<3f", raw, QUATERN, *(axis * math.sqrt(square)))
    path.write_bytes(raw)
    return path


@pytest.mark.parametrize("over", [0, 4e-7, 1e-6, 1e-5])
def test_a_quaternion_a_little_over_one_is_rounded(tmp_path: Path, over: float) -> None:
    volume = Volume.load(turned(tmp_path / "a.nii", 1 + over, (1, 0)))
    axis = np.array([0.6, 0.0, 0.8])
    assert np.allclose(
        volume.grid.affine[:3, :3], (2 * np.outer(axis, axis) - np.eye(3)) @ np.diag([1, 1.5, 2]), atol=1e-3
    )
    assert volume.doubts == ()
    volume.save(tmp_path / "b.nii")
    assert np.allclose(nib.load(tmp_path / "b.nii").affine, volume.grid.affine, atol=1e-4)


@pytest.mark.parametrize("square", [1.01, 3.0, math.nan, 1e60])
def test_a_quaternion_far_over_one_leaves_the_sform(tmp_path: Path, square: float) -> None:
    volume = Volume.load(turned(tmp_path / "a.nii", square, (1, 1)))
    assert "qform of its header is broken" in volume.doubts[0]
    assert "the sform was used" in volume.doubts[0]
    refused(turned(tmp_path / "b.nii", square, (1, 0)), "qform", "quaternion", "b² + c² + d²")


# Spacings.


def test_a_signalling_nan_is_judged_without_a_warning(tmp_path: Path) -> None:
    path = scan(tmp_path / "a.nii", codes=(1, 1), srow=(SROW, "<I", 0x7FA00000))
    loads(path, "the sform of its header is broken", "the qform was used")


def test_a_quaternion_whose_square_no_number_holds_is_refused_without_a_warning(tmp_path: Path) -> None:
    image = nib.Nifti2Image(np.arange(336, dtype=np.int16).reshape(SHAPE), AFFINE)
    image.set_sform(None, 0)
    image.set_qform(AFFINE, 1)
    image.header["quatern_b"] = 1e200
    (tmp_path / "a.nii").write_bytes(bytes(image.header.binaryblock) + bytes(4) + image.get_fdata().tobytes())
    refused(tmp_path / "a.nii", "the quaternion (1e+200", "b² + c² + d² = inf")


@pytest.mark.parametrize("axis", [1, 2, 3])
@pytest.mark.parametrize("value", [0.0, math.nan, math.inf])
def test_a_spacing_that_is_none_is_refused_by_its_field_unless_the_sform_has_it(
    tmp_path: Path, axis: int, value: float
) -> None:
    bad = (PIXDIM + 4 * axis, "<f", value)
    refused(scan(tmp_path / "a.nii", (1, 0), at=bad), f"pixdim[{axis}]", f"{value:g}")
    refused(scan(tmp_path / "b.nii", (0, 0), at=bad), f"pixdim[{axis}]", f"{value:g}")
    loads(scan(tmp_path / "c.nii", (0, 1), at=bad))
    loads(
        scan(tmp_path / "d.nii", (1, 1), at=bad), "qform of its header is broken", f"pixdim[{axis}]", "sform was used"
    )


def test_a_negative_spacing_loses_its_sign(tmp_path: Path) -> None:
    loads(scan(tmp_path / "a.nii", (1, 0), at=(PIXDIM + 8, "<f", -1.1)), "pixdim[2]", "negative")


# The sform.


@pytest.mark.parametrize("rows", [np.zeros(12), np.full(12, np.nan), np.tile([1.0, 2, 3, 4], 3), np.full(12, 1e-20)])
def test_a_broken_sform_leaves_the_qform(tmp_path: Path, rows: np.ndarray) -> None:
    broken = {f"at{i}": (SROW + 4 * i, "<f", value) for i, value in enumerate(rows)}
    loads(scan(tmp_path / "a.nii", (1, 1), **broken), "sform of its header is broken", "the qform was used")
    refused(scan(tmp_path / "b.nii", (0, 1), **broken), "sform")


def test_both_forms_broken_are_both_named(tmp_path: Path) -> None:
    broken = {f"at{i}": (SROW + 4 * i, "<f", 0.0) for i in range(12)}
    refused(scan(tmp_path / "a.nii", (1, 1), **broken, q=(QUATERN, "<f", 5.0)), "sform: ", "qform: ")


@pytest.mark.parametrize(("place", "name"), [(SFORM_CODE, "sform"), (QFORM_CODE, "qform")])
def test_a_code_that_the_format_does_not_define_is_no_code(tmp_path: Path, place: int, name: str) -> None:
    loads(scan(tmp_path / "a.nii", (1, 1), at=(place, "<h", 77)), f"{name}_code", "77")


def test_forms_that_disagree_are_doubted_with_the_figures_of_both(tmp_path: Path) -> None:
    def doubt(qform: np.ndarray) -> str:
        image = nib.Nifti1Image(np.zeros(SHAPE, np.int16), AFFINE)
        image.set_sform(AFFINE, 1)
        image.set_qform(qform, 1)
        image.to_filename(tmp_path / "a.nii")
        return " ".join(Volume.load(tmp_path / "a.nii").doubts)

    shifted, stretched = AFFINE.copy(), AFFINE.copy()
    shifted[0, 3] += 3
    stretched[:3, 0] *= 2
    assert "first voxel at (-80, -100, -60) and (-77, -100, -60) mm, 3 mm apart" in doubt(shifted)
    assert "spacing 0.9×1.1×2.5 and 1.8×1.1×2.5 mm" in doubt(stretched)
    rotated = nib.affines.from_matvec(nib.eulerangles.euler2mat(0.02, 0, 0) @ AFFINE[:3, :3], AFFINE[:3, 3])
    assert "axes turned by 1.15°" in doubt(rotated)
    assert "orientation RAS and LAS" in doubt(AFFINE @ np.diag([-1, 1, 1, 1]))
    almost = AFFINE.copy()
    almost[:3, 3] += 0.01
    assert doubt(almost) == ""


def test_the_difference_of_two_grids_is_said_in_words() -> None:
    one = Grid(SHAPE, AFFINE)
    moved = AFFINE.copy()
    moved[1, 3] += 1
    assert one.difference(Grid(SHAPE, AFFINE)) == ""
    assert one.another_grid(Grid(SHAPE, moved)) == "first voxel at (-80, -100, -60) and (-80, -99, -60) mm, 1 mm apart"
    wide = Grid((6, 7, 9), AFFINE @ np.diag([1, 1, 1.01, 1]))
    assert one.another_grid(wide) == "shape 6×7×8 and 6×7×9; spacing 0.9×1.1×2.5 and 0.9×1.1×2.525 mm"
    sheared = AFFINE @ np.array([[1, 1e-5, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    large = (2000, 2000, 8)
    assert Grid(large, sheared).another_grid(Grid(large, AFFINE)).startswith("corners lie up to 0.018 mm apart")


@pytest.mark.parametrize("offset", [0, 352])
def test_extensions_without_room_before_the_voxels_are_refused(tmp_path: Path, offset: int) -> None:
    image = nib.Nifti1Image(np.random.default_rng(0).random((4, 5, 6), np.float32), np.eye(4))
    image.header.extensions.append(nib.nifti1.Nifti1Extension(6, b"a comment"))
    nib.save(image, tmp_path / "a.nii")
    content = bytearray((tmp_path / "a.nii").read_bytes())
    Volume.load(tmp_path / "a.nii")
    content[108:112] = struct.pack("<f", offset)
    (tmp_path / "a.nii").write_bytes(content)
    with pytest.raises(InputError, match="its vox_offset is wrong"):
        Volume.load(tmp_path / "a.nii")
