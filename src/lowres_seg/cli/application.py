"""The application: its commands, its exit codes, and the one place where errors end.

Exit codes: 0 done, 1 error, 2 usage, 3 a gate was not met (parity, accuracy, self-test, regression), so that a script
can tell broken from not good enough.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from typing import Annotated

import typer

from lowres_seg import __version__, endings
from lowres_seg.cli import build, demo, machine, measure, show, trust, workstation
from lowres_seg.cli.options import EXIT_ERROR, EXIT_GATE, Debug, app, debugging
from lowres_seg.cli.screen import err, guarded, out, plain, print_error
from lowres_seg.errors import AccuracyDropError, InputError, LowresSegError, ParityError, RegressionError, one_line

__all__ = ["COMMANDS", "app", "main"]

#: Modules whose commands the application has.
COMMANDS = (workstation, show, machine, build, trust, measure, demo)
#: Signals that ask a process to end.
_ENDING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


def main() -> None:
    """Run the command line; every error that the package raises on purpose becomes one line."""
    # So that an interrupted command cleans up behind itself, whoever asks it to end. What is ignored stays ignored.
    before = {number: signal.getsignal(number) for number in _ENDING}
    for number, handler in before.items():
        if handler != signal.SIG_IGN:
            signal.signal(number, lambda found, _: endings.ask(found))
    try:
        with guarded() as output:
            code = _run()
            output.flush()
            if output.is_full:
                reason = output.error.strerror if output.error is not None else ""
                err.print(f"[bold red]error:[/] standard output: cannot be written ({reason}); write it elsewhere")
                code = EXIT_ERROR
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    gc.freeze()  # what is left is freed with the process, and need not be searched for cycles before
    sys.exit(code)


def _run() -> int:
    """Run the command, and give its exit code."""
    try:
        app()
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 0 if ended.code is None else EXIT_ERROR
    except LowresSegError as error:
        if debugging():
            raise
        first, *table = str(error).split("\n")
        err.print(f"[bold red]error:[/] {plain(' '.join(first.split()))}")
        for line in table:  # only a gate that was not met has one
            err.print(plain(line))
        return EXIT_GATE if isinstance(error, (ParityError, AccuracyDropError, RegressionError)) else EXIT_ERROR
    except OSError as error:
        if debugging():
            raise
        where = os.fsdecode(error.filename) if isinstance(error.filename, (str, bytes)) else "this machine"
        print_error(
            InputError(f"{where}: refuses ({error.strerror or one_line(error)}); see that it can be read and written")
        )
        return EXIT_ERROR
    except MemoryError as error:
        if debugging():
            raise
        print_error(
            InputError(
                f"this machine: has too little memory ({one_line(error)}); free some, or bound it with --max-ram"
            )
        )
        return EXIT_ERROR
    return 0


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
