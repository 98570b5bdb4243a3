"""What a person sees: two consoles, progress on standard error, JSON on standard output. Rich's other home."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

if TYPE_CHECKING:  # the demo needs every extra, the screen none
    from lowres_seg.demo import Row

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)


def plain(text: str) -> str:
    """Text that rich does not take for markup."""
    return text.replace("[", r"\[")


def print_json(content: dict[str, Any]) -> None:
    """Write a result on standard output."""
    sys.stdout.write(json.dumps(content, indent=2) + "\n")


def comparison(rows: Sequence[Row]) -> Table:
    """Table of what the demo measured, a column for each bundle."""
    table = Table("", *(row.bundle for row in rows), title="Whole-head T1 template, 1 mm, 182×218×182")
    table.add_row("Dice with the template's mask", *(f"{row.dice:.4f}" for row in rows))
    table.add_row("HD95 with it, its inner cavities filled", *(f"{row.hd95_mm:.2f} mm" for row in rows))
    table.add_row("Dice with the fp32 mask", *(f"{row.dice_with_fp32:.4f}" for row in rows))
    for step in rows[0].timings_s:
        table.add_row(step, *(f"{row.timings_s[step]:.3f} s" for row in rows))
    table.add_row("whole command", *(f"{row.wall_s:.2f} s" for row in rows))
    table.add_row("peak memory (RSS)", *(f"{row.peak_rss_bytes / 2**20:.0f} MiB" for row in rows))
    table.add_row("size of the bundle", *(f"{row.bundle_bytes / 2**20:.1f} MiB" for row in rows))
    return table


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
def bar(what: str, total: int, *, quiet: bool) -> Iterator[Callable[[], None]]:
    """Yield a function that advances a bar on standard error, if that is a terminal."""
    if quiet or not err.is_terminal:
        yield lambda: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True) as progress:
        task = progress.add_task(what, total=total)
        yield lambda: progress.advance(task)
