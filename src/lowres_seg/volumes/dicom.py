"""DICOM files where another format is expected: messages say how to convert them. `lowres_seg.dicom` reads them."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path

#: Where the magic word of a DICOM file lies, and the word.
_AT, _MAGIC = 128, b"DICM"
#: Suffixes of DICOM files that may lack the magic word.
_SUFFIXES = (".dcm", ".ima")
#: Number of files of a folder that are looked at.
_MOST = 1000


def is_dicom(path: Path) -> bool:
    """Tell whether a regular file is DICOM, by its magic word or its suffix.

    Raises
    ------
    OSError
        If it cannot be read.
    """
    if path.name.lower().endswith(_SUFFIXES):
        return True
    with path.open("rb") as stream:
        stream.seek(_AT)
        return stream.read(len(_MAGIC)) == _MAGIC


def converting(folder: Path) -> str:
    """The command that converts the DICOM files of a folder."""
    return f"dcm2niix -z y -o NIFTI_FOLDER {shlex.quote(str(folder))}"


def about_folder(folder: Path, suffixes: tuple[str, ...]) -> str:
    """What a folder in place of a NIfTI file holds, and what to do.

    Parameters
    ----------
    folder : pathlib.Path
    suffixes : tuple of str
        Suffixes of NIfTI files.
    """
    files = list(islice(_files(folder), _MOST))
    scan = next((file for file in files if file.name.lower().endswith(suffixes)), None)
    if scan is not None:
        return f"is a folder, expected a NIfTI file; name the scans in it, such as {scan}"
    for file in files:
        with suppress(OSError):  # one that cannot be read says nothing about the others
            if is_dicom(file):
                return f"is a folder of DICOM files, expected a NIfTI file; convert it first: {converting(folder)}"
    return "is a folder, expected a NIfTI file"


def _files(folder: Path) -> Iterator[Path]:
    """Regular files of a folder and of those below it, in the order of their names."""
    for name, folders, files in os.walk(folder):
        folders.sort()
        for file in sorted(files):
            path = Path(name, file)
            if path.is_file():
                yield path
