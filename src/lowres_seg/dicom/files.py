"""Where DICOM instances lie: files of a folder, members of a zip, files that a caller names."""

from __future__ import annotations

import lzma
import os
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from lowres_seg import host
from lowres_seg.errors import InputError, one_line
from lowres_seg.volumes.dicom import is_dicom
from lowres_seg.volumes.files import SUFFIXES
from lowres_seg.wording import sizes

#: File that lists the others of a medium.
DICOMDIR = "DICOMDIR"
_ZIP = b"PK\x03\x04"
#: What zipfile raises of a zip or a member that is damaged, encrypted or compressed in another way (RuntimeError), or
#: whose names are in no encoding (ValueError).
_NO_ZIP = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError, ValueError)
#: Number of bytes that tell what a file is.
_BEGINNING = 132
#: First group of a file without the magic word, little and big endian: that of its meta data, or of its identification.
_GROUPS = (b"\x02\x00", b"\x08\x00", b"\x00\x08")
#: Value representations of the first element of such a file, if it has one.
_VRS = (b"UL", b"UI", b"CS", b"DA", b"SH", b"LO")


@dataclass(frozen=True)
class Stored:
    """The bytes of an instance: a file, or a member of a zip.

    Attributes
    ----------
    path : pathlib.Path
        The file.
    member : str
        Name within the zip; empty of a file.
    """

    path: Path
    member: str = ""
    archive: zipfile.ZipFile | None = field(default=None, repr=False, compare=False)

    @property
    def name(self) -> str:
        """Name in messages."""
        return f"{self.path}/{self.member}" if self.member else str(self.path)

    def open(self) -> BinaryIO:
        """Open for reading.

        Raises
        ------
        InputError
            If it cannot be read, or a member is encrypted, damaged or larger than this machine's memory.
        """
        with self._readable():
            if self.archive is None:
                return self.path.open("rb")
            size = self.archive.getinfo(self.member).file_size
            if size > host.memory_limit_bytes():
                takes, has = sizes(size, host.memory_limit_bytes())
                raise InputError(f"{self.name}: takes {takes} to read, this machine has {has}; unpack the zip first")
            return BytesIO(self.archive.read(self.member))

    def beginning(self) -> bytes:
        """First bytes, which tell what it is.

        Raises
        ------
        InputError
            As of `open`.
        """
        with self._readable():
            if self.archive is None:
                return _beginning(self.path)
            with self.archive.open(self.member) as stream:
                return stream.read(_BEGINNING)

    @contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except InputError:
            raise
        except OSError as error:
            raise InputError(f"{self.name}: cannot be read ({error.strerror or one_line(error)})") from error
        except _NO_ZIP as error:
            raise InputError(
                f"{self.name}: cannot be unpacked ({one_line(error)}); unpack the zip with another tool, and name the "
                "folder"
            ) from error


def is_zip(path: Path) -> bool:
    """Tell whether a file is a zip, by its first bytes. One that cannot be read is none."""
    return _beginning(path)[:4] == _ZIP


def holds_dicom(path: Path) -> bool:
    """Tell whether a path names DICOM: a file, a zip, or a folder without NIfTI files in which a file is DICOM."""
    if os.path.isdir(path):  # noqa: PTH112 - False where nobody may look
        seen = False
        for file in _below(path):
            if file.name.lower().endswith(SUFFIXES):
                return False
            seen = seen or _is_instance(file)
        return seen
    if path.name.lower().endswith(SUFFIXES) or not path.is_file():
        return False
    return path.name.upper() == DICOMDIR or is_zip(path) or _is_instance(path)


def stored(path: Path) -> list[Stored]:
    """Files that may be DICOM instances: of a folder and those below it, of a zip, or one file.

    Raises
    ------
    InputError
        If the zip cannot be read.
    """
    if os.path.isdir(path):  # noqa: PTH112 - False where nobody may look
        return [Stored(file) for file in _below(path) if _is_instance(file)]
    if not is_zip(path):
        return [Stored(path)]
    try:
        archive = zipfile.ZipFile(path)
    except (OSError, *_NO_ZIP) as error:
        raise InputError(f"{path}: cannot be read as a zip ({one_line(error)}); make it anew") from error
    members = [Stored(path, info.filename, archive) for info in archive.infolist() if not info.is_dir()]
    return [member for member in members if _begins_as_dicom(member.beginning())]


def _is_instance(path: Path) -> bool:
    try:
        return is_dicom(path) or _begins_as_dicom(_beginning(path))
    except OSError:  # one that cannot be read is told where it is missing
        return False


def _begins_as_dicom(beginning: bytes) -> bool:
    """Tell whether bytes begin a DICOM file, with the magic word or without."""
    if beginning[128:132] == b"DICM":
        return True
    return beginning[:2] in _GROUPS and (beginning[4:6] in _VRS or beginning[6:8] == b"\0\0") and len(beginning) > 8


def _beginning(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            return stream.read(_BEGINNING)
    except OSError:
        return b""


def _below(folder: Path) -> Iterator[Path]:
    """Regular files of a folder and of those below it, in the order of their names. Hidden ones are passed over."""
    for name, folders, files in os.walk(folder):
        folders[:] = sorted(one for one in folders if not one.startswith("."))
        for file in sorted(files):
            path = Path(name, file)
            if not file.startswith(".") and path.is_file():
                yield path
