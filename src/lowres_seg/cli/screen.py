"""What a person sees: two consoles, progress on standard error, JSON on standard output."""

from __future__ import annotations

import errno
import gc
import io
import json
import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TextIO, TypeVar, cast

from rich.console import Console
from rich.text import Text

from lowres_seg import endings
from lowres_seg.wording import WIDTH

if TYPE_CHECKING:
    from rich.progress import Progress

Item = TypeVar("Item")
#: The last file descriptor of the standard streams.
_STANDARD = 2

out = Console(highlight=False, soft_wrap=True, emoji=False)
err = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)


@contextmanager
def importing() -> Iterator[None]:
    """Import what a command needs, and put the end of the process off meanwhile: a module is whole or not there.

    Imports make many objects and leave few, so that collecting them only takes time.
    """
    with endings.put_off():
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

    Where it can be written no more, what is written is dropped, and `error` says why. So it is with a stream that is
    None, because the process began with it closed. Characters that its encoding does not have, such as bytes of a file
    name that is not UTF-8, are written as Python's codes for them.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._closed = stream is None
        self._stream: TextIO = io.StringIO() if stream is None else stream
        self.error: OSError | None = None
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write text, or drop it."""
        if self._closed and text and self.error is None:
            self.error = OSError(errno.EBADF, "it is closed")
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
    while (held := os.open(os.devnull, os.O_RDWR)) <= _STANDARD:  # no file may come in the place of a closed stream
        pass
    os.close(held)
    output, errors = Guarded(sys.stdout), Guarded(sys.stderr)
    sys.stdout, sys.stderr = cast("TextIO", output), cast("TextIO", errors)
    try:
        yield output
    finally:
        output.flush()
        errors.flush()
        sys.stdout, sys.stderr = before


def print_row(name: str, text: str, *, left: int) -> None:
    """Write a name and, beside it, a text, within the columns of a terminal that nobody has widened.

    The text may hold what steers a terminal; it is shown as it stands.

    Parameters
    ----------
    name, text : str
    left : int
        Columns of the names.
    """
    shown = "".join(one if one.isprintable() else " " if one.isspace() else ascii(one)[1:-1] for one in text)
    width = max(left, min(out.width, WIDTH) - left)
    for line in Text(shown).wrap(out, width, overflow="fold"):
        out.print(plain(f"{name:{left}}{line.plain}".rstrip()))
        name = ""


def print_json(content: dict[str, Any]) -> None:
    """Write a result as JSON on standard output."""
    sys.stdout.write(json.dumps(content, indent=2) + "\n")


class Steps:
    """Tells a person which step of a command runs, and what to keep in sight.

    Parameters
    ----------
    step, remark : callable
        Called with a line of text.
    """

    def __init__(self, step: Callable[[str], None], remark: Callable[[str], None]) -> None:
        self._step = step
        self.remark = remark

    def __call__(self, step: str) -> None:
        """Tell that a step begins."""
        self._step(step)


@contextmanager
def steps(*, quiet: bool, lines: bool = False) -> Iterator[Steps]:
    """Yield what shows the steps of a command on standard error.

    A terminal shows the current step. Elsewhere steps are lines if `lines` says so, for commands that take minutes.
    Remarks are lines that stay.
    """
    log = logging.getLogger("lowres_seg").info
    if quiet:
        yield Steps(log, log)
        return
    if not err.is_terminal:
        yield Steps(_line if lines else log, _line)
        return
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True) as progress:
        task = progress.add_task("")
        yield Steps(lambda step: progress.update(task, description=plain(step)), _line)


def _line(text: str) -> None:
    err.print(plain(text))


class ScanBar:
    """A bar on standard error that counts scans, and moves within a scan; nothing if that is no terminal.

    Parameters
    ----------
    scans : int
        Number of scans.
    stages : sequence of str
        Names of the stages that each scan goes through.
    quiet : bool
    """

    def __init__(self, scans: int, stages: Sequence[str], *, quiet: bool) -> None:
        self._stages = list(stages)
        self._scans = scans
        self._ended = 0
        self._progress: Progress | None = None
        if quiet or not err.is_terminal:
            return
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn
        from rich.progress import TimeElapsedColumn as Elapsed

        count = TaskProgressColumn() if scans == 1 else MofNCompleteColumn()
        columns = (TextColumn("{task.description}"), BarColumn(), count, Elapsed())
        self._progress = Progress(*columns, console=err, transient=True)
        self._task = self._progress.add_task("segmenting", total=scans)

    @property
    def moves(self) -> Callable[[str, int, int], None] | None:
        """Function that moves the bar within a scan, as `Segmenter.predict` calls it; None if there is no bar."""
        return None if self._progress is None else partial(self._move, self._progress)

    def _move(self, progress: Progress, stage: str, done: int, total: int) -> None:
        share = (self._stages.index(stage) + done / total) / len(self._stages)
        text = f"segmenting: {stage}, window {done} of {total}"
        progress.update(self._task, completed=self._ended + share, description=plain(text))

    def follow(self, items: Iterable[Item]) -> Iterator[Item]:
        """Yield an item for each scan, and hide the bar while the caller has it, for what the caller prints."""
        if self._progress is None:
            yield from items
            return
        with self._progress as progress:
            for item in items:
                self._ended += 1
                progress.update(self._task, completed=self._ended, description="segmenting")
                progress.stop()
                yield item
                if self._ended < self._scans:
                    progress.start()
