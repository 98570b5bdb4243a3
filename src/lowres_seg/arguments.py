"""Checks of what a caller passes: what was found, what was expected."""

from __future__ import annotations

import operator
import os
from pathlib import Path

from lowres_seg.errors import InputError, shown

#: Largest number of threads that is taken for one.
MOST_THREADS = 1024


def path(value: object, name: str) -> Path:
    """Path that a caller passed as str or os.PathLike.

    Raises
    ------
    InputError
        If it is something else, such as bytes. The message begins with `name`.
    """
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if not isinstance(value, str):
        raise InputError(f"{name}: found {described(value)}, expected a path as str or pathlib.Path")
    return Path(value)


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
