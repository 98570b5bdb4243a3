"""A DICOM series in parts that can each be one grid: by geometry first, then what repeats at the same positions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from lowres_seg.dicom.geometry import SAME_DIRECTION, SAME_POSITION_MM, directions, heights
from lowres_seg.dicom.instances import KEYS, Frame, Instance
from lowres_seg.errors import InputError
from lowres_seg.wording import counted

#: SOP classes of segmentations: their frames lie in space, and hold labels.
_MASKS = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
Slice = tuple[Instance, Frame]
#: The voxels of a slice, for a comparison of two at one position.
Voxels = Callable[[Slice], NDArray[np.float32]]


@dataclass(frozen=True)
class Part:
    """Slices of one orientation, size and spacing, each position once; or what is wrong with them.

    Attributes
    ----------
    slices : list of (Instance, Frame)
    doubts : list of str
    problem : str
        Why they make no grid; empty if they may.
    why : str
        What tells the part from the others of its series.
    """

    slices: list[Slice]
    doubts: list[str] = field(default_factory=list)
    problem: str = ""
    why: str = ""


def parted(instances: Sequence[Instance], voxels: Voxels) -> list[Part]:
    """Parts of a series, in the order of their first slices.

    Parameters
    ----------
    instances : sequence of Instance
        Of one series.
    voxels : callable
        Voxels of a slice, asked for slices at one position that nothing else tells apart.
    """
    instances, doubts = _each_once(instances)
    slices = [(instance, frame) for instance in instances for frame in instance.frames]
    if slices and (without := sum(not instance.frames for instance in instances)):
        doubts.append(f"{counted(without, 'object')} without an image {'was' if without == 1 else 'were'} left out")
        instances = [instance for instance in instances if instance.frames]
    if problem := _problem(instances, slices):
        return [Part(slices, doubts, problem)]
    parts: list[Part] = []
    groups = _alike(slices)
    for group in groups:
        why = ""
        if len(groups) > 1:
            frame = group[0][1]
            why = f"{frame.columns}×{frame.rows}, {_plane(frame)}"
        for part in _repeated(group, voxels):
            told = ", ".join(filter(None, (why, part.why)))
            parts.append(Part(part.slices, [*doubts, *part.doubts], part.problem, told))
    return parts


def _each_once(instances: Iterable[Instance]) -> tuple[list[Instance], list[str]]:
    """Instances without copies of files, in the order of their numbers.

    A copy has the UID and the place of another. Some tools that remove names give all files one UID.
    """
    kept: dict[Hashable, Instance] = {}
    count = 0
    for instance in instances:
        count += 1
        places = tuple((frame.position, tuple(map(str, frame.keys.items()))) for frame in instance.frames)
        kept.setdefault((instance.uid or count, instance.number, places), instance)
    copies = count - len(kept)
    told = f"{counted(copies, 'file')} {'is a copy' if copies == 1 else 'are copies'} of others, and left out"
    ordered = sorted(kept.values(), key=lambda one: (one.number is None, one.number or 0))
    return ordered, [told] if copies else []


def _problem(instances: Sequence[Instance], slices: Sequence[Slice]) -> str:
    """Why no part of a series can be a volume; empty if one may."""
    if len({instance.study_uid for instance in instances}) > 1:
        return "its files are of several studies"
    if len({instance.patient for instance in instances}) > 1:
        return "its files are of several patients"
    if not slices:
        return "holds no image"
    if any(instance.sop_class in _MASKS for instance in instances):
        return "is a segmentation"
    if any(instance.colour for instance in instances):
        return "is in colour"
    if any(instance.lookup for instance in instances):
        return "has a table of intensities (Modality LUT)"
    if any(frame.mosaic for _, frame in slices):
        return "is a mosaic, whose images hold several slices each; convert it with dcm2niix"
    if any(frame.rows < 1 or frame.columns < 1 for _, frame in slices):
        return "has no Rows or no Columns"
    if any(directions(frame.orientation) is None for _, frame in slices):
        return "lacks a usable ImageOrientationPatient"
    if any(frame.position is None for _, frame in slices):
        return "lacks ImagePositionPatient"
    if any(frame.spacing_mm is None for _, frame in slices):
        return "lacks PixelSpacing"
    if any(frame.slope == 0 for _, frame in slices):
        return "has a RescaleSlope of 0"
    return ""


def _alike(slices: Sequence[Slice]) -> list[list[Slice]]:
    """Slices of one orientation, size, spacing and frame of reference."""
    groups: list[list[Slice]] = []
    for one in slices:
        group = next((group for group in groups if _same_plane(group[0][1], one[1])), None)
        if group is None:
            groups.append([one])
        else:
            group.append(one)
    return groups


def _same_plane(a: Frame, b: Frame) -> bool:
    return (
        (a.rows, a.columns, a.frame_of_reference) == (b.rows, b.columns, b.frame_of_reference)
        and bool(np.allclose(a.orientation or (), b.orientation or (), rtol=0, atol=SAME_DIRECTION))
        and bool(np.allclose(a.spacing_mm or (), b.spacing_mm or (), rtol=1e-3, atol=0))
    )


def _plane(frame: Frame) -> str:
    """Anatomical plane that a slice is nearest to."""
    found = directions(frame.orientation)
    return "" if found is None else ("sagittal", "coronal", "axial")[int(np.abs(found[2]).argmax())]


def _repeated(slices: list[Slice], voxels: Voxels, keys: Sequence[str] = KEYS) -> list[Part]:
    """Parts of slices of one plane so that no position is there twice."""
    places = _places([frame for _, frame in slices])
    counts = Counter(places)
    most = max(counts.values())
    if most == 1:
        return [Part(slices)]
    for at, key in enumerate(keys):
        groups: dict[str, list[Slice]] = {}
        for one in slices:
            groups.setdefault(str(one[1].keys.get(key, "")), []).append(one)
        parts = [_places([frame for _, frame in group]) for group in groups.values()]
        if 1 < len(groups) <= most and max(max(Counter(part).values()) for part in parts) < most:
            return [
                Part(part.slices, part.doubts, part.problem, ", ".join(filter(None, (f"{key} {value}", part.why))))
                for value, group in sorted(groups.items(), key=lambda item: _natural(item[0]))
                for part in _repeated(group, voxels, keys[at + 1 :])
            ]
    by_place: dict[int, list[Slice]] = {}
    for place, one in zip(places, slices, strict=True):
        by_place.setdefault(place, []).append(one)
    if set(counts.values()) == {most} and len(counts) > 1 and not _copied(next(iter(by_place.values())), voxels):
        volumes = [[group[turn] for group in by_place.values()] for turn in range(most)]
        return [Part(volume, why=f"volume {turn} of {most}") for turn, volume in enumerate(volumes, start=1)]
    twice = [group for group in by_place.values() if len(group) > 1]
    try:
        differ = [group for group in twice if any(not _equal(group[0], one, voxels) for one in group[1:])]
    except InputError as error:
        return [Part(slices, problem=str(error))]
    if differ:
        return [Part(slices, problem=f"{counted(len(differ), 'position')} {_have(differ)} several slices that differ")]
    left = len(slices) - len(by_place)
    told = f"{counted(left, 'slice')} {'repeats' if left == 1 else 'repeat'} another voxel for voxel, and "
    return [Part([group[0] for group in by_place.values()], [f"{told}{'was' if left == 1 else 'were'} left out"])]


def _natural(value: str) -> tuple[float, str]:
    """Order of numbers by their size, then of words."""
    try:
        return float(value), ""
    except ValueError:
        return float("inf"), value


def _have(groups: Sequence[object]) -> str:
    return "has" if len(groups) == 1 else "have"


def _copied(group: Sequence[Slice], voxels: Voxels) -> bool:
    """Tell whether the slices of one position are the same; one that cannot be decoded is told later."""
    try:
        return all(_equal(group[0], one, voxels) for one in group[1:])
    except InputError:
        return False


def _equal(a: Slice, b: Slice, voxels: Voxels) -> bool:
    return bool(np.array_equal(voxels(a), voxels(b)))


def _places(frames: Sequence[Frame]) -> list[int]:
    """Number of the position of each slice, along their normal."""
    along = heights(frames)
    order = np.argsort(along, kind="stable")
    place, found = 0, [0] * len(frames)
    for before, at in pairwise(order):
        place += bool(along[at] - along[before] > SAME_POSITION_MM)
        found[at] = place
    return found
