"""Checks of what a caller passes: what was found, what was expected."""

from __future__ import annotations

import errno
import operator
import os
from pathlib import Path

from lowres_seg.errors import PEM, InputError, shown

#: Largest number of threads that is taken for one.
MOST_THREADS = 1024


def path(value: object, name: str) -> Path:
    """Path that a caller passed as str or os.PathLike.

    Raises
    ------
    InputError
        If it is something else, such as bytes, or no path can be so. The message begins with `name`.
    """
    given = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(given, str):
        raise InputError(f"{name}: found {described(given)}, expected a path as str or pathlib.Path")
    if given.startswith(PEM):
        raise InputError(f"{name}: found the text of a key or certificate, expected the path of a file")
    if not given or "\0" in given or _is_too_long(given):
        raise InputError(
            f"{name}: found {shown(given)}, expected a path of this system: not empty, no NUL, not as long"
        )
    return Path(given)


def _is_too_long(path: str) -> bool:
    try:
        os.lstat(path)
    except OSError as error:
        return error.errno == errno.ENAMETOOLONG
    return False


def flag(value: object, name: str) -> bool:
    """True or False that a caller passed.

    Raises
    ------
    InputError
        If it is something else, such as a word or a number. The message begins with `name`.
    """
    is_numpys = getattr(value, "shape", None) == () and str(getattr(value, "dtype", "")) == "bool"
    if not isinstance(value, bool) and not is_numpys:
        raise InputError(f"{name}: found {described(value)}, expected True or False")
    return bool(value)


def whole_number(value: object, name: str, *, least: int, most: int) -> int:
    """Whole number that a caller passed.

    Raises
    ------
    InputError
        If it is something else, such as a float or a bool, or beyond the bounds. The message begins with `name`.
    """
    try:
        number = None if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = None
    if number is None or not least <= number <= most:
        raise InputError(f"{name}: found {described(value)}, expected a whole number from {least} to {most}")
    return number


def described(value: object) -> str:
    """Type and value of an argument, or the shape and dtype of an array, for a message."""
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if isinstance(shape, tuple) and dtype is not None and shape:
        return f"{type(value).__name__} of shape {shown(tuple(shape))} and dtype {shown(str(dtype))}"
    return f"{shown(value)} ({type(value).__name__})"
