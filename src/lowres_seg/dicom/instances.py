"""What the headers of DICOM files say, as plain values. With `pixels`, the home of pydicom.

Text of a header that may name a patient is read for comparison only, and goes into no message.
"""

from __future__ import annotations

import hashlib
import math
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pydicom
from pydicom.datadict import tag_for_keyword
from pydicom.filereader import read_partial

from lowres_seg.dicom.files import Stored
from lowres_seg.errors import InputError

#: Elements that hold voxels.
_PIXELS, _FLOATS = 0x7FE00010, (0x7FE00008, 0x7FE00009)
_DIRECTORY = "1.2.840.10008.1.3.10"
_OF_INSTANCE = (
    *("SpecificCharacterSet", "ImageType", "SOPClassUID", "SOPInstanceUID", "Modality", "SeriesDescription"),
    *("PatientID", "PatientName", "StudyInstanceUID", "SeriesInstanceUID", "SeriesNumber"),
    *("InstanceNumber", "ProtocolName", "SequenceName", "ContrastBolusAgent", "FrameOfReferenceUID"),
    *("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated"),
    *("BitsStored", "HighBit", "PixelRepresentation", "ModalityLUTSequence"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
)
_OF_FRAME = (
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "SpacingBetweenSlices"),
    *("RescaleSlope", "RescaleIntercept", "TemporalPositionIdentifier", "TemporalPositionIndex", "EchoNumbers"),
    *("EchoTime", "EffectiveEchoTime", "FrameType", "ComplexImageComponent", "DiffusionBValue", "InversionTime"),
    *("InversionTimes", "TriggerTime", "NominalCardiacTriggerDelayTime", "StackID", "AcquisitionNumber"),
    *("FrameAcquisitionNumber", "AcquisitionTime"),
)
#: What tells volumes at the same positions apart, the surest first.
KEYS = (
    *("TemporalPositionIdentifier", "TemporalPositionIndex", "EchoNumbers", "EchoTime", "EffectiveEchoTime"),
    *("ImageType", "FrameType", "ComplexImageComponent", "DiffusionBValue", "InversionTime", "InversionTimes"),
    *("TriggerTime", "NominalCardiacTriggerDelayTime", "StackID", "AcquisitionNumber", "FrameAcquisitionNumber"),
    "AcquisitionTime",
)
_TAGS: list[Any] = [tag_for_keyword(word) for word in (*_OF_INSTANCE, *_OF_FRAME)]


@dataclass(frozen=True)
class Instance:
    """What the header of one file says.

    Attributes
    ----------
    stored : Stored
    uid, sop_class, series_uid, study_uid : str
    patient : str
        Digest of what names the patient, for comparison only.
    number : int or None
        InstanceNumber.
    series_number : str
    description : str
        SeriesDescription.
    words : str
        Description, protocol and sequence.
    contrast : bool
        Whether a contrast agent is named.
    modality : str
    image_type : tuple of str
    has_pixels : bool
        Whether it holds voxels of whole numbers.
    colour : bool
        Whether its voxels are no single intensities.
    lookup : bool
        Whether its values are places in a table of intensities.
    frames : tuple of Frame
    """

    stored: Stored
    uid: str
    sop_class: str
    series_uid: str
    study_uid: str
    patient: str
    number: int | None
    series_number: str
    description: str
    words: str
    contrast: bool
    modality: str
    image_type: tuple[str, ...]
    has_pixels: bool
    colour: bool
    lookup: bool
    frames: tuple[Frame, ...] = field(default=(), repr=False)

    def header(self) -> Any:
        """Read the header of the file anew, as a pydicom.Dataset.

        Raises
        ------
        InputError
            If it cannot be read.
        """
        with self.stored.open() as stream, _quiet(self.stored):
            return pydicom.dcmread(stream, force=True, stop_before_pixels=True)

    def dataset(self) -> Any:
        """Read the whole file anew, as a pydicom.Dataset.

        Raises
        ------
        InputError
            If it cannot be read.
        """
        with self.stored.open() as stream, _quiet(self.stored):
            found = pydicom.dcmread(stream, force=True)
            if "TransferSyntaxUID" not in found.file_meta:  # a file without meta data is uncompressed
                implicit, little = found.original_encoding
                words = pydicom.uid.ImplicitVRLittleEndian, pydicom.uid.ExplicitVRLittleEndian
                found.file_meta.TransferSyntaxUID = words[not implicit] if little else pydicom.uid.ExplicitVRBigEndian
            return found


@dataclass(frozen=True)
class Frame:
    """One slice: an image of a file, and where it lies.

    Attributes
    ----------
    index : int
        Place in its file.
    rows, columns : int
    position : tuple of 3 float, or None
        Centre of the first voxel in mm, LPS.
    orientation : tuple of 6 float, or None
        Direction of a row, then of a column, LPS.
    spacing_mm : tuple of 2 float, or None
        Between rows, then between columns.
    between_mm, thickness_mm : float or None
        SpacingBetweenSlices and SliceThickness.
    slope, intercept : float
        Of the stored values.
    frame_of_reference : str
    keys : dict of str to object
        What is there of `KEYS`.
    mosaic : bool
        Whether the image is several slices beside each other.
    """

    index: int
    rows: int
    columns: int
    position: tuple[float, ...] | None
    orientation: tuple[float, ...] | None
    spacing_mm: tuple[float, ...] | None
    between_mm: float | None
    thickness_mm: float | None
    slope: float
    intercept: float
    frame_of_reference: str
    keys: dict[str, object]
    mosaic: bool


def read(stored: Stored) -> Instance | None:
    """Read the header of a file; None of a directory of files.

    Raises
    ------
    InputError
        If it cannot be read as DICOM, or it ends within its voxels.
    """
    behind: list[tuple[int, int]] = []

    def at_voxels(tag: int, _: str | None, length: int) -> bool:
        if tag == _PIXELS or tag in _FLOATS:
            behind.append((tag, length))
        return tag >= _FLOATS[0]

    with stored.open() as stream, _quiet(stored):
        found = read_partial(stream, at_voxels, force=True, specific_tags=_TAGS)
        first = stream.tell()
        deflated = getattr(found.file_meta, "TransferSyntaxUID", "") == pydicom.uid.DeflatedExplicitVRLittleEndian
        left = stream.seek(0, os.SEEK_END) - first
        if str(getattr(found.file_meta, "MediaStorageSOPClassUID", "")) == _DIRECTORY:
            return None
        has_pixels = any(tag == _PIXELS for tag, _ in behind)
        length = behind[0][1] if behind else 0
        if not deflated and has_pixels and length != 0xFFFFFFFF and length > left:
            raise InputError(f"{stored.name}: ends within its voxels, it is truncated; fetch it again")
        if not _text(found, "SOPClassUID") and not _text(found, "SeriesInstanceUID"):
            raise InputError(f"{stored.name}: cannot be read as DICOM: it names no SOP class and no series")
        return _instance(stored, found, has_pixels=has_pixels)


def listed(path: Path) -> list[Stored]:
    """Files that a DICOMDIR names.

    Raises
    ------
    InputError
        If it cannot be read, or names files that are not there.
    """
    stored = Stored(path)
    with stored.open() as stream, _quiet(stored):
        records = pydicom.dcmread(stream).get("DirectoryRecordSequence") or []
        parts = [record.get("ReferencedFileID") for record in records]
        names = [[part] if isinstance(part, str) else list(part) for part in parts if part]
    root = path.parent.resolve()
    files = [path.parent.joinpath(*name) for name in names]
    if any(not file.resolve().is_relative_to(root) for file in files):
        raise InputError(f"{path}: names files outside of its folder; name the folder of the series")
    gone = [file for file in files if not file.is_file()]
    if gone or not files:
        told = f"{len(gone)} of the {len(files)} files that it names are not there, such as {gone[0]}" if gone else ""
        raise InputError(f"{path}: {told or 'names no file'}; copy the whole medium, or name the folder of the series")
    return [Stored(file) for file in files]


@contextmanager
def _quiet(stored: Stored) -> Iterator[None]:
    """Read with pydicom: without warnings, which repeat values of the header, and with errors of this package."""
    with warnings.catch_warnings(), pydicom.config.disable_value_validation():
        warnings.simplefilter("ignore")
        try:
            yield
        except InputError:
            raise
        except OSError as error:
            raise InputError(f"{stored.name}: cannot be read ({error.strerror or type(error).__name__})") from error
        except MemoryError:
            raise
        except Exception as error:  # pydicom raises any, and repeats values of the header in them
            raise InputError(
                f"{stored.name}: cannot be read as DICOM ({type(error).__name__}); fetch it again"
            ) from error


def _instance(stored: Stored, header: Any, *, has_pixels: bool) -> Instance:
    named = _text(header, "PatientID") or _text(header, "PatientName")
    description = _text(header, "SeriesDescription")
    photometric = _text(header, "PhotometricInterpretation").upper()
    return Instance(
        stored,
        _text(header, "SOPInstanceUID"),
        _text(header, "SOPClassUID"),
        _text(header, "SeriesInstanceUID"),
        _text(header, "StudyInstanceUID"),
        hashlib.sha256(named.encode("utf-8", "replace")).hexdigest(),
        _whole(header, "InstanceNumber"),
        _text(header, "SeriesNumber"),
        description,
        " ".join(filter(None, (description, _text(header, "ProtocolName"), _text(header, "SequenceName")))),
        _text(header, "ContrastBolusAgent").lower() not in ("", "none", "no", "without"),
        _text(header, "Modality"),
        tuple(word.upper() for word in _texts(header, "ImageType")),
        has_pixels,
        (_whole(header, "SamplesPerPixel") or 1) != 1 or photometric not in ("", "MONOCHROME1", "MONOCHROME2"),
        bool(header.get("ModalityLUTSequence")),
        tuple(frames(header)) if has_pixels else (),
    )


def frames(header: Any) -> Iterator[Frame]:
    """Slices of a pydicom.Dataset: the image of a classic one, or each frame of an enhanced one."""
    shared = header.get("SharedFunctionalGroupsSequence") or []
    each = header.get("PerFrameFunctionalGroupsSequence") or []
    groups: list[list[Any]] = [[header]]
    if each:
        outer = [inner for group in shared for inner in _inner(group)]
        groups = [[*_inner(frame), *outer, header] for frame in each]
    elif (_whole(header, "NumberOfFrames") or 1) > 1:  # without geometry of each
        groups = [[] for _ in range(_whole(header, "NumberOfFrames") or 1)]
    for index, group in enumerate(groups):
        slope, intercept = (_first(group, word, 1) for word in ("RescaleSlope", "RescaleIntercept"))
        between, thickness = (_first(group, word, 1) for word in ("SpacingBetweenSlices", "SliceThickness"))
        kinds = {word: _key(group, word) for word in KEYS}
        types = (*_texts(header, "ImageType"), *(str(kinds["FrameType"] or "").split("\\")))
        yield Frame(
            index,
            _whole(header, "Rows") or 0,
            _whole(header, "Columns") or 0,
            _first(group, "ImagePositionPatient", 3),
            _first(group, "ImageOrientationPatient", 6),
            _first(group, "PixelSpacing", 2),
            between[0] if between else None,
            thickness[0] if thickness else None,
            1.0 if slope is None else slope[0],
            0.0 if intercept is None else intercept[0],
            _text(header, "FrameOfReferenceUID"),
            {word: value for word, value in kinds.items() if value is not None},
            any("MOSAIC" in word.upper() for word in types),
        )


def _inner(group: Any) -> list[Any]:
    """The single items of the sequences of a functional group."""
    return [element.value[0] for element in group if element.VR == "SQ" and element.value]


def _first(group: Sequence[Any], word: str, count: int) -> tuple[float, ...] | None:
    """The numbers of an element in the first of some datasets that has them."""
    for one in group:
        found = _numbers(one, word, count)
        if found is not None:
            return found
    return None


def _numbers(header: Any, word: str, count: int) -> tuple[float, ...] | None:
    value = header.get(word)
    if value is None:
        return None
    values = [value] if count == 1 and not isinstance(value, (list, pydicom.multival.MultiValue)) else value
    try:
        numbers = tuple(float(one) for one in values)
    except (TypeError, ValueError):
        return None
    return numbers if len(numbers) == count and all(map(math.isfinite, numbers)) else None


def _key(group: Sequence[Any], word: str) -> object:
    for one in group:
        value = one.get(word)
        if value not in (None, ""):
            return str(value) if isinstance(value, str) or not _many(value) else "\\".join(map(str, value))
    return None


def _many(value: object) -> bool:
    return isinstance(value, (list, pydicom.multival.MultiValue))


def _text(header: Any, word: str) -> str:
    value = header.get(word)
    if value is None:
        return ""
    return (str(value[0]) if _many(value) and len(value) else "" if _many(value) else str(value)).strip(" \0")


def _texts(header: Any, word: str) -> list[str]:
    value = header.get(word)
    if value is None:
        return []
    return [str(one) for one in value] if _many(value) else [str(value)]


def _whole(header: Any, word: str) -> int | None:
    found = _numbers(header, word, 1)
    return None if found is None else int(found[0])
