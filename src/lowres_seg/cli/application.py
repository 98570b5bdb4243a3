"""The application: its commands, its exit codes, and the one place where errors end.

Exit codes: 0 done, 1 error, 2 usage, 3 a gate was not met (parity, accuracy, self-test, regression), so that a script
can tell broken from not good enough.
"""

from __future__ import annotations

import signal
import sys
from typing import Annotated

import typer

from lowres_seg import __version__
from lowres_seg.cli import build, demo, measure, workstation
from lowres_seg.cli.options import EXIT_ERROR, EXIT_GATE, Debug, app, debugging
from lowres_seg.cli.screen import err, out, plain
from lowres_seg.errors import AccuracyDropError, LowresSegError, ParityError, RegressionError

__all__ = ["COMMANDS", "app", "main"]

#: Modules whose commands the application has.
COMMANDS = (workstation, build, measure, demo)


def main() -> None:
    """Run the command line; every error that the package raises on purpose becomes one line."""
    # So that an interrupted command cleans up behind itself when it is asked to end, not only on Ctrl-C.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        app()
    except LowresSegError as error:
        if debugging():
            raise
        first, *table = str(error).split("\n")
        err.print(f"[bold red]error:[/] {plain(' '.join(first.split()))}")
        for line in table:  # only a gate that was not met has one
            err.print(plain(line))
        sys.exit(EXIT_GATE if isinstance(error, (ParityError, AccuracyDropError, RegressionError)) else EXIT_ERROR)


def _print_version(asked: bool) -> None:
    if asked:
        out.print(__version__)
        raise typer.Exit


@app.callback()
def _root(
    *,
    version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=lambda asked: _print_version(asked=asked), help="Print the version."
        ),
    ] = False,
    debug: Debug = False,
) -> None:
    """Run trained brain-MRI segmentation networks fast and small on ordinary CPUs."""
