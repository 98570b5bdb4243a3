"""DICOM segmentations of made series, read back by highdicom and dcmqi, and checked by dciodvfy."""

from __future__ import annotations

import json
import random
import subprocess
import sysconfig
import warnings
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.dataset import Dataset

from lowres_seg import __version__
from lowres_seg.bundle.pipeline import Code, Label, SegmentCodes
from lowres_seg.dicom import codes
from lowres_seg.dicom.segmentation import Algorithm, segmentation, write
from lowres_seg.errors import InputError
from lowres_seg.volumes.volume import Volume
from made_series import AXIAL, CORONAL, SAGITTAL, affine, enhanced, save, series, turned

ABNORMAL = Code(value="49755003", scheme="SCT", meaning="Morphologically Abnormal Structure")
BRAIN = Code(value="12738006", scheme="SCT", meaning="Brain")


def label(value: int, name: str, kind: Code, **more: Code) -> Label:
    return Label(value=value, name=name, codes=SegmentCodes(category=ABNORMAL, type=kind, **more))


LABELS = (
    label(1, "necrosis", Code(value="6574001", scheme="SCT", meaning="Necrosis"), region=BRAIN),
    label(2, "edema", Code(value="79654002", scheme="SCT", meaning="Edema")),
    label(
        4,
        "enhancing",
        Code(value="C113842", scheme="NCIt", meaning="Enhancing Lesion"),
        modifier=Code(value="24028007", scheme="SCT", meaning="Right"),
    ),
)
TINY = Algorithm("tiny", "1.0.0", "ab" * 32)
#: From voxels in an order and with directions that no series has, to (column, row, slice).
STORED = np.array([[0, -1, 0, 7], [0, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 1.0]])


def label_map(images: list[Dataset], seed: int = 3) -> tuple[np.ndarray, Volume]:
    """Labels as (slice, row, column), with slices that have none, and as a volume that is stored in another order."""
    shape = len(images), images[0].Rows, images[0].Columns
    values = np.random.default_rng(seed).choice(np.array([0, 0, 1, 2, 4], np.uint8), shape)
    values[0], values[2], values[-1] = 0, 0, 0
    stored = np.ascontiguousarray(values.transpose(2, 1, 0)[::-1].transpose(2, 0, 1))
    turn = STORED.copy()
    turn[0, 3] = shape[2] - 1
    return values, Volume.from_array(stored, affine(images) @ turn)


def errors_of(path: Path) -> list[str]:
    done = subprocess.run(["dciodvfy", path], capture_output=True, text=True, check=False)
    lines = (done.stdout + done.stderr).splitlines()
    assert any(line in ("Segmentation", "MRImage", "EnhancedMRImage") for line in lines)
    return [line for line in lines if line.startswith("Error")]


def dcmqi(path: Path, folder: Path) -> sitk.Image:
    folder.mkdir()
    tool = Path(sysconfig.get_path("scripts"), "segimage2itkimage")
    words = [tool, "--inputDICOM", path, "--outputDirectory", folder, "-t", "nii", "--mergeSegments"]
    subprocess.run(words, capture_output=True, check=True)
    return sitk.ReadImage(next(folder.glob("*.nii.gz")))


def by_itk(paths: list[Path]) -> sitk.Image:
    files = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(paths[0].parent))
    return sitk.ReadImage(files)


def in_slice_order(path: Path, images: list[Dataset]) -> np.ndarray:
    """Numbers of segments as (slice, row, column) in the order of the images, by highdicom."""
    volume = highdicom.seg.segread(path).get_volume(combine_segments=True)
    positions = [volume.map_indices_to_reference(np.array([[n, 0, 0]]))[0] for n in range(len(images))]
    expected = np.array([image.ImagePositionPatient for image in images], float)
    order = [int(np.linalg.norm(positions - one, axis=1).argmin()) for one in expected]
    np.testing.assert_allclose(np.array(positions)[order], expected, atol=1e-4)
    last = volume.map_indices_to_reference(np.array([[0, images[0].Rows - 1, images[0].Columns - 1]]))[0]
    steps = np.array(
        [[(images[0].Columns - 1) * images[0].PixelSpacing[1]], [(images[0].Rows - 1) * images[0].PixelSpacing[0]]]
    )
    corner = np.array(images[0].ImageOrientationPatient, float).reshape(2, 3) * steps
    np.testing.assert_allclose(last, positions[0] + corner.sum(axis=0), atol=1e-4)
    return volume.array[order]


@pytest.mark.parametrize(
    ("orientation", "options"),
    [
        (turned(SAGITTAL, (3, 7, -5)), {}),
        (CORONAL, {"pixel_mm": (0.5, 2.0), "spacing_mm": 1.0}),
        (AXIAL, {"spacing_mm": 5.5, "thickness_mm": None}),
        (turned(AXIAL, (-20, 4, 90)), {"spacing_mm": -3.0, "thickness_mm": 4.0, "SpacingBetweenSlices": 1.0}),
    ],
)
def test_a_label_map_lies_on_its_series_for_highdicom_and_dcmqi(
    tmp_path: Path, orientation: tuple[float, ...], options: dict
) -> None:
    images = series((6, 10, 7), orientation=orientation, **options)
    paths = save(images, tmp_path / "series")
    values, volume = label_map(images)
    sources = [pydicom.dcmread(path, stop_before_pixels=True) for path in paths]
    random.Random(1).shuffle(sources)
    made = segmentation(sources, volume, LABELS, TINY)
    path = tmp_path / "seg.dcm"
    write(path, made)
    numbers = np.array([0, 1, 2, 0, 3], np.uint8)[values]
    np.testing.assert_array_equal(in_slice_order(path, images), numbers)
    scan, mask = by_itk(paths), dcmqi(path, tmp_path / "dcmqi")
    assert mask.GetSize() == scan.GetSize()
    on_scan = sitk.Resample(mask, scan, sitk.Transform(), sitk.sitkNearestNeighbor)
    first = np.allclose(scan.GetOrigin(), [float(value) for value in images[0].ImagePositionPatient], atol=1e-3)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(on_scan), numbers if first else numbers[::-1])
    assert errors_of(path) == []


def test_rounded_headers_are_a_source(tmp_path: Path) -> None:
    """Positions that jitter, and directions of few digits that differ from slice to slice."""
    images = series((6, 40, 50), orientation=turned(AXIAL, (10, 4, 0)), spacing_mm=5.5)
    values, volume = label_map(images)
    random_ = np.random.default_rng(0)
    for image in images:
        image.ImageOrientationPatient = [
            round(float(v) + random_.normal(0, 5e-4), 4) for v in image.ImageOrientationPatient
        ]
        image.ImagePositionPatient = [round(float(v) + random_.normal(0, 0.1), 3) for v in image.ImagePositionPatient]
    write(tmp_path / "seg.dcm", segmentation(images[::-1], volume, LABELS, TINY))
    found = highdicom.seg.segread(tmp_path / "seg.dcm").get_pixels_by_source_instance(
        [image.SOPInstanceUID for image in images], combine_segments=True
    )
    np.testing.assert_array_equal(found, np.array([0, 1, 2, 0, 3])[values])


@pytest.mark.parametrize("per_frame", [False, True])
def test_a_multi_frame_image_is_a_source(tmp_path: Path, per_frame: bool) -> None:
    images = series((5, 6, 7), orientation=turned(CORONAL, (4, 0, 2)))
    values, volume = label_map(images)
    made = segmentation([enhanced(images, per_frame=per_frame)], volume, LABELS, TINY)
    write(tmp_path / "seg.dcm", made)
    np.testing.assert_array_equal(in_slice_order(tmp_path / "seg.dcm", images), np.array([0, 1, 2, 0, 3])[values])
    assert errors_of(tmp_path / "seg.dcm") == []
    for frame in made.PerFrameFunctionalGroupsSequence:
        number = frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedFrameNumber
        assert frame.PlanePositionSequence[0].ImagePositionPatient == images[number - 1].ImagePositionPatient


@pytest.mark.parametrize("second", [False, True])
def test_frames_at_one_place_count_once(tmp_path: Path, second: bool) -> None:
    """A multi-frame image may hold magnitude and phase, or several echoes."""
    images = series((5, 6, 7))
    values, volume = label_map(images)
    source = enhanced([*images, *images])
    numbers = {source.SOPInstanceUID: range(6, 11)} if second else None
    made = segmentation([source], volume, LABELS, TINY, numbers=numbers)
    write(tmp_path / "seg.dcm", made)
    np.testing.assert_array_equal(in_slice_order(tmp_path / "seg.dcm", images), np.array([0, 1, 2, 0, 3])[values])
    referred = {
        int(frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedFrameNumber)
        for frame in made.PerFrameFunctionalGroupsSequence
    }
    assert referred == set(range(6, 11) if second else range(1, 6))


def test_a_labelmap_has_the_values_of_labels(tmp_path: Path) -> None:
    images = series()
    values, volume = label_map(images)
    write(tmp_path / "seg.dcm", segmentation(images, volume, LABELS, TINY, kind="labelmap"))
    found = highdicom.seg.segread(tmp_path / "seg.dcm")
    assert found.SegmentationType == "LABELMAP"
    assert found.NumberOfFrames == len(images)
    assert found.segment_numbers == [1, 2, 4]
    np.testing.assert_array_equal(in_slice_order(tmp_path / "seg.dcm", images), values)


def test_it_says_whose_it_is_and_what_made_it(tmp_path: Path) -> None:
    images = series()
    _, volume = label_map(images)
    write(tmp_path / "seg.dcm", segmentation(images, volume, LABELS, TINY))
    found = pydicom.dcmread(tmp_path / "seg.dcm")
    for name in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyDate"):
        assert found[name].value == images[0][name].value
    for name in ("StudyTime", "StudyID", "StudyDescription", "AccessionNumber", "FrameOfReferenceUID"):
        assert found[name].value == images[0][name].value
    assert (found.Modality, found.Manufacturer, found.SoftwareVersions) == ("SEG", "lowres-seg", __version__)
    assert (found.SeriesDescription, found.SeriesNumber) == ("tiny 1.0.0 of T1 MPRAGE", 1007)
    referred = found.ReferencedSeriesSequence[0]
    assert referred.SeriesInstanceUID == images[0].SeriesInstanceUID
    uids = {item.ReferencedSOPInstanceUID for item in referred.ReferencedInstanceSequence}
    assert uids == {image.SOPInstanceUID for image in images}
    by_uid = {image.SOPInstanceUID: image for image in images}
    for frame in found.PerFrameFunctionalGroupsSequence:
        uid = frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        assert frame.PlanePositionSequence[0].ImagePositionPatient == by_uid[uid].ImagePositionPatient
    necrosis, _, enhancing = found.SegmentSequence
    assert (necrosis.SegmentLabel, necrosis.SegmentAlgorithmType) == ("necrosis", "AUTOMATIC")
    method = necrosis.SegmentationAlgorithmIdentificationSequence[0]
    assert (method.AlgorithmName, method.AlgorithmVersion) == ("tiny", "ab" * 32)
    assert necrosis.SegmentedPropertyCategoryCodeSequence[0].CodeValue == "49755003"
    assert necrosis.SegmentedPropertyTypeCodeSequence[0].CodeMeaning == "Necrosis"
    assert necrosis.AnatomicRegionSequence[0].CodeValue == "12738006"
    kind = enhancing.SegmentedPropertyTypeCodeSequence[0]
    assert kind.SegmentedPropertyTypeModifierCodeSequence[0].CodeMeaning == "Right"


def test_what_is_the_same_has_the_same_uids_and_nothing_else_has(tmp_path: Path) -> None:
    images = series()
    _, volume = label_map(images)
    other = Volume.from_array(volume.data[::-1].copy(), volume.grid.affine)
    moved = series(seed=1)
    made = [
        segmentation(images, volume, LABELS, TINY),
        segmentation(images[::-1], volume, LABELS, TINY),
        segmentation(images, other, LABELS, TINY),
        segmentation(images, volume, LABELS, Algorithm("tiny", "1.0.0", "cd" * 32)),
        segmentation(images, volume, LABELS, TINY, kind="labelmap"),
        segmentation(moved, volume, LABELS, TINY),
    ]
    uids = [(one.SeriesInstanceUID, one.SOPInstanceUID) for one in made]
    assert uids[0] == uids[1]
    assert len({uid for pair in uids[1:] for uid in pair}) == 10
    assert all(pydicom.uid.UID(uid).is_valid for pair in uids for uid in pair)


def test_a_mask_without_a_voxel_is_written_with_every_slice(tmp_path: Path) -> None:
    images = series()
    _, volume = label_map(images)
    empty = Volume.from_array(np.zeros_like(volume.data), volume.grid.affine)
    path = tmp_path / "seg.dcm"
    write(path, segmentation(images, empty, LABELS, TINY))
    assert not in_slice_order(path, images).any()
    assert not sitk.GetArrayFromImage(dcmqi(path, tmp_path / "dcmqi")).any()
    assert errors_of(path) == []


def test_of_many_labels_frames_without_a_label_are_left_out(tmp_path: Path) -> None:
    images = series((48, 3, 4))
    some = Code(value="12738006", scheme="SCT", meaning="Brain")
    labels = [label(n, f"part-{n}", some) for n in range(1, 51)]
    values = np.zeros((4, 3, 48), np.uint8)
    values[1, 2, 5], values[2, 1, 40] = 50, 7
    path = tmp_path / "seg.dcm"
    write(path, segmentation(images, Volume.from_array(values, affine(images)), labels, TINY))
    found = highdicom.seg.segread(path)
    assert found.NumberOfFrames == 2
    uids = [image.SOPInstanceUID for image in images]
    pixels = found.get_pixels_by_source_instance(
        uids, combine_segments=True, assert_missing_frames_are_empty=True, ignore_spatial_locations=True
    )
    np.testing.assert_array_equal(pixels, values.T)


@pytest.mark.parametrize(
    "attributes",
    [
        {"SpecificCharacterSet": ["", "ISO 2022 IR 87"], "PatientName": "Yamada^Tarou=山田^太郎"},
        {"SpecificCharacterSet": "GB18030", "PatientName": "Wang^XiaoDong=王^小东", "StudyDescription": "头部"},
        {"PatientSex": "UNKNOWN", "StudyDate": "2020.13.41", "PatientBirthDate": "19xx", "StudyTime": "9 o'clock"},
        {"SeriesNumber": None, "SeriesDescription": "a very long description of what the scanner did " * 2},
        {"PatientName": "", "PatientID": "", "StudyID": None, "StudyDate": None},
    ],
)
def test_what_a_source_says_is_kept_as_it_stands(tmp_path: Path, attributes: dict) -> None:
    images = series((3, 4, 5))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as of files that others wrote
        pydicom.config.settings.writing_validation_mode = pydicom.config.IGNORE
        try:
            for image in images:
                for name, value in attributes.items():
                    setattr(image, name, value)
            paths = save(images, tmp_path / "series")
        finally:
            pydicom.config.settings.writing_validation_mode = None
    sources = [pydicom.dcmread(path) for path in paths]
    _, volume = label_map(images)
    path = tmp_path / "seg.dcm"
    write(path, segmentation(sources, volume, LABELS, TINY))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = pydicom.dcmread(path)
        for name in set(attributes) - {"SpecificCharacterSet", "SeriesNumber", "SeriesDescription"}:
            assert str(found[name].value or "") == str(attributes[name] or "")
    assert found.SpecificCharacterSet == "ISO_IR 192"
    assert len(found.SeriesDescription) <= 64
    assert set(errors_of(path)) <= set(errors_of(paths[0]))


def test_what_an_anonymizer_removed_is_empty(tmp_path: Path) -> None:
    images = series((3, 4, 5))
    for image in images:
        for name in ("PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate"):
            delattr(image, name)
        del image.StudyTime, image.ReferringPhysicianName, image.SeriesNumber, image.Manufacturer
        del image.SpecificCharacterSet
    _, volume = label_map(images)
    path = tmp_path / "seg.dcm"
    write(path, segmentation(images, volume, LABELS, TINY))
    assert pydicom.dcmread(path).StudyDate == ""
    assert errors_of(path) == []


def test_one_slice_is_enough(tmp_path: Path) -> None:
    images = series((1, 4, 5))
    values = np.full((5, 4, 1), 2, np.uint8)
    write(tmp_path / "seg.dcm", segmentation(images, Volume.from_array(values, affine(images)), LABELS, TINY))
    assert (highdicom.seg.segread(tmp_path / "seg.dcm").pixel_array.sum(axis=(1, 2)) == [0, 20, 0]).all()


def test_slices_that_are_not_those_of_the_label_map_are_refused() -> None:
    images = series()
    _, volume = label_map(images)
    with pytest.raises(InputError, match=r"has 5 slices on the grid of a label map of \d+ × \d+ × \d+ voxels"):
        segmentation(images[:-1], volume, LABELS, TINY)
    with pytest.raises(InputError, match=r"does not lie on the voxels of the label map, by 1 mm"):
        segmentation(series(origin=(-12.5, 8.25, 30.0)), volume, LABELS, TINY)
    with pytest.raises(InputError, match="does not lie on the voxels of the label map"):
        segmentation(series(orientation=turned(AXIAL, (0, 0, 2))), volume, LABELS, TINY)
    with pytest.raises(InputError, match="does not lie on the voxels of the label map"):
        segmentation(series((6, 9, 8)), volume, LABELS, TINY)
    with pytest.raises(InputError, match="images of 2 series and 2 frames of reference"):
        segmentation([*images[:-1], *series(seed=1)[-1:]], volume, LABELS, TINY)
    strange = Volume.from_array(np.full_like(volume.data, 9), volume.grid.affine)
    with pytest.raises(InputError, match=r"have the value 9, expected those of the segments: \[1, 2, 4\]"):
        segmentation(images, strange, LABELS, TINY)


@pytest.mark.parametrize(
    "name", ["FrameOfReferenceUID", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"]
)
def test_a_source_that_does_not_say_where_it_lies_is_refused(name: str) -> None:
    images = series()
    _, volume = label_map(images)
    del images[3][name]
    with pytest.raises(InputError, match=f"has no {name}, which .* such as -o mask.nii.gz"):
        segmentation(images, volume, LABELS, TINY)


def test_several_multi_frame_images_are_a_source(tmp_path: Path) -> None:
    images = series()
    values, volume = label_map(images)
    parts = [enhanced(images[:2]), enhanced(images[2:])]
    made = segmentation(parts[::-1], volume, LABELS, TINY)
    write(tmp_path / "seg.dcm", made)
    np.testing.assert_array_equal(in_slice_order(tmp_path / "seg.dcm", images), np.array([0, 1, 2, 0, 3])[values])
    assert errors_of(tmp_path / "seg.dcm") == []
    assert len(made.ReferencedSeriesSequence[0].ReferencedInstanceSequence) == 2
    for frame in made.PerFrameFunctionalGroupsSequence:
        reference = frame.DerivationImageSequence[0].SourceImageSequence[0]
        (part,) = [one for one in parts if one.SOPInstanceUID == reference.ReferencedSOPInstanceUID]
        assert reference.ReferencedSOPClassUID == pydicom.uid.EnhancedMRImageStorage
        place = part.PerFrameFunctionalGroupsSequence[reference.ReferencedFrameNumber - 1].PlanePositionSequence[0]
        assert frame.PlanePositionSequence[0].ImagePositionPatient == place.ImagePositionPatient


def test_codes_come_from_the_manifest_or_a_file(tmp_path: Path) -> None:
    bare = Label(value=1, name="necrosis")
    entry = {"category": ABNORMAL.model_dump(), "type": BRAIN.model_dump()}
    path = tmp_path / "codes.json"
    path.write_text(json.dumps({"necrosis": entry}), encoding="utf-8")
    (found,) = codes.coded([bare], codes.read(path), where="tiny")
    assert found.codes is not None
    assert found.codes.type == BRAIN
    assert codes.coded(LABELS, {}, where="tiny") == LABELS
    other, *_ = codes.coded(LABELS, codes.read(path), where="tiny")
    assert other.codes == found.codes
    with pytest.raises(
        InputError, match=r'tiny: label necrosis has no codes.*--codes, such as \{"necrosis": \{"category"'
    ) as told:
        codes.coded([bare, LABELS[1]], {}, where="tiny")
    example = json.loads(str(told.value).split("such as ")[1])
    assert SegmentCodes.model_validate(example["necrosis"]).type == BRAIN
    split = label(2, "edema", BRAIN.model_copy(update={"meaning": "a\\b"}))
    with pytest.raises(InputError, match=r"label edema has 'a\\\\b' in its codes"):
        codes.coded([split], {}, where="tiny")
    with pytest.raises(InputError, match=r"label necrosis \(and 1 more\) has no codes"):
        codes.coded([bare, Label(value=2, name="edema")], {}, where="tiny")
    with pytest.raises(InputError, match=r"--codes: has codes of 'necrosis'; the labels of tiny are edema"):
        codes.coded([LABELS[1]], codes.read(path), where="tiny")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "is list, expected an object"),
        ('{"brain": {"type": {"value": "1", "scheme": "SCT", "meaning": "x"}}}', "label 'brain': category"),
        ('{"brain": 7}', "label 'brain': "),
    ],
)
def test_a_file_that_is_none_of_codes_is_refused_in_a_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "codes.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as told:
        codes.read(path)
    assert str(told.value).startswith(f"{path}: ")
    assert message in str(told.value)
    with pytest.raises(InputError, match="cannot be read"):
        codes.read(tmp_path)


def test_a_scanners_series_is_a_source(tmp_path: Path, realdata: Path) -> None:
    """192 sagittal, oblique slices, named in no order."""
    paths = sorted((realdata / "dicom" / "mprage_child").glob("*.dcm"))
    sources = [pydicom.dcmread(path, stop_before_pixels=True) for path in paths]
    scan = by_itk(paths)
    lps = np.eye(4)
    lps[:3, :3] = np.array(scan.GetDirection()).reshape(3, 3) * scan.GetSpacing()
    lps[:3, 3] = scan.GetOrigin()
    values = np.zeros(scan.GetSize(), np.uint8)
    values[60:150, 50:200, 30:150], values[90:150, 90:150, 60:130] = 1, 2
    path = tmp_path / "seg.dcm"
    write(path, segmentation(sources, Volume.from_array(values, np.diag([-1, -1, 1, 1]) @ lps), LABELS[:2], TINY))
    mask = dcmqi(path, tmp_path / "dcmqi")
    on_scan = sitk.Resample(mask, scan, sitk.Transform(), sitk.sitkNearestNeighbor)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(on_scan).T, values)
    assert set(errors_of(path)) <= set(errors_of(paths[0]))
