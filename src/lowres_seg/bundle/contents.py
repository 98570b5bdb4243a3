"""What lies in a bundle's folder, against what its manifest lists."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from lowres_seg.bundle.bounds import BUNDLE_BYTES, FILE_BYTES
from lowres_seg.errors import IntegrityError, shown
from lowres_seg.wording import counted

MANIFEST_NAME = "manifest.json"
#: A detached signature of the manifest, which is read where a key is required.
SIGNATURE_NAME = "manifest.sig"
#: Times, memory and latency of the run that made the bundle. They are not in the bundle's digest.
RUN_NAME = "reports/run.json"


def is_apart(name: str) -> bool:
    """Tell whether a file is none that a manifest lists: the manifest, its signature, times of a run, hidden files.

    They are never needed and never trusted, and they are no error.
    """
    hidden = any(part.startswith(".") for part in PurePosixPath(name).parts)
    return hidden or name in (MANIFEST_NAME, SIGNATURE_NAME, RUN_NAME)


def check(folder: Path, most_bytes: Mapping[str, int]) -> None:
    """Check that a folder holds the files that its manifest lists, and no others.

    Parameters
    ----------
    folder : pathlib.Path
    most_bytes : mapping of str to int
        The files that the manifest lists, by relative path, and the most bytes that each may have.

    Raises
    ------
    IntegrityError
        With the first file that is missing, too large, not listed, or no plain file of its own: a link, a hard link, a
        device.
    """
    total = 0
    seen = set()
    for name, found in _files(folder, _folders(most_bytes)):
        if name not in most_bytes:
            raise IntegrityError(f"{folder}: the manifest does not list the file {shown(name)}; remove it")
        if found.st_nlink > 1:
            raise IntegrityError(
                f"{folder}: {name} is a hard link, and {counted(found.st_nlink - 1, 'other name')} of it may change "
                "it; copy the bundle"
            )
        if found.st_size > min(most_bytes[name], FILE_BYTES):
            raise IntegrityError(
                f"{folder}: {name} has {counted(found.st_size, 'byte')}, expected at most "
                f"{min(most_bytes[name], FILE_BYTES)}"
            )
        seen.add(name)
        total += found.st_size
    missing = [name for name in most_bytes if name not in seen]
    if missing:
        raise IntegrityError(f"{folder}: {missing[0]} is missing; copy or export the bundle again")
    if total > BUNDLE_BYTES:
        raise IntegrityError(f"{folder}: its files have {counted(total, 'byte')}, expected at most {BUNDLE_BYTES}")


def _folders(names: Mapping[str, int]) -> set[str]:
    """Folders in which listed files lie, and that of the times of a run."""
    return {str(parent) for name in (*names, RUN_NAME) for parent in PurePosixPath(name).parents}


def _files(folder: Path, named: set[str]) -> Iterator[tuple[str, os.stat_result]]:
    """Yield the files of a bundle that a manifest may list, by relative path; only folders that it names are read."""
    waiting = [PurePosixPath()]
    while waiting:
        here = waiting.pop()
        try:
            with os.scandir(folder / here) as entries:
                for entry in entries:
                    name = str(here / entry.name)
                    if is_apart(name):
                        continue
                    found = os.stat(entry.path, follow_symlinks=False)  # noqa: PTH116 - knows hard links on Windows too
                    if stat.S_ISLNK(found.st_mode):
                        raise IntegrityError(f"{folder}: {shown(name)} is a link {_end_of_link(folder, name)}")
                    if stat.S_ISREG(found.st_mode):
                        yield name, found
                    elif not stat.S_ISDIR(found.st_mode):
                        raise IntegrityError(f"{folder}: {shown(name)} is a device, expected a plain file; remove it")
                    elif name in named:
                        waiting.append(here / entry.name)
                    else:
                        raise IntegrityError(f"{folder}: the manifest lists no file in {shown(name)}; remove it")
        except OSError as error:
            raise IntegrityError(f"{folder}: {here} cannot be read ({error.strerror})") from error


def _end_of_link(folder: Path, name: str) -> str:
    # The content behind a link could change without a change in the bundle.
    inside = Path(os.path.realpath(folder / name)).is_relative_to(os.path.realpath(folder))
    if not inside:
        return "that leads outside the bundle; export it again"
    return "within the bundle, expected plain files; copy it with its links resolved"
