"""The application: its commands, its exit codes, and the one place where errors end.

Exit codes: 0 done, 1 error, 2 usage, 3 a gate was not met (parity, accuracy, self-test, regression), so that a script
can tell broken from not good enough.
"""

from __future__ import annotations

import gc
import os
import re
import signal
import sys
from typing import Annotated, Any

import typer
from typer.main import get_command

from lowres_seg import __version__, endings
from lowres_seg.cli import build, demo, gallery, machine, measure, new_recipe, show, trust, verify, view, workstation
from lowres_seg.cli.options import EXIT_ERROR, EXIT_GATE, EXIT_USAGE, Debug, app, debugging
from lowres_seg.cli.screen import err, guarded, out, plain, print_error
from lowres_seg.errors import AccuracyDropError, InputError, LowresSegError, ParityError, RegressionError, one_line
from lowres_seg.wording import expected

__all__ = ["COMMANDS", "app", "main"]

#: Modules whose commands the application has.
COMMANDS = (workstation, verify, view, show, machine, gallery, new_recipe, build, trust, measure, demo)
#: Commands as help lists them: in the order in which a user needs them.
_ORDER = (
    "demo",
    "gallery",
    "new-recipe",
    "export",
    "quantize",
    "show",
    "verify",
    "predict",
    "view",
    "bench",
    "compare",
    "report",
    "sign",
    "doctor",
)
#: Signals that ask a process to end.
_ENDING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


#: The error of words that no command takes. typer has it in a package of its own, or in click.
_UsageError: type[Exception] = typer.BadParameter.__bases__[0]


def _name(command: Any) -> str:
    return str(command.name or command.callback.__name__)


app.registered_commands.sort(key=lambda command: _ORDER.index(_name(command)))


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
    command = get_command(app)
    options: list[Any] = command.params
    for option in options:
        if option.name == "show_completion":  # for who writes a shell's files by hand; help has --install-completion
            option.hidden = True
    try:
        with endings.ended_as_asked():
            code = command(standalone_mode=False)
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 0 if ended.code is None else EXIT_ERROR
    except _UsageError as error:
        err.print(f"[bold red]error:[/] {plain(_usage(error))}")
        return EXIT_USAGE
    except typer.Abort:
        err.print("[bold red]error:[/] standard input: ended before an answer; answer, or give it as an option")
        return EXIT_ERROR
    except LowresSegError as error:
        if debugging():
            raise
        first, *table = str(error).split("\n")
        err.print(f"[bold red]error:[/] {plain(' '.join(first.split()))}")
        for line in table:  # of a gate that was not met, or of the faults of a recipe
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
    return code if isinstance(code, int) else 0


def _usage(error: Any) -> str:
    """One line of a usage error: the command, what is wrong with its words, and the command that shows help."""
    command = "lowres-seg" if error.ctx is None else error.ctx.command_path
    said = " ".join(error.format_message().split())
    for problem in error.__cause__.errors()[:1] if hasattr(error.__cause__, "errors") else []:  # of pydantic
        meant = expected(problem["type"], problem.get("ctx", {}))
        if meant:
            said = said.replace(str(problem["msg"]), f"{problem['input']!r}, expected {meant}")
    said = re.sub(r"^Got unexpected extra arguments?(?:\(s\))? \((.*)\)$", r"unexpected: \1", said)
    said = (said[:1].lower() + said[1:]).rstrip(".").replace(". Did you mean", "; did you mean")
    return f"{command}: {said}{' See' if said.endswith('?') else '; see'} {command} --help"


def _print_version(asked: bool) -> None:
    if asked:
        out.print(__version__)
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
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
    if context.invoked_subcommand is None:
        err.print(plain(context.get_help()))
        raise typer.Exit(EXIT_USAGE)
