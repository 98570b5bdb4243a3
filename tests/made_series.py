"""Series of DICOM images, made with pydicom: any orientation, any spacing, of one frame or of many."""

from __future__ import annotations

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import EnhancedMRImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid

#: Directions of rising columns and rising rows, LPS+.
AXIAL = (1, 0, 0, 0, 1, 0)
SAGITTAL = (0, 1, 0, 0, 0, -1)
CORONAL = (1, 0, 0, 0, 0, -1)


def turned(orientation: tuple[float, ...], degrees: tuple[float, float, float]) -> tuple[float, ...]:
    """An orientation after turns about the three axes."""
    turn = np.eye(3)
    for axis, angle in enumerate(np.radians(degrees)):
        one = np.eye(3)
        i, j = [n for n in range(3) if n != axis]
        one[[i, j], [i, j]] = np.cos(angle)
        one[i, j], one[j, i] = -np.sin(angle), np.sin(angle)
        turn = one @ turn
    return (*(turn @ np.array(orientation[:3], float)), *(turn @ np.array(orientation[3:], float)))


def series(
    shape: tuple[int, int, int] = (6, 10, 8),
    *,
    orientation: tuple[float, ...] = AXIAL,
    origin: tuple[float, float, float] = (-12.5, 7.25, 30.0),
    pixel_mm: tuple[float, float] = (1.1, 0.9),
    spacing_mm: float = 2.5,
    thickness_mm: float | None = 2.0,
    seed: int = 0,
    values: np.ndarray | None = None,
    **attributes: object,
) -> list[Dataset]:
    """Images of a series of (slices, rows, columns) pixels, noise unless `values` are given, in their order."""
    pixels = np.random.default_rng(seed).integers(0, 4000, shape) if values is None else values
    shape = pixels.shape
    directions = np.array(orientation, float).reshape(2, 3)
    normal = np.cross(*directions)
    study, made, frame = (generate_uid(entropy_srcs=[f"{what}{seed}"]) for what in ("study", "series", "frame"))
    images = []
    for number in range(shape[0]):
        image = _image(MRImageStorage, generate_uid(entropy_srcs=[f"{seed} {number}"]))
        image.StudyInstanceUID, image.SeriesInstanceUID, image.FrameOfReferenceUID = study, made, frame
        image.InstanceNumber = number + 1
        image.ImageOrientationPatient = [f"{value:.10f}"[:16] for value in directions.ravel()]
        image.ImagePositionPatient = [f"{v:.8f}"[:16] for v in np.array(origin) + number * spacing_mm * normal]
        image.PixelSpacing = list(pixel_mm)
        if thickness_mm is not None:
            image.SliceThickness = thickness_mm
        _pixels(image, pixels[number])
        for name, value in attributes.items():
            setattr(image, name, value)
        images.append(image)
    return images


def enhanced(images: list[Dataset], *, per_frame: bool = False) -> Dataset:
    """One multi-frame image of the images of a series, with its orientation shared or in each frame."""
    made = _image(EnhancedMRImageStorage, generate_uid(entropy_srcs=["enhanced", images[0].SOPInstanceUID]))
    for name in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
        setattr(made, name, images[0][name].value)
    made.InstanceNumber = 1
    shared, frames = Dataset(), []
    for image in images:
        frame, position = Dataset(), Dataset()
        position.ImagePositionPatient = image.ImagePositionPatient
        frame.PlanePositionSequence = [position]
        orientation, measures = Dataset(), Dataset()
        orientation.ImageOrientationPatient = image.ImageOrientationPatient
        measures.PixelSpacing, measures.SliceThickness = image.PixelSpacing, image.SliceThickness
        holder = frame if per_frame else shared
        holder.PlaneOrientationSequence, holder.PixelMeasuresSequence = [orientation], [measures]
        frames.append(frame)
    made.SharedFunctionalGroupsSequence, made.PerFrameFunctionalGroupsSequence = [shared], frames
    _pixels(made, np.stack([image.pixel_array for image in images]))
    made.NumberOfFrames = len(images)
    return made


def affine(images: list[Dataset]) -> np.ndarray:
    """(4, 4) RAS+ of an array (column, row, slice), from two positions: another way than the package's."""
    first, last = (np.array(image.ImagePositionPatient, float) for image in (images[0], images[-1]))
    across, down = np.array(images[0].ImageOrientationPatient, float).reshape(2, 3)
    rows_mm, columns_mm = images[0].PixelSpacing
    lps = np.eye(4)
    step = (last - first) / (len(images) - 1) if len(images) > 1 else np.cross(across, down)
    lps[:3] = np.column_stack([across * columns_mm, down * rows_mm, step, first])
    return np.diag([-1, -1, 1, 1]) @ lps


def _image(kind: str, uid: str) -> Dataset:
    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.file_meta.MediaStorageSOPClassUID, image.file_meta.MediaStorageSOPInstanceUID = kind, uid
    image.SpecificCharacterSet = "ISO_IR 100"
    image.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND"]
    image.SOPClassUID, image.SOPInstanceUID, image.Modality = kind, uid, "MR"
    image.PatientName, image.PatientID, image.PatientSex = "Fréchet^Zoë", "17", "O"
    image.PatientBirthDate, image.StudyDate, image.StudyTime = "19800203", "20260102", "120304"
    image.StudyID, image.AccessionNumber, image.ReferringPhysicianName = "3", "A1", "Doctor^A"
    image.SeriesNumber, image.SeriesDescription, image.StudyDescription = 7, "T1 MPRAGE", "Head"
    image.Manufacturer, image.ManufacturerModelName = "Maker", "Scanner 3T"
    image.PositionReferenceIndicator, image.PatientPosition, image.Laterality = "", "HFS", ""
    image.ScanningSequence, image.SequenceVariant, image.ScanOptions = "GR", "NONE", ""
    image.MRAcquisitionType, image.EchoTime, image.EchoTrainLength, image.RepetitionTime = "3D", 3, 1, 2000
    return image


def _pixels(image: Dataset, values: np.ndarray) -> None:
    image.Rows, image.Columns = values.shape[-2:]
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 12, 11, 0
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.PixelData = values.astype("<u2").tobytes()


def save(images: list[Dataset], folder) -> list:
    """Write images into a folder, under names that are in no order."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for image in images:
        paths.append(folder / f"{image.SOPInstanceUID[-8:]}.dcm")
        pydicom.dcmwrite(paths[-1], image, enforce_file_format=True)
    return paths
