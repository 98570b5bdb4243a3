"""What a person sees: two consoles, progress on standard error, JSON on standard output."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

Item = TypeVar("Item")

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


def followed(items: Iterable[Item], task_name: str, total: int, *, quiet: bool) -> Iterator[Item]:
    """Yield items while a bar on standard error counts them, if that is a terminal.

    The bar is hidden while the caller has an item, so that what it prints stands by itself.
    """
    if quiet or not err.is_terminal:
        yield from items
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True) as progress:
        task = progress.add_task(task_name, total=total)
        for item in items:
            progress.advance(task)
            progress.stop()
            yield item
            progress.start()
