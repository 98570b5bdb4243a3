"""What a person sees: two consoles, progress on standard error, JSON on standard output."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

out = Console(highlight=False, soft_wrap=True, emoji=False)
err = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)


def plain(text: str) -> str:
    """Escape text so that rich does not read it as markup."""
    return text.replace("[", r"\[")


def print_json(content: dict[str, Any]) -> None:
    """Write a result as JSON on standard output."""
    sys.stdout.write(json.dumps(content, indent=2) + "\n")


@contextmanager
def steps(*, quiet: bool) -> Iterator[Callable[[str], None]]:
    """Yield a function that shows the current step on standard error, if that is a terminal."""
    if quiet or not err.is_terminal:
        yield logging.getLogger("lowres_seg").info
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True) as progress:
        task = progress.add_task("")
        yield lambda step: progress.update(task, description=step)


@contextmanager
def bar(task_name: str, total: int, *, quiet: bool) -> Iterator[Callable[[], None]]:
    """Yield a function that advances a bar on standard error, if that is a terminal."""
    if quiet or not err.is_terminal:
        yield lambda: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True) as progress:
        task = progress.add_task(task_name, total=total)
        yield lambda: progress.advance(task)
