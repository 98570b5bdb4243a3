"""When a process that is asked to end does so: at once, or after what must be whole.

The command line asks by `ask`, from its handler of signals. A library that embeds this package has handlers of its own,
and then nothing is put off here.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class _Endings:
    """What the main thread, which alone handles signals, puts off."""

    def __init__(self) -> None:
        self.depth = 0
        self.asked: int | None = None
        #: The last signal that SystemExit was raised for.
        self.ended_for: int | None = None

    def end_if_asked(self) -> None:
        if self.asked is not None and self.depth == 0:
            self.ended_for, self.asked = self.asked, None
            sys.exit(128 + self.ended_for)


_ENDINGS = _Endings()


def ask(number: int) -> None:
    """End the process for a signal, with exit code 128 + `number`: at once, or when nothing puts it off any more.

    Raises
    ------
    SystemExit
        If nothing puts it off.
    """
    _ENDINGS.asked = number
    _ENDINGS.end_if_asked()


@contextmanager
def put_off() -> Iterator[None]:
    """Put the end of the process off to the end of the block, where it raises SystemExit."""
    yield from _with_depth(_ENDINGS.depth + 1)


@contextmanager
def allowed() -> Iterator[None]:
    """Let the process end within the block, although a block around it puts the end off."""
    yield from _with_depth(0)


@contextmanager
def ended_as_asked() -> Iterator[None]:
    """Take an error for the end that was asked for within the block, and raise SystemExit in its place.

    Packages that are asked to end while they are imported make an ImportError of it.
    """
    _ENDINGS.ended_for = None
    try:
        yield
    except Exception as error:
        if _ENDINGS.ended_for is None:
            raise
        raise SystemExit(128 + _ENDINGS.ended_for) from error


def _with_depth(depth: int) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = _ENDINGS.depth
    try:
        _ENDINGS.depth = depth
        _ENDINGS.end_if_asked()
        yield
    finally:
        _ENDINGS.depth = before
    _ENDINGS.end_if_asked()
