"""Odd DICOM folders, made from scratch: what scanners, archives and people leave in a folder.

The base is a small oblique series of MR slices. Each maker writes one folder, by changing a copy of it. The tests read
these folders, and ``odd_dicom.py`` prints what this project and dcm2niix make of each.
"""

from __future__ import annotations

import copy
import hashlib
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import gdcm
import highdicom
import numpy as np
from numpy.typing import NDArray
from pydicom import FileDataset, dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.fileset import FileSet
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLSLossless,
    MRImageStorage,
    RLELossless,
)

#: Columns, rows, slices; spacing of columns, rows and slices in mm.
SHAPE, SPACING = (20, 24, 12), (1.1, 0.9, 2.5)
PATIENT = "DOE^JANE"
_ROOT = "1.2.826.0.1.3680043.8.498."
Maker = Callable[[Path], None]


def uid(*parts: object) -> UID:
    """UID that is always the same for the same parts."""
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return UID(f"{_ROOT}{int.from_bytes(digest, 'big') % 10**30}")


def directions(about: float = 0.2, tilt: float = 0.1) -> NDArray[np.float64]:
    """Directions of a row, a column and the normal of an oblique axial plane, (3, 3), LPS."""
    a = np.array([[np.cos(about), np.sin(about), 0], [-np.sin(about), np.cos(about), 0], [0, 0, 1]])
    b = np.array([[1, 0, 0], [0, np.cos(tilt), np.sin(tilt)], [0, -np.sin(tilt), np.cos(tilt)]])
    return np.asarray(a @ b)


def voxels(seed: int = 0) -> NDArray[np.uint16]:
    """A head-like lump of 12 bits, (slices, rows, columns), which no flip leaves as it is."""
    columns, rows, slices = SHAPE
    z, y, x = np.meshgrid(np.arange(slices), np.arange(rows), np.arange(columns), indexing="ij")
    inside = ((x - 8) / 7) ** 2 + ((y - 13) / 9) ** 2 + ((z - 5.5) / 5) ** 2 < 1
    noise = np.random.default_rng(seed).integers(0, 200, inside.shape)
    return np.asarray(np.where(inside, 2200 + 30 * x + 20 * y + 20 * z, 20) + noise, dtype=np.uint16)


def series(name: str = "base", *, number: int = 3, description: str = "T1 MPRAGE", seed: int = 0) -> list[Dataset]:
    """A series of MR slices, in their order."""
    row, column, normal = directions()
    made = []
    for place, image in enumerate(voxels(seed)):
        one = Dataset()
        one.SOPClassUID, one.SOPInstanceUID = MRImageStorage, uid(name, place)
        one.StudyInstanceUID, one.SeriesInstanceUID = uid("study"), uid("series", name)
        one.FrameOfReferenceUID = uid("frame")
        one.PatientName, one.PatientID, one.PatientBirthDate, one.PatientSex = PATIENT, "0815", "19700101", "F"
        one.StudyDate, one.StudyTime, one.AccessionNumber, one.StudyID = "20240101", "120000", "", "1"
        one.ReferringPhysicianName, one.Manufacturer, one.Modality = "", "made", "MR"
        one.SeriesNumber, one.SeriesDescription, one.ProtocolName = number, description, description
        one.InstanceNumber, one.ImageType = place + 1, ["ORIGINAL", "PRIMARY", "M"]
        one.ScanningSequence, one.SequenceVariant, one.ScanOptions, one.MRAcquisitionType = "GR", "SP", "", "3D"
        one.EchoTime, one.RepetitionTime, one.EchoTrainLength, one.SliceThickness = 3.0, 2000.0, 1, SPACING[2]
        one.PatientPosition, one.PositionReferenceIndicator, one.Laterality = "HFS", "", ""
        one.ImageOrientationPatient = [round(float(value), 9) for value in (*row, *column)]
        one.ImagePositionPatient = [round(float(v), 6) for v in (-12.5, -8.25, -14.75) + place * SPACING[2] * normal]
        one.PixelSpacing = [SPACING[1], SPACING[0]]
        one.SamplesPerPixel, one.PhotometricInterpretation = 1, "MONOCHROME2"
        one.Rows, one.Columns = image.shape
        one.BitsAllocated, one.BitsStored, one.HighBit, one.PixelRepresentation = 16, 12, 11, 0
        one.PixelData = image.tobytes()
        made.append(one)
    return made


def slices_of(data: NDArray[Any], affine: NDArray[np.float64], *, number: int, description: str) -> list[Dataset]:
    """A series of axes (column, row, slice) with an affine in RAS+, whose intensities take all of 16 bits."""
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    row, column = (lps[:3, axis] / spacing[axis] for axis in range(2))
    low, high = float(data.min()), float(data.max())
    slope = max(high - low, 1e-6) / 65535
    base, made = series()[0], []
    for place in range(data.shape[2]):
        one = copy.deepcopy(base)
        one.SOPInstanceUID, one.SeriesInstanceUID = uid(description, place), uid("series", description)
        one.SeriesNumber, one.SeriesDescription, one.ProtocolName = number, description, description
        one.InstanceNumber, one.SliceThickness = place + 1, round(float(spacing[2]), 6)
        one.ImageOrientationPatient = [round(float(value), 9) for value in (*row, *column)]
        one.ImagePositionPatient = [round(float(v), 6) for v in lps[:3, 3] + place * lps[:3, 2]]
        one.PixelSpacing = [round(float(spacing[1]), 6), round(float(spacing[0]), 6)]
        one.Rows, one.Columns, one.BitsStored, one.HighBit = data.shape[1], data.shape[0], 16, 15
        one.RescaleSlope, one.RescaleIntercept = f"{slope:.10g}"[:16], f"{low:.10g}"[:16]
        one.PixelData = np.rint((data[:, :, place].T - low) / slope).astype(np.uint16).tobytes()
        made.append(one)
    return made


def write(
    folder: Path, slices: Iterable[Dataset], *, syntax: UID = ExplicitVRLittleEndian, suffix: str = ".dcm"
) -> None:
    """Write instances under names that are in no order of slices."""
    folder.mkdir(parents=True, exist_ok=True)
    for one in slices:
        save(folder / f"{uid('name', one.SOPInstanceUID)[-9:]}{suffix}", one, syntax)


def save(path: Path, one: Dataset, syntax: UID = ExplicitVRLittleEndian) -> None:
    """Write one instance."""
    path.parent.mkdir(parents=True, exist_ok=True)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = one.SOPClassUID, one.SOPInstanceUID
    meta.TransferSyntaxUID = getattr(getattr(one, "file_meta", None), "TransferSyntaxUID", syntax)
    one = copy.copy(one)
    if meta.TransferSyntaxUID == ExplicitVRBigEndian and "PixelData" in one:
        one.PixelData = np.frombuffer(one.PixelData, "<u2").astype(">u2").tobytes()
    syntax = meta.TransferSyntaxUID
    file = FileDataset(
        str(path), one, bytes(128), meta, is_implicit_VR=syntax.is_implicit_VR, is_little_endian=syntax.is_little_endian
    )
    file.save_as(path, enforce_file_format=True)


def moved(slices: Sequence[Dataset], place: int, along_mm: float, *, direction: int = 2) -> None:
    """Move one slice along its normal, or along its rows or columns."""
    by = along_mm * directions()[direction]
    slices[place].ImagePositionPatient = [round(float(v), 6) for v in np.array(slices[place].ImagePositionPatient) + by]


def plain(folder: Path) -> None:
    """Twelve slices whose names say nothing of their order."""
    write(folder, series())


def gap(folder: Path) -> None:
    """One slice is missing."""
    slices = series()
    del slices[5]
    write(folder, slices)


def doubled(folder: Path) -> None:
    """One slice is there a second time under another UID."""
    slices = series()
    again = copy.deepcopy(slices[4])
    again.SOPInstanceUID = uid("again")
    write(folder, [*slices, again])


def doubled_differing(folder: Path) -> None:
    """Two slices that differ lie at one position."""
    slices = series()
    again = copy.deepcopy(slices[4])
    again.SOPInstanceUID, again.PixelData = uid("again"), slices[5].PixelData
    write(folder, [*slices, again])


def copied(folder: Path) -> None:
    """One file is there twice."""
    write(folder, series())
    write(folder / "again", series()[3:4])


def two_series(folder: Path) -> None:
    """Two series of one study."""
    write(folder, [*series(), *series("t2", number=7, description="T2 TSE", seed=1)])


def temporal(folder: Path) -> None:
    """Three volumes, told apart by TemporalPositionIdentifier."""
    volumes = [series(f"volume {turn}", seed=turn) for turn in range(3)]
    for turn, volume in enumerate(volumes):
        for one in volume:
            one.SeriesInstanceUID, one.TemporalPositionIdentifier = uid("series", "4D"), turn + 1
            one.InstanceNumber += 12 * turn
    write(folder, [one for volume in volumes for one in volume])


def repeated(folder: Path) -> None:
    """Three volumes that nothing but their InstanceNumber tells apart."""
    volumes = [series(f"volume {turn}", seed=turn) for turn in range(3)]
    for turn, volume in enumerate(volumes):
        for one in volume:
            one.SeriesInstanceUID = uid("series", "4D")
            one.InstanceNumber += 12 * turn
    write(folder, [one for volume in volumes for one in volume])


def echoes(folder: Path) -> None:
    """Two echoes in one series."""
    volumes = [series(f"echo {turn}", seed=turn) for turn in range(2)]
    for turn, volume in enumerate(volumes):
        for one in volume:
            one.SeriesInstanceUID, one.EchoNumbers, one.EchoTime = uid("series", "echoes"), turn + 1, 3.0 + 4 * turn
    write(folder, [one for volume in volumes for one in volume])


def phase(folder: Path) -> None:
    """Magnitude and phase in one series."""
    volumes = [series(kind, seed=turn) for turn, kind in enumerate("MP")]
    for kind, volume in zip("MP", volumes, strict=True):
        for one in volume:
            one.SeriesInstanceUID, one.ImageType = uid("series", "complex"), ["ORIGINAL", "PRIMARY", kind]
    write(folder, [one for volume in volumes for one in volume])


def compressed(syntax: UID) -> Maker:
    """Maker of a series in a compressed transfer syntax."""

    def make(folder: Path) -> None:
        slices = series()
        for one in slices:
            one.file_meta = FileMetaDataset()
            one.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
            one.compress(syntax, generate_instance_uid=False)
        write(folder, slices)

    return make


def by_gdcm(syntax: int) -> Maker:
    """Maker of a series that GDCM has compressed, which takes small images."""

    def make(folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as place:
            write(Path(place), series())
            for file in sorted(Path(place).iterdir()):
                reader = gdcm.ImageReader()
                reader.SetFileName(str(file))
                reader.Read()
                change = gdcm.ImageChangeTransferSyntax()
                change.SetTransferSyntax(gdcm.TransferSyntax(syntax))
                change.SetInput(reader.GetImage())
                change.Change()
                writer = gdcm.ImageWriter()
                writer.SetFileName(str(folder / file.name))
                writer.SetFile(reader.GetFile())
                writer.SetImage(change.GetOutput())
                writer.Write()

    return make


def stored(syntax: UID) -> Maker:
    """Maker of a series in an uncompressed transfer syntax."""
    return lambda folder: write(folder, series(), syntax=syntax)


def bare(folder: Path) -> None:
    """Files without preamble and magic word, in implicit little endian, as old scanners write them."""
    folder.mkdir(parents=True, exist_ok=True)
    for place, one in enumerate(series()):
        one.save_as(folder / f"{(7 * place) % 12:04d}", implicit_vr=True, little_endian=True, enforce_file_format=False)


def legacy_enhanced(folder: Path) -> None:
    """One multi-frame file, converted by highdicom from single-frame ones."""
    slices = series()
    for one in slices:
        one.file_meta = FileMetaDataset()
        one.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    one = highdicom.legacy.LegacyConvertedEnhancedMRImage(
        [slices[(7 * place) % 12] for place in range(12)], uid("enhanced series"), 9, uid("enhanced"), 1
    )
    folder.mkdir(parents=True, exist_ok=True)
    one.save_as(folder / "enhanced.dcm")


def enhanced(folder: Path, *, volumes: int = 1) -> None:
    """One multi-frame file as newer scanners write it, with a slope for each frame; or several volumes in it."""
    slices = series()
    one = copy.deepcopy(slices[0])
    for word in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "EchoTime"):
        delattr(one, word)
    one.SOPClassUID, one.SOPInstanceUID = UID("1.2.840.10008.5.1.4.1.1.4.1"), uid("enhanced", volumes)
    order = [((5 * place) % 12, turn) for place in range(12) for turn in range(volumes)]
    one.NumberOfFrames = len(order)
    shared, measures, plane = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = slices[0].PixelSpacing, SPACING[2]
    plane.ImageOrientationPatient = slices[0].ImageOrientationPatient
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [plane]
    one.SharedFunctionalGroupsSequence = [shared]
    frames, images = [], []
    for place, turn in order:
        frame, position, content, values = Dataset(), Dataset(), Dataset(), Dataset()
        position.ImagePositionPatient = slices[place].ImagePositionPatient
        content.FrameAcquisitionNumber, content.TemporalPositionIndex, content.StackID = 1, turn + 1, "1"
        content.InStackPositionNumber = place + 1
        values.RescaleSlope, values.RescaleIntercept, values.RescaleType = 1 + 0.5 * place, 10.0 * turn, "US"
        frame.PlanePositionSequence, frame.FrameContentSequence = [position], [content]
        frame.PixelValueTransformationSequence = [values]
        frames.append(frame)
        images.append(slices[place].PixelData)
    one.PerFrameFunctionalGroupsSequence, one.PixelData = frames, b"".join(images)
    save(folder / "enhanced.dcm", one)


def enhanced_4d(folder: Path) -> None:
    """One multi-frame file of two volumes."""
    enhanced(folder, volumes=2)


def localizer(folder: Path) -> None:
    """A localizer of three planes beside the series."""
    slices = series("loc", number=1, description="localizer", seed=2)[:9]
    turns = np.eye(3)[[[0, 1], [1, 2], [0, 2]]]
    for place, one in enumerate(slices):
        one.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
        one.ImageOrientationPatient = [float(value) for value in turns[place // 3].ravel()]
    write(folder, [*series(), *slices])


def mixed_orientations(folder: Path) -> None:
    """Half of the slices of one series are of another orientation."""
    slices, other = series(), series("other", seed=1)
    for one in other:
        one.SeriesInstanceUID, one.ImageOrientationPatient = slices[0].SeriesInstanceUID, [0, 1, 0, 0, 0, -1]
        one.ImagePositionPatient = [one.InstanceNumber * 2.5, 0, 0]
    write(folder, [*slices, *other])


def mixed_sizes(folder: Path) -> None:
    """One image of a series is of another size, such as a picture of its plan."""
    slices = series()
    one = copy.deepcopy(slices[0])
    one.SOPInstanceUID, one.Rows, one.Columns, one.InstanceNumber = uid("size"), 8, 8, 13
    one.PixelData = bytes(128)
    write(folder, [*slices, one])


def no_orientation(folder: Path) -> None:
    """ImageOrientationPatient is missing."""
    slices = series()
    for one in slices:
        del one.ImageOrientationPatient
    write(folder, slices)


def no_position(folder: Path) -> None:
    """ImagePositionPatient is missing."""
    slices = series()
    for one in slices:
        del one.ImagePositionPatient
    write(folder, slices)


def gantry_tilt(folder: Path) -> None:
    """Slices that lie beside each other, as of a tilted gantry."""
    slices = series()
    for place in range(len(slices)):
        moved(slices, place, 0.8 * place, direction=1)
    write(folder, slices)


def unequal(folder: Path) -> None:
    """The upper half of the slices lies further apart."""
    slices = series()
    for place in range(6, len(slices)):
        moved(slices, place, 1.3 * (place - 5))
    write(folder, slices)


def uneven(folder: Path) -> None:
    """One slice lies 0.1 mm off its place."""
    slices = series()
    moved(slices, 6, 0.1)
    write(folder, slices)


def mosaic(folder: Path) -> None:
    """Images that hold several slices each."""
    slices = series()[:2]
    for one in slices:
        one.ImageType = ["ORIGINAL", "PRIMARY", "M", "MOSAIC"]
        one.Manufacturer = "SIEMENS"
    write(folder, slices)


def other_study(folder: Path) -> None:
    """A slice of another study under the same series."""
    slices = series()
    slices[3].StudyInstanceUID = uid("another study")
    write(folder, slices)


def other_patient(folder: Path) -> None:
    """A series of another patient in the folder."""
    others = series("other", number=3, seed=1)
    for one in others:
        one.PatientName, one.PatientID, one.StudyInstanceUID = "ROE^RICHARD", "4711", uid("another study")
    write(folder, [*series(), *others])


def no_pixels(folder: Path) -> None:
    """A report and a presentation state beside the series, and one in it."""
    report, state = copy.deepcopy(series("report", number=99)[0]), copy.deepcopy(series()[0])
    report.SOPClassUID, report.Modality, report.SeriesDescription = UID("1.2.840.10008.5.1.4.1.1.88.11"), "SR", "report"
    state.SOPClassUID, state.SOPInstanceUID = UID("1.2.840.10008.5.1.4.1.1.11.1"), uid("state")
    for one in (report, state):
        for word in ("PixelData", "Rows", "Columns", "ImagePositionPatient", "ImageOrientationPatient"):
            delattr(one, word)
    write(folder, [*series(), report, state])


def segmentation(folder: Path) -> None:
    """A DICOM segmentation beside its series."""
    slices = series()
    write(folder, slices)
    code = highdicom.sr.CodedConcept("12738006", "SCT", "Brain")
    described = highdicom.seg.SegmentDescription(
        1, "brain", code, code, highdicom.seg.SegmentAlgorithmTypeValues.MANUAL
    )
    files = [dcmread(file) for file in sorted(folder.iterdir())]
    made = highdicom.seg.Segmentation(
        files,
        np.stack([file.pixel_array > 1000 for file in files]),
        highdicom.seg.SegmentationTypeValues.BINARY,
        [described],
        uid("seg series"),
        50,
        uid("seg"),
        1,
        "made",
        "made",
        "1",
        "1",
    )
    made.save_as(folder / "seg.dcm")


def colour(folder: Path) -> None:
    """A picture in colour beside the series."""
    one = copy.deepcopy(series("colour", number=200, description="screen")[0])
    one.SOPClassUID, one.SamplesPerPixel = UID("1.2.840.10008.5.1.4.1.1.7"), 3
    one.PhotometricInterpretation, one.PlanarConfiguration = "RGB", 0
    one.BitsAllocated, one.BitsStored, one.HighBit = 8, 8, 7
    one.PixelData = bytes(3 * one.Rows * one.Columns)
    for word in ("ImagePositionPatient", "ImageOrientationPatient"):
        delattr(one, word)
    write(folder, [*series(), one])


def scaled(folder: Path) -> None:
    """Signed values with a slope and an intercept for each slice."""
    slices = series()
    for place, one in enumerate(slices):
        one.BitsStored, one.HighBit, one.PixelRepresentation = 16, 15, 1
        one.PixelData = (np.frombuffer(one.PixelData, np.uint16).astype(np.int16) - 1024).tobytes()
        one.RescaleSlope, one.RescaleIntercept = 1 + 0.25 * place, -3.5 * place
    write(folder, slices)


def signed_12_bits(folder: Path) -> None:
    """Signed values of 12 bits, whose four upper bits are not their sign."""
    slices = series()
    for one in slices:
        one.PixelRepresentation = 1
        values = np.frombuffer(one.PixelData, np.uint16).astype(np.int16) - 2000
        one.PixelData = (values.astype(np.uint16) & 0xFFF).tobytes()
    write(folder, slices)


def high_bits(folder: Path) -> None:
    """Twelve bits in the upper part of sixteen."""
    slices = series()
    for one in slices:
        one.HighBit = 15
        one.PixelData = (np.frombuffer(one.PixelData, np.uint16) << 4).tobytes()
    write(folder, slices)


def overlay_bits(folder: Path) -> None:
    """Twelve bits with an overlay drawn in a bit above them, as was once the custom."""
    slices = series()
    for one in slices:
        values = np.frombuffer(one.PixelData, np.uint16).copy()
        values[:40] |= 0x8000
        one.PixelData = values.tobytes()
    write(folder, slices)


def truncated(folder: Path) -> None:
    """One file ends within its voxels."""
    write(folder, series())
    first = sorted(folder.iterdir())[2]
    first.write_bytes(first.read_bytes()[:-200])


def dicomdir(folder: Path) -> None:
    """A medium with a DICOMDIR, whose names have no suffix."""
    files = FileSet()
    for one in series():
        with tempfile.TemporaryDirectory() as place:
            save(Path(place, "one"), one)
            files.add(dcmread(Path(place, "one")))
    files.write(folder)
    files._stage["t"].cleanup()  # noqa: SLF001 - it would warn when it is collected


def zipped(folder: Path) -> None:
    """A zip of the series."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place, zipfile.ZipFile(folder / "series.zip", "w") as archive:
        write(Path(place), series())
        for file in sorted(Path(place).iterdir()):
            archive.write(file, f"study/{file.name}")
        archive.writestr("study/readme.txt", "no image")


def computed_tomography(folder: Path) -> None:
    """A series that is no MR."""
    slices = series(description="CT head")
    for one in slices:
        one.SOPClassUID, one.Modality = UID("1.2.840.10008.5.1.4.1.1.2"), "CT"
        one.RescaleSlope, one.RescaleIntercept = 1, -1024
    write(folder, slices)


#: Each folder by its name.
FOLDERS: dict[str, Maker] = {
    "plain": plain,
    "gap": gap,
    "doubled": doubled,
    "doubled, differing": doubled_differing,
    "copied": copied,
    "two series": two_series,
    "4D, temporal position": temporal,
    "4D, repeated": repeated,
    "two echoes": echoes,
    "magnitude and phase": phase,
    "JPEG 2000": by_gdcm(gdcm.TransferSyntax.JPEG2000Lossless),
    "JPEG Lossless": by_gdcm(gdcm.TransferSyntax.JPEGLosslessProcess14_1),
    "JPEG-LS": compressed(JPEGLSLossless),
    "RLE": compressed(RLELossless),
    "deflated": stored(DeflatedExplicitVRLittleEndian),
    "big endian": stored(ExplicitVRBigEndian),
    "implicit": stored(ImplicitVRLittleEndian),
    "without preamble": bare,
    "legacy enhanced": legacy_enhanced,
    "enhanced": enhanced,
    "enhanced, 4D": enhanced_4d,
    "localizer": localizer,
    "mixed orientations": mixed_orientations,
    "mixed sizes": mixed_sizes,
    "no orientation": no_orientation,
    "no position": no_position,
    "gantry tilt": gantry_tilt,
    "unequal distances": unequal,
    "uneven distances": uneven,
    "mosaic": mosaic,
    "other study": other_study,
    "other patient": other_patient,
    "reports": no_pixels,
    "segmentation": segmentation,
    "colour": colour,
    "signed, scaled": scaled,
    "signed 12 bits": signed_12_bits,
    "high bits": high_bits,
    "overlay in bits": overlay_bits,
    "truncated": truncated,
    "DICOMDIR": dicomdir,
    "zip": zipped,
    "CT": computed_tomography,
}


def path_of(name: str, folder: Path) -> Path:
    """What a user names of a folder that was made."""
    return {"zip": folder / "series.zip", "DICOMDIR": folder / "DICOMDIR"}.get(name, folder)
