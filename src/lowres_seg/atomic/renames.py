"""Renames that do not replace, renames that exchange, and what is on the disk before them."""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from pathlib import Path

_AT_FDCWD, _NO_REPLACE, _EXCHANGE = -100, 1, 2
#: Answers of a kernel or a file system that has no such rename.
_UNABLE = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP)
#: Answers of a file system that has no hard links, or not between these two.
_UNLINKED = (errno.EPERM, errno.ENOSYS, errno.ENOTSUP, errno.EMLINK, errno.EXDEV)
_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def place(staged: Path, target: Path) -> None:
    """Give a file or a folder the name `target`, which nothing has.

    Two processes that do so at the same time cannot both succeed, apart from file systems that have neither such a
    rename nor hard links.

    Raises
    ------
    FileExistsError
        If something has the name.
    OSError
        If the rename fails.
    """
    if _rename(staged, target, _NO_REPLACE):
        return
    if staged.is_dir():  # a rename of a folder never replaces a file, nor a folder that holds something
        try:
            staged.rename(target)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.ENOTDIR):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from error
            raise
        return
    try:
        target.hardlink_to(staged)
    except OSError as error:
        if error.errno not in _UNLINKED:
            raise
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from error
        staged.rename(target)


def exchange(staged: Path, target: Path) -> bool:
    """Exchange what two names mean, at one moment; False where the system cannot.

    Raises
    ------
    OSError
        If the system can, and fails.
    """
    return _rename(staged, target, _EXCHANGE)


def sync(path: Path) -> None:
    """Wait until a file, or a folder with all below it, is on the disk.

    Raises
    ------
    OSError
        If the disk refuses.
    """
    if path.is_symlink():  # a link is on the disk with its folder
        return
    if path.is_dir():
        for child in path.iterdir():
            sync(child)
        sync_names(path)
        return
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_names(folder: Path) -> None:
    """Wait until the names in a folder are on the disk.

    Raises
    ------
    OSError
        If the disk refuses.
    """
    if sys.platform == "win32":  # where a folder cannot be opened
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _UNABLE:  # some network file systems do not know it
            raise
    finally:
        os.close(descriptor)


def _rename(old: Path, new: Path, flags: int) -> bool:
    """Call renameat2; False where the system has no such rename."""
    call = getattr(_LIBC, "renameat2", None)
    if call is None:
        return False
    if call(_AT_FDCWD, os.fsencode(old), _AT_FDCWD, os.fsencode(new), flags) == 0:
        return True
    number = ctypes.get_errno()
    if number in _UNABLE:
        return False
    raise OSError(number, os.strerror(number), str(old), None, str(new))
