"""Tables of cases. A case is read when its turn comes.

A **case** is one study: the file of each channel of its scan, or its folder of DICOM files where these are read, and
its label map if there is one. A table is CSV, or TSV if its name ends in .tsv. It has a column for each channel, and
optionally the columns ``label``, ``class`` and ``id``. Paths are relative to the table. A case without an id is called
by its first file's name. Where several files have one name, a case is called by the part of its path that differs.

The column ``class`` is the truth for a bundle that classifies: the name of a class. Of a bundle with a single class it
is the name or 1 for a case of that class, and not-NAME or 0 for another. Capitals do not matter. An empty field is no
truth.
"""

from __future__ import annotations

import csv
import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowres_seg.arguments import path as as_path
from lowres_seg.cohort.naming import differing_parts
from lowres_seg.errors import InputError, shown
from lowres_seg.metrics.classification import decisions
from lowres_seg.volumes.grid import Reorientation
from lowres_seg.volumes.volume import Volume
from lowres_seg.wording import counted

#: How far from a whole number a label may lie: what a resampling or a scale factor leaves of one.
WHOLE_WITHIN = 1e-3


@dataclass(frozen=True)
class Case:
    """One study.

    Attributes
    ----------
    id : str
        Unique in its table.
    scan : dict of str to pathlib.Path
        By channel.
    label : pathlib.Path or None
    truth : str or None
        The decision of a bundle that classifies which would be right.
    """

    id: str
    scan: dict[str, Path]
    label: Path | None = None
    truth: str | None = None

    def load(self) -> dict[str, Volume]:
        """Read the volume of each channel.

        Raises
        ------
        InputError
            If a file cannot be read; the message begins with the case.
        """
        try:
            return {channel: Volume.load(path) for channel, path in self.scan.items()}
        except InputError as error:
            raise InputError(f"case {self.id}: {error}") from error

    def load_label(
        self, values: Sequence[int], like: Volume, *, ignore: Sequence[int] = ()
    ) -> NDArray[np.uint8] | None:
        """Read the label map on the grid of `like`; None if the case has none.

        Parameters
        ----------
        values : sequence of int
            Label values of the manifest.
        like : Volume
            The scan.
        ignore : sequence of int
            Values of voxels that are left out of Dice and HD95. Such voxels get the value `left_out(values)`.

        Raises
        ------
        InputError
            If the map cannot be read, lies on another grid, or holds a value that is neither 0, of the manifest, nor to
            be ignored.
        """
        if self.label is None:
            return None
        try:
            volume = Volume.load(self.label)
        except InputError as error:
            raise InputError(f"case {self.id}: {error}") from error
        if not volume.grid.same_space(like.grid):
            raise InputError(
                f"case {self.id}: {self.label} lies on another grid than its scan "
                f"({volume.grid.another_grid(like.grid)}); resample it to the scan's grid by nearest neighbour"
            )
        found, counts = np.unique(volume.data, return_counts=True)
        whole = np.rint(found)
        with np.errstate(invalid="ignore"):  # infinity less itself
            wrong = ~(np.abs(found - whole) <= WHOLE_WITHIN)
        if wrong.any():
            said = _some(found[wrong], counts[wrong])
            raise InputError(f"case {self.id}: {self.label} is no label map: it holds {said}; expected whole numbers")
        whole, place = np.unique(whole, return_inverse=True)
        counts = np.bincount(place.ravel(), counts).astype(int)
        unknown = ~np.isin(whole, [0, *values, *ignore])
        if unknown.any():
            said = _some(whole[unknown], counts[unknown])
            raise InputError(
                f"case {self.id}: {self.label} holds values that the bundle does not know: {said}; "
                f"it writes {', '.join(map(str, values))}; change the map, name them in [[regions]] of the recipe, or "
                f"leave such voxels out with --ignore-label {int(whole[unknown][0])} (ignore_labels)"
            )
        data: NDArray[np.float32] = np.rint(volume.data)
        if np.isin(whole, ignore).any():
            data[np.isin(data, ignore)] = left_out(values)
        return data.astype(np.uint8)


@dataclass(frozen=True)
class Cases:
    """The cases of a table, in its order."""

    path: Path
    items: tuple[Case, ...]

    def __iter__(self) -> Iterator[Case]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)

    @classmethod
    def read(cls, path: str | os.PathLike[str], channels: Sequence[str], classes: Sequence[str] = ()) -> Cases:
        """Read a table of cases with these channels.

        Parameters
        ----------
        path : path
        channels : sequence of str
        classes : sequence of str
            Of the bundle, such as `Pipeline.classes`. Without any the column ``class`` is not looked at.

        Raises
        ------
        InputError
            If the table cannot be read, lacks a column, has one too many, or holds no case; if an id is there twice,
            a file that it names is not there, or a class is none of `classes`.
        """
        path = as_path(path, "table of cases")
        try:
            text = path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is no text"
            raise InputError(f"{path}: cannot be read as a table of cases ({reason})") from error
        reader = csv.DictReader(text.splitlines(), delimiter="\t" if path.suffix == ".tsv" else ",")
        columns = [column.strip() for column in reader.fieldnames or []]
        reader.fieldnames = columns
        known = (*channels, "label", "class", "id")
        wrong = [column for column in columns if column not in known or columns.count(column) > 1]
        if wrong or any(channel not in columns for channel in channels):
            raise InputError(
                f"{path}: has the columns {', '.join(columns) or 'none'}; expected {', '.join(channels)}, "
                "and optionally label, class and id, each once"
            )
        if "class" in channels:  # then it names files
            classes = ()
        try:
            rows = list(reader)
        except csv.Error as error:
            raise InputError(f"{path}: line {reader.line_num} cannot be read ({error}); see to its quotes") from error
        read = [_case(path, line, row, channels, classes) for line, row in enumerate(rows, start=2)]
        items = _named(read, channels)
        if not items:
            raise InputError(f"{path}: holds no case; expected one a line below the names of the columns")
        ids = [item.id for item in items]
        twice = [name for name in ids if ids.count(name) > 1]
        if twice:
            raise InputError(f"{path}: case {twice[0]} is there twice; give each an id of its own")
        return cls(path, tuple(items))


def fingerprint(scan: dict[str, Volume]) -> str:
    """Digest of the voxels of a scan: the same for a copy with another name, dtype or stored orientation."""
    digest = hashlib.sha256()
    for channel in sorted(scan):
        there = Reorientation(scan[channel].grid, "RAS")
        digest.update(channel.encode() + repr(there.result.shape).encode())
        digest.update(np.ascontiguousarray(there.apply(scan[channel].data), dtype=np.float32).tobytes())
    return digest.hexdigest()


def _case(path: Path, line: int, row: dict[str, Any], channels: Sequence[str], classes: Sequence[str]) -> Case:
    if None in row or None in row.values():
        raise InputError(f"{path}: line {line} has another number of fields than the first line")
    files = {column: _file(path.parent, row[column]) for column in (*channels, "label") if row.get(column, "").strip()}
    for channel in channels:
        if channel not in files:
            raise InputError(f"{path}: line {line} names no file for channel {channel}")
    for column, file in files.items():
        if not file.exists():
            raise InputError(f"{path}: line {line}, column {column}: {file} does not exist")
    label = files.pop("label", None)
    return Case(row.get("id", "").strip(), files, label, _truth(path, line, row.get("class", "").strip(), classes))


def _truth(path: Path, line: int, word: str, classes: Sequence[str]) -> str | None:
    """Decision that a word of the column ``class`` means; None if there is none, or no class."""
    if not word or not classes:
        return None
    meant = {name: name for name in decisions(classes)}
    if len(classes) == 1:
        yes, no = meant
        meant = {"1": yes, "0": no, "1.0": yes, "0.0": no, **meant}  # with a point where other rows are empty
    found = meant.get(word.lower())
    if found is None:
        expected = [*decisions(classes), *(["1", "0"] if len(classes) == 1 else [])]
        told = " or ".join(filter(None, [", ".join(expected[:-1]), expected[-1]]))
        raise InputError(f"{path}: line {line}, column class: found {shown(word)}, expected {told}; correct the table")
    return found


def _file(folder: Path, name: str) -> Path:
    """File that a table names: exactly, or without the blanks around its name where no file has them."""
    exact = folder / name
    return exact if exact.exists() else folder / name.strip()


def _named(cases: Sequence[Case], channels: Sequence[str]) -> list[Case]:
    """Give each case without an id the name of its first file, or the part of its path that differs from the others."""
    unnamed = [case for case in cases if not case.id]
    files = [case.scan[channels[0]] for case in unnamed]
    parts = differing_parts(files, [file.name for file in files])
    # Two names of files in one folder, each shared by other folders: the part says the folder only.
    ids = [
        part if part and parts.count(part) == 1 else f"{part}/{file.name}".lstrip("/")
        for part, file in zip(parts, files, strict=True)
    ]
    found = iter(ids)
    return [case if case.id else replace(case, id=next(found)) for case in cases]


def left_out(values: Sequence[int]) -> int:
    """Value of voxels that are left out: the largest that the bundle, which writes `values`, does not have."""
    return max(set(range(256)) - {0, *values})


def files_of(cases: Iterable[Case]) -> list[Path]:
    """Files of cases, and of the table that they were read from."""
    table = [cases.path] if isinstance(cases, Cases) else []
    return [*table, *(file for case in cases for file in (*case.scan.values(), case.label) if file is not None)]


def check_ignored(ignore: Sequence[int], values: Sequence[int]) -> None:
    """Check that values to be ignored are none that the bundle writes or the background.

    Raises
    ------
    InputError
        If one is.
    """
    for value in ignore:
        if value == 0 or value in values:
            what = "the background" if value == 0 else "a label of the bundle"
            raise InputError(
                f"--ignore-label {value}: is {what}; expected a value that only label maps have, such as 255"
            )


def _some(values: Any, counts: Any) -> str:
    shown = [f"{value:.9g} in {counted(count, 'voxel')}" for value, count in zip(values[:6], counts[:6], strict=True)]
    return ", ".join(shown) + (f" and {counted(len(values) - 6, 'more value')}" if len(values) > 6 else "")
