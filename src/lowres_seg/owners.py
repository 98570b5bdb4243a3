"""Whose a folder is, and whether others can change what lies in it or put another one in its place.

Systems without owners and modes of files, such as Windows, tell nothing of it, and no doubt is raised there.
"""

from __future__ import annotations

import os
import stat
from functools import lru_cache
from pathlib import Path

from lowres_seg import linux

_KNOWS_OWNERS = hasattr(os, "geteuid")


def doubt(folder: Path) -> str:
    """What lets others write a folder or exchange it; empty if nothing does, or nothing is there yet.

    A folder above it lets them exchange it if others own it, or can write it and it has no sticky bit. A group that has
    no other member counts for nobody there. The folders that links lead to are judged too.
    """
    try:
        status = folder.lstat()
    except (FileNotFoundError, NotADirectoryError):
        status = None
    except OSError as error:
        return f"cannot be looked at ({error.strerror})"
    if status is not None and not stat.S_ISDIR(status.st_mode):
        return "is no folder, or a link to one"
    if not _KNOWS_OWNERS:
        return ""
    if status is not None and is_foreign(status):
        return f"belongs to user {status.st_uid}"
    if status is not None and status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"can be written by others (mode {stat.S_IMODE(status.st_mode):04o})"
    named = folder.absolute()
    for above in dict.fromkeys((*named.parents, *Path(os.path.realpath(named)).parents)):
        if found := _of_parent(above):
            return f"lies below {above}, which {found}, so that others can put another folder in its place"
    return ""


def is_foreign(status: os.stat_result) -> bool:
    """Tell whether a file or a folder belongs to another user."""
    return _KNOWS_OWNERS and status.st_uid != os.geteuid()


def _of_parent(folder: Path) -> str:
    try:
        status = folder.stat()
    except OSError:  # it is not there yet; one that may not be looked at cannot be passed either
        return ""
    if is_foreign(status) and status.st_uid not in (0, linux.unmapped_user()):
        return f"belongs to user {status.st_uid}"
    others = status.st_mode & stat.S_IWOTH or (status.st_mode & stat.S_IWGRP and not _is_private(status.st_gid))
    if others and not status.st_mode & stat.S_ISVTX:
        return f"can be written by others (mode {stat.S_IMODE(status.st_mode):04o})"
    return ""


@lru_cache(maxsize=64)
def _is_private(group: int) -> bool:
    """Tell whether a group has no member but this user: one of the user's own name, root's, or a container's."""
    import grp
    import pwd

    try:
        user = pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        user = ""
    try:
        found = grp.getgrgid(group)
    except KeyError:
        return group == os.getegid()
    return set(found.gr_mem) <= {user} and (group == 0 or found.gr_name == user)
