"""Hidden folders in which outputs are written, and their owners.

A staging folder holds a file on which its process has a lock, its owner. The system drops the lock when the process
ends, however it ends. Its name has digests of host and boot, and the process id, for file systems without locks.

What nobody owns any more is swept by the next run into that place. What another host made is left alone unless its lock
is free.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lowres_seg import linux
from lowres_seg.endings import put_off

if sys.platform != "win32":
    import fcntl

PREFIX = ".lowres-seg-"
_OWNER = ".owner.lowres-seg"
#: Folder in a staging folder for what goes back to its place if the process ends before something else has its name.
WAS = ".was.lowres-seg"


@contextmanager
def workplace() -> Iterator[Path]:
    """Yield a new folder for what is no output, in the system's folder for temporary files. It is removed in the end.

    Raises
    ------
    OSError
        If it cannot be made.
    """
    parent = Path(tempfile.gettempdir())
    sweep(parent)
    with staging(parent) as folder:
        (folder / "work").mkdir()
        yield folder / "work"


def hold(path: Path) -> int | None:
    """Lock a file, made if missing, until the descriptor is closed or this process ends.

    Returns
    -------
    int or None
        Descriptor; None if another process has the lock. A file system without locks refuses nobody.

    Raises
    ------
    OSError
        If the file cannot be made.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        if _lock(descriptor) is False:
            os.close(descriptor)
            return None
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        os.close(descriptor)  # who had the lock before has removed the file


@contextmanager
def staging(parent: Path) -> Iterator[Path]:
    """Yield a new hidden folder in `parent`, which this process owns. It is removed in the end.

    What is moved to its folder `WAS` goes back to `parent` if this process is killed before something else has its name
    there.

    Raises
    ------
    OSError
        If the folder cannot be made.
    """
    made: tuple[Path, int] | None = None
    try:
        with put_off():
            made = _made(parent)
        yield made[0]
    finally:
        if made is not None:
            folder, descriptor = made
            with put_off():
                try:
                    _remove(folder)
                finally:  # once more: network file systems keep what is open
                    os.close(descriptor)
                    _remove(folder)


def sweep(parent: Path) -> None:
    """Remove what processes that have ended left in `parent`.

    What cannot be removed stays, because it may be another user's.
    """
    with suppress(OSError):
        for entry in list(os.scandir(parent)):
            if entry.name.startswith(PREFIX) and entry.is_dir(follow_symlinks=False):
                with suppress(OSError):
                    _sweep(Path(entry.path))


def is_over(name: str) -> bool:
    """Tell from the name of a staging folder whether its process has ended for sure: this host's, and not there."""
    host, boot, pid = name.removeprefix(PREFIX).split("-")[:3]
    if host != _host():
        return False
    return boot != _boot() or not _is_alive(int(pid))


def _made(parent: Path) -> tuple[Path, int]:
    while True:
        folder = Path(tempfile.mkdtemp(dir=parent, prefix=f"{PREFIX}{_host()}-{_boot()}-{os.getpid()}-"))
        with suppress(FileNotFoundError):  # another run has swept it before it had an owner
            if (descriptor := hold(folder / _OWNER)) is not None:
                return folder, descriptor


def _sweep(folder: Path) -> None:
    try:
        descriptor = os.open(folder / _OWNER, os.O_RDWR)
    except FileNotFoundError:  # its process ended when it had made the folder, or had emptied it
        folder.rmdir()
        return
    free = _lock(descriptor)
    if free is None:
        free = is_over(folder.name)
    try:
        if free:
            for retired in (folder / WAS).iterdir() if (folder / WAS).is_dir() else ():
                # It was to be replaced, and its process ended between two renames.
                if not os.path.lexists(folder.parent / retired.name):
                    retired.rename(folder.parent / retired.name)
            _remove(folder)
    finally:
        os.close(descriptor)
    if free:
        _remove(folder)


def _remove(folder: Path) -> None:
    """Remove a staging folder, its owner last: so it is never without one while it holds something."""
    for entry in list(os.scandir(folder)) if folder.is_dir() else ():
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path, ignore_errors=True)
        elif entry.name != _OWNER:
            with suppress(OSError):
                Path(entry.path).unlink()
    with suppress(OSError):
        (folder / _OWNER).unlink()
        folder.rmdir()


def _lock(descriptor: int) -> bool | None:
    """Lock a file that nobody else has locked; False if somebody has, None where there are no locks."""
    if sys.platform == "win32":
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _host() -> str:
    return hashlib.sha256(platform.node().encode()).hexdigest()[:8]


def _boot() -> str:
    """Part of the identity of this boot; nothing where the system does not tell."""
    return linux.boot()[:8]


def _is_alive(pid: int) -> bool:
    if sys.platform == "win32":  # there is no harmless signal: what may be alive is left alone
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # of another user
        return True
    return True
