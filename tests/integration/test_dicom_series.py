"""Series of DICOM as volumes: odd folders made from scratch, against the truth they were made of, dcm2niix and ITK."""

from __future__ import annotations

import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

import dicom_folders as made
import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray

from lowres_seg import InputError, Volume
from lowres_seg.dicom import chosen, found
from lowres_seg.dicom.contrasts import named_contrast

Folder = Callable[[str], Path]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    root = tmp_path_factory.mktemp("dicom")

    def path(name: str) -> Path:
        where = root / name.replace(" ", "_")
        if not where.exists():
            made.FOLDERS[name](where)
        return made.path_of(name, where)

    return path


def truth(seed: int = 0) -> NDArray[np.float32]:
    """Voxels of the base series, (columns, rows, slices)."""
    return made.voxels(seed).T.astype(np.float32)


def affine() -> NDArray[np.float64]:
    """Affine of the base series in RAS+, from how it was made."""
    row, column, normal = made.directions()
    found = np.eye(4)
    found[:3, :3] = np.stack([row, column, normal], axis=1) * made.SPACING
    found[:3, 3] = (-12.5, -8.25, -14.75)
    return np.diag([-1, -1, 1, 1]) @ found


def by_dcm2niix(path: Path, out: Path) -> nib.Nifti1Image:
    subprocess.run(["dcm2niix", "-z", "n", "-b", "n", "-f", "x", "-o", out, path], capture_output=True, check=True)
    return nib.load(out / "x.nii")


def canonical(volume: Volume) -> nib.Nifti1Image:
    return nib.as_closest_canonical(nib.Nifti1Image(volume.data, volume.grid.affine))


def check_same(volume: Volume, other: nib.Nifti1Image) -> None:
    ours, theirs = canonical(volume), nib.as_closest_canonical(other)
    assert np.abs(ours.affine - theirs.affine).max() < 1e-3
    assert np.array_equal(ours.get_fdata(dtype=np.float32), theirs.get_fdata(dtype=np.float32))


#: Folders that give the base series, and a doubt where something was left out.
SAME = {
    "plain": "",
    "JPEG 2000": "",
    "JPEG Lossless": "",
    "JPEG-LS": "",
    "RLE": "",
    "deflated": "",
    "big endian": "",
    "implicit": "",
    "without preamble": "",
    "legacy enhanced": "",
    "high bits": "",
    "DICOMDIR": "",
    "zip": "",
    "doubled": "series 3: 1 slice repeats another voxel for voxel, and was left out",
    "copied": "series 3: 1 file is a copy of others, and left out",
    "localizer": 'series 3: was taken, and not 1 "localizer" (a localizer)',
    "mixed sizes": 'series 3.1: was taken, and not 3.2 "T1 MPRAGE" (is a single slice, expected a volume, 8×8, axial)',
    "reports": 'series 3: was taken, and not 99 "report" (holds no image)',
    "segmentation": 'series 3: was taken, and not 50 "" (is a segmentation)',
    "colour": 'series 3: was taken, and not 200 "screen" (is in colour)',
    "overlay in bits": "series 3: 480 voxels hold more bits than BitsStored says, which were left out",
}


@pytest.mark.parametrize("name", SAME)
def test_a_folder_gives_the_series_that_it_was_made_of(folder: Folder, name: str) -> None:
    volume = chosen(found(folder(name))).volume()
    assert np.array_equal(volume.data, truth())
    assert np.abs(volume.grid.affine - affine()).max() < 1e-5
    assert volume.data.dtype == np.float32
    assert volume.frame_of_reference == made.uid("frame")
    assert SAME[name] in volume.doubts if SAME[name] else volume.doubts == ()
    assert all(doubt.name == "series" for doubt in volume.doubts)


#: Of these dcm2niix 1.0.20220720 makes the same; it does not read JPEG-LS, deflated files, zips and bits in the upper part.
@pytest.mark.parametrize(
    "name", ["plain", "JPEG 2000", "big endian", "legacy enhanced", "signed, scaled", "uneven distances"]
)
def test_dcm2niix_makes_the_same(folder: Folder, tmp_path: Path, name: str) -> None:
    volume = chosen(found(folder(name))).volume()
    other = nib.as_closest_canonical(by_dcm2niix(folder(name), tmp_path))
    assert np.abs(canonical(volume).affine - other.affine).max() < 1e-3
    assert np.allclose(canonical(volume).get_fdata(), other.get_fdata(), rtol=1e-6, atol=1e-3)


@pytest.mark.parametrize("name", ["plain", "JPEG Lossless", "RLE", "signed 12 bits"])  # it does not shift high bits
def test_itk_reads_the_same(folder: Folder, name: str) -> None:
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder(name))))
    image = reader.Execute()
    volume = chosen(found(folder(name))).volume()
    data = sitk.GetArrayFromImage(image).T
    assert np.array_equal(volume.data, data)
    corner = np.array([19, 23, 11])
    place = np.array(image.TransformContinuousIndexToPhysicalPoint(corner.astype(float).tolist())) * (-1, -1, 1)
    assert np.allclose(volume.grid.affine[:3] @ (*corner, 1), place, atol=1e-3)


def test_slope_and_intercept_are_those_of_each_slice(folder: Folder) -> None:
    place = np.arange(12)
    scaled = chosen(found(folder("signed, scaled"))).volume()
    assert np.array_equal(scaled.data, (truth() - 1024) * (1 + 0.25 * place) - 3.5 * place)
    assert scaled.header.get_data_dtype() == np.float32
    assert np.array_equal(chosen(found(folder("enhanced"))).volume().data, truth() * (1 + 0.5 * place))


def test_twelve_bits_may_have_a_sign(folder: Folder) -> None:
    volume = chosen(found(folder("signed 12 bits"))).volume()
    assert np.array_equal(volume.data, (truth() - 2000 + 2048) % 4096 - 2048)
    assert volume.doubts == ()
    assert volume.header.get_data_dtype() == np.int16


#: Folders that are refused, and what is said.
REFUSED = {
    "gap": "series 3: 1 slice is missing, the first between slices 5 and 6 of 11; fetch the series again",
    "doubled, differing": "series 3: 1 position has several slices that differ",
    "no orientation": "series 3: lacks a usable ImageOrientationPatient",
    "no position": "series 3: lacks ImagePositionPatient",
    "gantry tilt": "series 3: its slices are tilted by 17.7°",
    "unequal distances": "series 3: its slices lie 2.5 to 3.8 mm apart, expected one distance",
    "mosaic": "series 3: is a mosaic",
    "other study": "series 3: its files are of several studies",
    "other patient": "holds 2 series of 2 patients, expected one: ",
    "truncated": "1 file could not be read, and was left out",
    "two series": 'holds 2 series, expected one: 3 "T1 MPRAGE" (12 slices), 7 "T2 TSE" (12 slices); name one with --series',
    "mixed orientations": '3.1 "T1 MPRAGE" (12 slices, 20×24, axial), 3.2 "T1 MPRAGE" (12 slices, 20×24, sagittal); name',
    "4D, temporal position": "holds 3 volumes of one series, expected one: 3.1",
    "4D, repeated": '3.3 "T1 MPRAGE" (12 slices, volume 3 of 3); name one with --series',
    "enhanced, 4D": '3.2 "T1 MPRAGE" (12 slices, TemporalPositionIndex 2)',
    "two echoes": '3.1 "T1 MPRAGE" (12 slices, EchoNumbers 1), 3.2 "T1 MPRAGE" (12 slices, EchoNumbers 2)',
    "magnitude and phase": '3.2 "T1 MPRAGE" (12 slices, ImageType ORIGINAL\\PRIMARY\\P)',
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_folder_is_refused_in_one_line_without_a_name(folder: Folder, name: str) -> None:
    with pytest.raises(InputError) as refused:
        chosen(found(folder(name))).volume()
    told = str(refused.value)
    assert told.startswith(f"{folder(name)}: ")
    assert REFUSED[name] in told
    assert "\n" not in told
    assert not any(private in told for private in ("DOE", "JANE", "0815", "ROE", "4711", "1970"))


def test_every_folder_is_judged() -> None:
    others = {"uneven distances", "CT", "signed, scaled", "signed 12 bits", "enhanced"}
    assert set(made.FOLDERS) == {*SAME, *REFUSED, *others}


@pytest.mark.parametrize(
    ("name", "doubt"),
    [
        ("uneven distances", "series 3: one of its slices lies 0.1 mm off its place, of 2.5 mm between slices"),
        ("CT", "series 3: is of modality CT"),
    ],
)
def test_what_is_odd_is_a_doubt(folder: Folder, name: str, doubt: str) -> None:
    assert doubt in chosen(found(folder(name))).volume().doubts


@pytest.mark.parametrize(
    ("name", "word", "seed"),
    [
        ("two series", "7", 1),
        ("two series", "t2 tse", 1),
        ("two series", "MPRAGE", 0),
        ("two series", made.uid("series", "t2"), 1),
        ("4D, temporal position", "3.2", 1),
        ("4D, repeated", "3.3", 2),
        ("two echoes", "3.2", 1),
        ("magnitude and phase", "3.1", 0),
    ],
)
def test_a_series_is_named_by_number_description_or_uid(folder: Folder, name: str, word: str, seed: int) -> None:
    volume = chosen(found(folder(name)), word).volume()
    assert np.array_equal(volume.data, truth(seed))
    assert volume.doubts == ()


def test_a_word_that_means_none_or_several_lists_what_is_there(folder: Folder) -> None:
    listed = found(folder("two series"))
    with pytest.raises(InputError, match="no series is called 'FLAIR'; it holds 3 \"T1 MPRAGE\" .12 slices., 7"):
        chosen(listed, "FLAIR")
    with pytest.raises(InputError, match="has for 't' 2 series, expected one: 3"):
        chosen(listed, "t")


def test_instances_are_in_the_order_of_slices(folder: Folder) -> None:
    series = chosen(found(folder("plain")))
    assert [instance.number for instance in series.instances] == list(range(1, 13))
    assert [path.name for path in series.files] != sorted(path.name for path in series.files)
    assert [int(instance.dataset().InstanceNumber) for instance in series.instances] == list(range(1, 13))


def test_a_folder_without_dicom_and_a_damaged_zip_are_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing", encoding="utf-8")
    with pytest.raises(InputError, match="holds no DICOM file, expected a series"):
        found(tmp_path)
    (tmp_path / "x.zip").write_bytes(b"PK\x03\x04" + bytes(100))
    with pytest.raises(InputError, match="cannot be read as a zip"):
        found(tmp_path / "x.zip")


def test_slices_of_one_uid_are_no_copies(tmp_path: Path) -> None:
    slices = made.series()
    for place, one in enumerate(slices):
        one.SOPInstanceUID = made.uid("all")
        made.save(tmp_path / f"{place}.dcm", one)
    volume = chosen(found(tmp_path)).volume()
    assert volume.doubts == ()
    assert np.array_equal(volume.data, truth())


def test_an_encrypted_zip_says_what_to_do(folder: Folder, tmp_path: Path) -> None:
    damaged = bytearray(folder("zip").read_bytes())
    for place in range(len(damaged) - 4):
        if damaged[place : place + 4] == b"PK\x01\x02":
            damaged[place + 8] |= 1  # of the flags in the directory: encrypted
        if damaged[place : place + 4] == b"PK\x03\x04":
            damaged[place + 6] |= 1
    (tmp_path / "x.zip").write_bytes(damaged)
    with pytest.raises(InputError, match=r"x.zip/study/.*: cannot be unpacked .*encrypted.*; unpack the zip with"):
        found(tmp_path / "x.zip")


def zipped(path: Path, *, compression: int = zipfile.ZIP_STORED) -> bytearray:
    """Bytes of a zip with one long member, called é.dcm in UTF-8."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("é.dcm", bytes(128) + b"DICM" + np.random.default_rng(0).bytes(2000))
    return bytearray(path.read_bytes())


@pytest.mark.parametrize(
    ("compression", "says"),
    [
        (zipfile.ZIP_DEFLATED, "cannot be unpacked"),
        (zipfile.ZIP_BZIP2, "cannot be (unpacked|read)"),
        (zipfile.ZIP_LZMA, "cannot be unpacked"),
    ],
)
def test_a_damaged_member_of_a_zip_is_refused(tmp_path: Path, compression: int, says: str) -> None:
    damaged = zipped(tmp_path / "x.zip", compression=compression)
    damaged[45:60] = b"\xff" * 15  # behind the header of the member, which has 30 bytes and its name
    (tmp_path / "x.zip").write_bytes(damaged)
    with pytest.raises(InputError, match=says):
        found(tmp_path / "x.zip")


def test_a_zip_whose_names_are_in_no_encoding_or_that_needs_more_is_refused(tmp_path: Path) -> None:
    whole = bytes(zipped(tmp_path / "x.zip"))
    listed = whole.rindex(b"PK\x01\x02")
    for place, value in ((listed + 46, 0xFF), (30, 0xFF), (listed + 6, 99), (listed + 10, 77)):
        changed = bytearray(whole)
        changed[place] = value  # a name of the list, the member's own, the version it needs, its compression
        (tmp_path / "x.zip").write_bytes(changed)
        with pytest.raises(InputError, match=r"^\S*x.zip.*: cannot be (read as a zip|unpacked)"):
            found(tmp_path / "x.zip")


def test_a_dicomdir_that_names_other_files_is_refused(folder: Folder, tmp_path: Path) -> None:
    alone = tmp_path / "DICOMDIR"
    alone.write_bytes(folder("DICOMDIR").read_bytes())
    with pytest.raises(InputError, match="12 of the 12 files that it names are not there"):
        found(alone)


def test_a_real_series_is_as_dcm2niix_and_itk_read_it(realdata: Path, tmp_path: Path) -> None:
    path = realdata / "dicom" / "mprage_child"
    volume = chosen(found(path)).volume()
    assert volume.doubts == ()
    check_same(volume, by_dcm2niix(path, tmp_path))
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(path)))
    image = reader.Execute()
    data = sitk.GetArrayFromImage(image).T
    step = -1 if np.array_equal(volume.data, data[:, :, ::-1]) else 1  # ITK may begin at the other end
    assert np.array_equal(volume.data, data[:, :, ::step])
    corner = np.array([255.0, 0.0, 191.0 if step == 1 else 0.0])
    place = np.array(image.TransformContinuousIndexToPhysicalPoint(corner.tolist())) * (-1, -1, 1)
    assert np.allclose(volume.grid.affine[:3] @ (255, 0, 191, 1), place, atol=1e-3)


@pytest.mark.parametrize(
    ("description", "contrast"),
    [
        ("t1_mprage_sag_p2_iso", "T1"),
        ("SAG MPRAGE 220 FOV", "T1"),
        ("AX T1 PRE", "T1"),
        ("T1 FLAIR AX", "T1"),
        ("Ax T1 w/o contrast", "T1"),
        ("3D T1 TFE", "T1"),
        ("t1_mprage_sag_p2_iso_KM", "T1 with contrast"),
        ("AX T1 POST", "T1 with contrast"),
        ("Ax T1 FSE +C", "T1 with contrast"),
        ("Sag 3D T1 C+", "T1 with contrast"),
        ("T1W_3D_TFE_GD", "T1 with contrast"),
        ("BRAVO postGad", "T1 with contrast"),
        ("t1ce", "T1 with contrast"),
        ("t2_tse_tra", "T2"),
        ("T2W_TSE", "T2"),
        ("Ax T2 PROPELLER", "T2"),
        ("Ax T2 FLAIR FS", "FLAIR"),
        ("SAG CUBE T2 FLAIR", "FLAIR"),
        ("t2_space_dark-fluid_sag", "FLAIR"),
        ("t2_tirm_tra_dark-fluid", "FLAIR"),
        ("AX T2* GRE", ""),
        ("t2_star_tra", ""),
        ("ep2d_diff_3scan_trace_ADC", ""),
        ("SWI_Images", ""),
        ("3D TOF", ""),
        ("localizer t1", ""),
        ("AX PD", ""),
    ],
)
def test_a_description_names_a_contrast(description: str, contrast: str) -> None:
    assert named_contrast(description) == contrast


def test_a_contrast_agent_in_the_header_counts_unless_the_description_says_otherwise() -> None:
    assert named_contrast("AX T1", agent=True) == "T1 with contrast"
    assert named_contrast("AX T1 PRE", agent=True) == "T1"
    assert named_contrast("AX T2", agent=True) == "T2"
