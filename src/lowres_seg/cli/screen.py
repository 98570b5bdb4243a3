"""What a person sees: two consoles, progress on standard error, JSON on standard output."""

from __future__ import annotations

import errno
import gc
import io
import json
import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO, TypeVar, cast

from rich.console import Console

Item = TypeVar("Item")

out = Console(highlight=False, soft_wrap=True, emoji=False)
err = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)


@contextmanager
def importing() -> Iterator[None]:
    """Import what a command needs. Imports make many objects and leave few, so that collecting them only takes time."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def plain(text: str) -> str:
    """Escape text so that rich does not read it as markup."""
    return text.replace("[", r"\[")


def print_error(error: BaseException) -> None:
    """Write an error on standard error, in one line."""
    err.print(f"[bold red]error:[/] {plain(' '.join(str(error).splitlines()))}")


class Guarded:
    """A standard stream that a command outlives.

    Where it can be written no more, what is written is dropped, and `error` says why. Characters that its encoding does
    not have, such as bytes of a file name that is not UTF-8, are written as Python's codes for them.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.error: OSError | None = None
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write text, or drop it."""
        if self.error is None:
            try:
                return self._stream.write(text)
            except OSError as error:
                self._drop(error)
        return len(text)

    def flush(self) -> None:
        """Write what is buffered, or drop it."""
        if self.error is None:
            try:
                self._stream.flush()
            except OSError as error:
                self._drop(error)

    @property
    def is_full(self) -> bool:
        """True if it could not be written. A reader that has read enough, such as ``head``, is no failure."""
        return self.error is not None and self.error.errno != errno.EPIPE

    def _drop(self, error: OSError) -> None:
        self.error = error
        # What is buffered goes nowhere when the interpreter ends, which would else fail once more.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)


@contextmanager
def guarded() -> Iterator[Guarded]:
    """Guard the standard streams, and yield standard output."""
    before = sys.stdout, sys.stderr
    output, errors = Guarded(sys.stdout), Guarded(sys.stderr)
    sys.stdout, sys.stderr = cast("TextIO", output), cast("TextIO", errors)
    try:
        yield output
    finally:
        output.flush()
        errors.flush()
        sys.stdout, sys.stderr = before


def print_json(content: dict[str, Any]) -> None:
    """Write a result as JSON on standard output."""
    sys.stdout.write(json.dumps(content, indent=2) + "\n")


@contextmanager
def steps(*, quiet: bool) -> Iterator[Callable[[str], None]]:
    """Yield a function that shows the current step on standard error, if that is a terminal."""
    if quiet or not err.is_terminal:
        yield logging.getLogger("lowres_seg").info
        return
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True) as progress:
        task = progress.add_task("")
        yield lambda step: progress.update(task, description=step)


def followed(items: Iterable[Item], task_name: str, total: int, *, quiet: bool) -> Iterator[Item]:
    """Yield items while a bar on standard error counts them, if that is a terminal.

    The bar is hidden while the caller has an item, so that what it prints stands by itself.
    """
    if quiet or not err.is_terminal:
        yield from items
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True) as progress:
        task = progress.add_task(task_name, total=total)
        for item in items:
            progress.advance(task)
            progress.stop()
            yield item
            progress.start()
