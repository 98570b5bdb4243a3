"""DICOM segmentations: a label map as an object that lies on the images of its series.

The object has the patient, the study and the frame of reference of its source, refers to each source image, and says
which bundle made it. Its UIDs are those of its content: the same label map, of the same series, by the same bundle, has
the same UIDs. So a study that is segmented again, and stored again, does not have two of them.
"""

from __future__ import annotations

import copy
import hashlib
import uuid
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import highdicom
import numpy as np
import pydicom
from highdicom.seg import Segmentation, SegmentDescription
from highdicom.sr import CodedConcept
from numpy.typing import NDArray

from lowres_seg import __version__
from lowres_seg.bundle.pipeline import Code, Label
from lowres_seg.dicom.frames import Frame, frames_of, name_of, planes
from lowres_seg.errors import InputError, one_line
from lowres_seg.volumes.volume import Volume

#: Name of this program where DICOM asks for a manufacturer and a model.
_PROGRAM = "lowres-seg"
#: UUID that the UIDs of segmentations are derived from.
_NAMESPACE = uuid.UUID("6b0c3f0e-53d5-4c4e-9d0c-0a4b1d2a7c18")
#: Longest text of most attributes.
_LONGEST = 64
#: Most frames of which those without a label are written.
_MOST_FRAMES = 2048
#: What each source image must say of itself.
_IDENTITY = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")
#: What a segmentation must have, if only empty; and, where text is of a stated form, what a source says against it.
_NEEDED = (
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "AccessionNumber",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
)
_FORMED = ("PatientBirthDate", "PatientSex", "StudyDate", "StudyTime")
#: Groups of attributes that describe pixels and acquisition, and none of patient, study, or equipment.
_PIXEL_GROUPS = (0x0028, 0x5200, 0x7FE0)

Kind = Literal["binary", "labelmap"]
#: A source, and one of its frames.
Slice = tuple[Any, Frame]


@dataclass(frozen=True)
class Algorithm:
    """What made a label map: a bundle's name, its version, and its digest."""

    name: str
    version: str
    digest: str


@contextmanager
def _as_it_stands() -> Iterator[None]:
    """Leave out pydicom's warnings about what a source says against the standard: it is copied as it stands."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"(pydicom|highdicom)\b")
        yield


@_as_it_stands()
def segmentation(
    sources: Sequence[Any],
    labels: Volume,
    segments: Sequence[Label],
    algorithm: Algorithm,
    *,
    kind: Kind = "binary",
    numbers: Mapping[str, Collection[int]] | None = None,
) -> Any:
    """Make a DICOM segmentation of a label map on the grid of a series.

    Parameters
    ----------
    sources : sequence of pydicom.Dataset
        Images of one series in any order, of one frame or of many. Their pixels are not used.
    labels : Volume
        Label map (uint8).
    segments : sequence of Label
        Each with codes.
    algorithm : Algorithm
    kind : str
        ``binary`` has a frame for each label and slice, with the label's number in the order of `segments`.
        ``labelmap`` has one for each slice, whose pixels are the values of labels. Frames without a label are there
        too, so that other tools read the whole grid; of more than 2048 frames they are left out.
    numbers : mapping of str to collection of int, optional
        Numbers of the frames, from 1, that the label map is of, by the UID of a multi-frame image. Without it, it is of
        the first of those that lie at one place.

    Returns
    -------
    highdicom.seg.Segmentation
        A pydicom dataset.

    Raises
    ------
    InputError
        If a source does not say which image it is and where it lies, or if the sources are not the label map's slices.
    """
    check(sources)
    slices = [
        (source, frame)
        for source in sources
        for frame in frames_of(source)
        if frame.number is None or numbers is None or frame.number in numbers.get(str(source.SOPInstanceUID), ())
    ]
    found = planes(labels.data, labels.grid, [frame for _, frame in slices], [name_of(source) for source, _ in slices])
    first = slices[0][1]
    order = sorted(found, key=lambda n: _distance(slices[n][1], first))
    slices = [slices[n] for n in order]
    described = sorted(segments, key=lambda label: label.value)
    values = {label.value: label.value if kind == "labelmap" else n for n, label in enumerate(described, start=1)}
    uids = _uids(sources[0], labels, described, algorithm, kind)
    made = Segmentation(
        _stand_ins(slices),
        _numbered(np.stack([found[n] for n in order]), values),
        kind.upper(),
        [_description(values[label.value], label, algorithm) for label in described],
        series_instance_uid=uids[0],
        series_number=_series_number(sources[0]),
        sop_instance_uid=uids[1],
        instance_number=1,
        manufacturer=_PROGRAM,
        manufacturer_model_name=_PROGRAM,
        software_versions=__version__,
        device_serial_number=algorithm.digest,
        content_label="SEGMENTATION",
        content_description=f"Segmentation by {algorithm.name} {algorithm.version}"[:_LONGEST],
        series_description=_series_description(sources[0], algorithm),
        omit_empty_frames=len(order) * (1 if kind == "labelmap" else len(described)) > _MOST_FRAMES,
        specific_character_set="ISO_IR 192",
    )
    _refer(made, slices)
    for name in _FORMED:
        if name in sources[0]:
            made[name] = copy.deepcopy(sources[0][name])
    return made


@_as_it_stands()
def write(path: Path, made: Any) -> None:
    """Write a DICOM segmentation to a file that may be replaced.

    Raises
    ------
    InputError
        If its text has a form that DICOM does not write.
    """
    try:
        made.save_as(path, enforce_file_format=True)
    except (ValueError, UnicodeEncodeError) as error:
        raise InputError(f"{path}: its header cannot be written ({one_line(error)}); repair the source") from error


def check(sources: Sequence[Any]) -> None:
    """Check that images are of one series, and say all that a segmentation refers to.

    Raises
    ------
    InputError
        If they do not.
    """
    if not sources:
        raise InputError("sources: there are none, expected the images of a series")
    for source in sources:
        missing = [name for name in _IDENTITY if not source.get(name)]
        if missing:
            raise InputError(
                f"{name_of(source)}: has no {missing[0]}, which a segmentation refers to; name a mask in NIfTI "
                "instead, such as -o mask.nii.gz"
            )
    series = {str(source.SeriesInstanceUID) for source in sources}
    frames_of_reference = {str(source.FrameOfReferenceUID) for source in sources}
    if len(series) > 1 or len(frames_of_reference) > 1:
        raise InputError(
            f"{name_of(sources[0])}: is one of images of {len(series)} series and {len(frames_of_reference)} frames of "
            "reference; expected one series in one frame"
        )


def _distance(frame: Frame, first: Frame) -> float:
    """Distance of a frame along the normal of the first one, in mm."""
    return float(np.cross(first.orientation[:3], first.orientation[3:]) @ frame.position)


def _spacing_mm(frames: Sequence[Frame]) -> float | None:
    """Distance between neighbouring slices; None of one slice."""
    if len(frames) == 1:
        return None
    return round((_distance(frames[-1], frames[0]) - _distance(frames[0], frames[0])) / (len(frames) - 1), 6)


def _numbered(values: NDArray[np.uint8], numbers: dict[int, int]) -> NDArray[np.uint8]:
    """The planes with the numbers of segments in place of the values of labels."""
    table = np.zeros(256, np.uint8)
    table[list(numbers)] = list(numbers.values())
    unknown = sorted(set(np.flatnonzero(np.bincount(values.ravel(), minlength=256)).tolist()) - {0, *numbers})
    if unknown:
        raise InputError(f"labels: have the value {unknown[0]}, expected those of the segments: {sorted(numbers)}")
    return table[values]


def _uids(source: Any, labels: Volume, segments: Sequence[Label], algorithm: Algorithm, kind: str) -> tuple[str, str]:
    """UIDs of the segmentation's series and of its instance, from everything that its content comes from."""
    content = hashlib.sha256(np.ascontiguousarray(labels.data).tobytes())
    content.update(labels.grid.affine.tobytes())
    for text in (source.SeriesInstanceUID, algorithm.digest, __version__, kind, repr(segments)):
        content.update(f"{text}\n".encode())
    series, instance = (uuid.uuid5(_NAMESPACE, f"{what} {content.hexdigest()}") for what in ("series", "instance"))
    return f"2.25.{series.int}", f"2.25.{instance.int}"


def _series_number(source: Any) -> int:
    """Number of the segmentation's series: that of the source, and 1000."""
    number = int(source.get("SeriesNumber") or 0)
    return 1000 + number if 0 <= number < 10**6 else 1000


def _series_description(source: Any, algorithm: Algorithm) -> str:
    """What a list of series shows: the bundle, and the series that it segmented."""
    of = str(source.get("SeriesDescription") or "").replace("\\", " ").strip()
    return f"{algorithm.name} {algorithm.version}{f' of {of}' if of else ''}"[:_LONGEST]


def _description(number: int, label: Label, algorithm: Algorithm) -> SegmentDescription:
    codes = label.codes
    assert codes is not None  # noqa: S101 - `codes.coded` has refused a label without
    made = SegmentDescription(
        segment_number=number,
        segment_label=label.name,
        segmented_property_category=_concept(codes.category),
        segmented_property_type=_concept(codes.type),
        algorithm_type="AUTOMATIC",
        algorithm_identification=highdicom.AlgorithmIdentificationSequence(
            name=algorithm.name,
            family=pydicom.sr.codedict.codes.DCM.ArtificialIntelligence,
            version=algorithm.digest,
        ),
        anatomic_regions=None if codes.region is None else [_concept(codes.region)],
    )
    if codes.modifier is not None:
        kind = made.SegmentedPropertyTypeCodeSequence[0]
        kind.SegmentedPropertyTypeModifierCodeSequence = [_concept(codes.modifier)]
    return made


def _concept(code: Code) -> CodedConcept:
    return CodedConcept(code.value, code.scheme, code.meaning)


def _stand_ins(slices: Sequence[Slice]) -> list[Any]:
    """Datasets of one frame in place of the slices of the sources, under UIDs of their own.

    Each has what the geometry of a segmentation comes from. All have one orientation and the spacing that their
    positions have, which scanners write with rounding, in vendors' own ways, or not at all. The first has the patient
    and the study as well.
    """
    first, spacing = slices[0][1], _spacing_mm([frame for _, frame in slices])
    made = []
    for number, (source, frame) in enumerate(slices):
        one = _described(source) if number == 0 else pydicom.Dataset()
        one.SOPClassUID, one.SOPInstanceUID = pydicom.uid.MRImageStorage, _place(number)
        for name in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
            one[name] = source[name]
        one.Rows, one.Columns = frame.shape
        one.ImageOrientationPatient = [_decimal(value) for value in first.orientation]
        one.ImagePositionPatient = [_decimal(value) for value in frame.position]
        one.PixelSpacing = [_decimal(value) for value in first.pixel_mm]
        one.SliceThickness = _decimal(first.thickness_mm or spacing or 1.0)
        if spacing is not None:
            one.SpacingBetweenSlices = _decimal(spacing)
        made.append(one)
    return made


def _place(number: int) -> str:
    """UID of a stand-in."""
    return f"2.25.{number + 1}"


def _refer(made: Any, slices: Sequence[Slice]) -> None:
    """Let a segmentation refer to the sources, where it refers to their stand-ins."""
    places = {_place(number): one for number, one in enumerate(slices)}
    for item in made.PerFrameFunctionalGroupsSequence:
        for reference in item.DerivationImageSequence[0].SourceImageSequence:
            if reference.ReferencedSOPInstanceUID not in places:  # frames of several labels have one item
                continue
            source, frame = places[reference.ReferencedSOPInstanceUID]
            reference.update(_reference(source))
            if frame.number is not None:
                reference.ReferencedFrameNumber = frame.number
    sources = {str(source.SOPInstanceUID): source for source, _ in slices}
    made.SourceImageSequence = [_reference(source) for source in sources.values()]
    made.ReferencedSeriesSequence[0].ReferencedInstanceSequence = [_reference(source) for source in sources.values()]


def _reference(source: Any) -> Any:
    made = pydicom.Dataset()
    made.ReferencedSOPClassUID, made.ReferencedSOPInstanceUID = source.SOPClassUID, source.SOPInstanceUID
    return made


def _decimal(value: float) -> Any:
    return pydicom.valuerep.DSfloat(float(value), auto_format=True)


def _described(source: Any) -> Any:
    """What a source says of itself, its patient, its study and its equipment, in Unicode."""
    made = pydicom.Dataset()
    for tag in source.keys():  # noqa: SIM118 - a dataset yields elements, which would be read with all pixels
        if not tag.is_private and tag.group not in _PIXEL_GROUPS:
            made[tag] = copy.deepcopy(source[tag])
    made.decode()
    for name in _NEEDED:
        if name not in made or name in _FORMED:
            setattr(made, name, "")
    return made
