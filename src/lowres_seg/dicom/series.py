"""Series of DICOM files: which there are, and each as a volume."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowres_seg import host
from lowres_seg.dicom import files
from lowres_seg.dicom.geometry import stacked
from lowres_seg.dicom.instances import Instance, listed, read
from lowres_seg.dicom.parts import Part, Slice, parted
from lowres_seg.dicom.pixels import Pixels
from lowres_seg.errors import InputError, in_one_line
from lowres_seg.runtime.doubts import Doubt
from lowres_seg.volumes.grid import Grid
from lowres_seg.volumes.nifti import header_of
from lowres_seg.volumes.volume import Volume
from lowres_seg.wording import counted, sizes


@dataclass(frozen=True, eq=False)
class Series:
    """Slices on one grid: a DICOM series, or a part of one that holds several volumes.

    Attributes
    ----------
    path : pathlib.Path
        Folder, zip or first file that a caller named.
    uid : str
        SeriesInstanceUID.
    number : str
        SeriesNumber, with a point and the number of the part if the series has several; empty if it has none.
    description : str
        SeriesDescription.
    slices : tuple of (Instance, Frame)
        In the order of the grid's last axis.
    affine : (4, 4) ndarray or None
        None if there is a problem.
    doubts : tuple of str
        What a reader of a result should know.
    problem : str
        Why it makes no volume; empty if it does.
    why : str
        What tells a part from the others of its series.
    part : int
        Number of the part; 0 of a whole series.
    without_image : tuple of Instance
        Files of a series that holds no image.
    """

    path: Path
    uid: str
    number: str
    description: str
    slices: tuple[Slice, ...] = field(repr=False)
    affine: NDArray[np.float64] | None = field(default=None, repr=False)
    doubts: tuple[str, ...] = ()
    problem: str = ""
    why: str = ""
    part: int = 0
    without_image: tuple[Instance, ...] = field(default=(), repr=False)

    @property
    def instances(self) -> list[Instance]:
        """Files in the order of their first slices."""
        named = [instance for instance, _ in self.slices] or list(self.without_image)
        return list({id(instance): instance for instance in named}.values())

    @property
    def files(self) -> list[Path]:
        """Paths of the files, or of the zip that they lie in."""
        return list(dict.fromkeys(instance.stored.path for instance in self.instances))

    @property
    def first(self) -> Instance:
        """The first instance."""
        return self.instances[0]

    @property
    def frame_of_reference(self) -> str:
        """FrameOfReferenceUID; empty if there is none."""
        return self.slices[0][1].frame_of_reference if self.slices else ""

    @property
    def aside(self) -> str:
        """Why it is not taken where another series is there; empty if it may be."""
        if "LOCALIZER" in self.first.image_type:
            return "a localizer"
        if self.first.modality not in ("MR", ""):
            return f"of modality {self.first.modality}"
        return ""

    def grid(self) -> Grid:
        """Grid of the volume.

        Raises
        ------
        InputError
            If there is a problem.
        """
        if self.problem or self.affine is None:
            raise InputError(f"{self.path}: series {self.number or self.uid}: {self.problem}")
        frame = self.slices[0][1]
        try:
            return Grid((frame.columns, frame.rows, len(self.slices)), self.affine)
        except InputError as error:
            raise InputError(f"{self.path}: series {self.number or self.uid}: {error}") from error

    def volume(self) -> Volume:
        """Read the voxels as float32, scaled by slope and intercept of each slice.

        Raises
        ------
        InputError
            If there is a problem, a file cannot be read, or its voxels take more than this machine's memory.
        """
        grid = self.grid()
        columns, rows, count = grid.shape
        need, memory = 4 * columns * rows * count, host.memory_limit_bytes()
        if need > memory:
            takes, has = sizes(need, memory)
            raise InputError(
                f"{self.path}: series {self.number or self.uid}: its voxels take {takes}, this machine has {has}"
            )
        data = np.empty((count, rows, columns), np.float32)
        dtypes: set[np.dtype[Any]] = set()
        dropped = 0
        pixels: Pixels | None = None
        before: Instance | None = None
        for place, (instance, frame) in enumerate(self.slices):
            if pixels is None or instance is not before:
                dropped += 0 if pixels is None else pixels.dropped
                pixels, before = Pixels(instance), instance
            data[place] = _scaled(pixels, (instance, frame))
            plain = (frame.slope, frame.intercept) == (1.0, 0.0)
            dtypes.add(pixels.dtype if plain else np.dtype(np.float32))
        dropped += 0 if pixels is None else pixels.dropped
        doubts = [f"series {self.number or self.uid}: {doubt}" for doubt in self.doubts]
        if dropped:
            doubts.append(
                f"series {self.number or self.uid}: {counted(dropped, 'voxel')} hold more bits than BitsStored says, "
                "which were left out"
            )
        dtype = dtypes.pop() if len(dtypes) == 1 else np.dtype(np.float32)
        return Volume(
            data.T,
            grid,
            header_of(grid, dtype),
            tuple(Doubt("series", in_one_line(doubt)) for doubt in doubts),
            str(self.path),
            self.frame_of_reference,
        )


def found(paths: Path | Iterable[Path]) -> list[Series]:
    """Series of a folder, a zip, a DICOMDIR or some files, by their numbers.

    Raises
    ------
    InputError
        If none is there, or a file that is named by itself cannot be read.
    """
    named = [paths] if isinstance(paths, Path) else list(paths)
    stored = [one for path in named for one in _stored(path)]
    instances: dict[str, list[Instance]] = {}
    unread: list[InputError] = []
    for one in stored:
        try:
            instance = read(one)
        except InputError as error:
            unread.append(error)
        else:
            if instance is not None:
                instances.setdefault(instance.series_uid, []).append(instance)
    if unread and not instances:
        raise unread[0]
    if not instances:
        raise InputError(f"{named[0]}: holds no DICOM file, expected a series; name the folder or zip of one")
    series = [part for group in instances.values() for part in _series(named[0], group)]
    if unread:
        told = f"{counted(len(unread), 'file')} could not be read, and {'was' if len(unread) == 1 else 'were'} left out"
        told = f"{told} ({str(unread[0]).partition('; ')[0]})"
        series = [
            replace(one, doubts=(*one.doubts, told), problem=f"{one.problem}; {told}" if one.problem else "")
            for one in series
        ]
    return sorted(series, key=_by_number)


def _stored(path: Path) -> list[files.Stored]:
    if path.name.upper() == files.DICOMDIR and path.is_file():
        return listed(path)
    return files.stored(path)


def _series(path: Path, instances: Sequence[Instance]) -> list[Series]:
    """The parts of a DICOM series."""
    first = instances[0]
    parts = parted(instances, _voxels)
    made = []
    for place, part in enumerate(parts, start=1):
        number = f"{first.series_number}.{place}" if len(parts) > 1 and first.series_number else first.series_number
        one = Series(
            path,
            first.series_uid,
            number,
            first.description,
            tuple(part.slices),
            doubts=tuple(part.doubts),
            problem=part.problem,
            why=part.why,
            part=place if len(parts) > 1 else 0,
            without_image=tuple(instances) if not part.slices else (),
        )
        made.append(one if one.problem else _ordered(one, part))
    return made


def _ordered(series: Series, part: Part) -> Series:
    """A series with its slices in order and its affine, or with what keeps them from one grid."""
    try:
        stack = stacked([frame for _, frame in part.slices])
    except InputError as error:
        return replace(series, problem=str(error))
    slices = tuple(part.slices[place] for place in stack.order)
    return replace(series, slices=slices, affine=stack.affine, doubts=(*series.doubts, *stack.doubts))


def _voxels(one: Slice) -> NDArray[np.float32]:
    return _scaled(Pixels(one[0]), one)


def _scaled(pixels: Pixels, one: Slice) -> NDArray[np.float32]:
    """Voxels of a slice, (rows, columns)."""
    instance, frame = one
    stored = pixels.frame(frame.index)
    if stored.shape != (frame.rows, frame.columns):
        raise InputError(
            f"{instance.stored.name}: holds {'×'.join(map(str, stored.shape))} voxels, its header says "
            f"{frame.rows}×{frame.columns}; fetch it again"
        )
    with np.errstate(over="ignore"):  # what becomes infinite is refused when it is segmented
        return np.asarray(stored * frame.slope + frame.intercept, dtype=np.float32)


def _by_number(series: Series) -> tuple[float, str, int]:
    digits = series.first.series_number
    return (float(digits) if digits.isdigit() else float("inf"), series.uid, series.part)
