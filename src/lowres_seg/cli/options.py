"""The application, and the options that its commands share."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:  # help needs no OpenVINO
    from lowres_seg.runtime.compiled_cache import CompiledCache

EXIT_ERROR, EXIT_USAGE, EXIT_GATE = 1, 2, 3

app = typer.Typer(
    name="lowres-seg",
    help="Run trained brain-MRI segmentation networks fast and small on ordinary CPUs.",
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain text is at once there, and reads the same through a pipe
    context_settings={"help_option_names": ["-h", "--help"]},
)

BundlePath = Annotated[Path, typer.Argument(metavar="BUNDLE", help="Folder of the bundle.")]
Threads = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", help="Threads to compute with.", show_default="what this process may use"),
]
MaxRam = Annotated[
    str | None, typer.Option(metavar="SIZE", help="Bound on memory: 2GB, 800MB.", show_default="no bound")
]
RequireKey = Annotated[
    Path | None,
    typer.Option(
        metavar="PUB",
        help="Refuse a bundle that this public key has not signed.",
        show_default="that of LOWRES_SEG_REQUIRE_KEY",
    ),
]
NoCache = Annotated[
    bool, typer.Option("--no-cache", help="Compile the networks anew, and keep none of them for the next time.")
]
IgnoreLabel = Annotated[
    list[int] | None,
    typer.Option(
        "--ignore-label",
        metavar="N",
        help="Leave voxels of this value of the label maps out of Dice and HD95; repeated, for several.",
        show_default=False,
    ),
]
Series = Annotated[
    str | None,
    typer.Option(
        metavar="SERIES", help="Series of a DICOM folder: its UID, number or description.", show_default="the only one"
    ),
]
Reference = Annotated[
    str | None,
    typer.Option(
        metavar="CHANNEL", help="Channel on whose grid the others and the mask lie.", show_default="the first"
    ),
]
Align = Annotated[
    str | None,
    typer.Option(
        metavar="header",
        help="Resample NIfTI channels of one space to one grid, by what their headers say.",
        show_default=False,
    ),
]
Codes = Annotated[
    Path | None,
    typer.Option(metavar="JSON", help="Codes of the labels of a DICOM segmentation.", show_default="the bundle's"),
]
SegmentationType = Annotated[
    str | None,
    typer.Option(
        metavar="TYPE",
        help="Type of a DICOM segmentation: binary, or labelmap, which older viewers do not know.",
        show_default="binary",
    ),
]
Store = Annotated[
    bool, typer.Option("--store", help="Also store the DICOM segmentation on the server that its series is from.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")]
Force = Annotated[bool, typer.Option("--force", help="Replace outputs that exist.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Print errors and notes only.")]
Verbose = Annotated[bool, typer.Option("-v", "--verbose", help="Print more of what happens.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


def one_of(option: str, value: str, choices: tuple[str, ...]) -> Any:
    """Check that the value of an option is one of its choices."""
    if value not in choices:
        raise typer.BadParameter(f"{value!r}, expected {' or '.join(choices)}", param_hint=option)
    return value


def debugging() -> bool:
    """True if the command line asks for tracebacks. It is asked where no option is parsed yet, too."""
    return "--debug" in sys.argv


def ram_bytes(word: str | None) -> int | None:
    """Bytes of a --max-ram; None if it is not given."""
    return None if word is None else int(amount("--max-ram", word, {"MB": 10**6, "GB": 10**9}))


def amount(option: str, text: str | None, units: dict[str, int]) -> Any:
    """Read the value of an option that is a number with a unit; None if it was not given."""
    if text is None:
        return None
    for unit, factor in units.items():
        number = text.removesuffix(unit)
        if number != text and number.isascii() and number.replace(".", "", 1).isdigit() and float(number) > 0:
            return float(number) * factor
    raise typer.BadParameter(f"{text!r}, expected a number and one of {', '.join(units)}", param_hint=option)


def compiled_cache(*, no_cache: bool, key: str | None) -> CompiledCache | None:
    """The user's compiled networks. With a required key they are left alone: nobody has signed them."""
    from lowres_seg.runtime.compiled_cache import CompiledCache

    return None if no_cache or key is not None else CompiledCache.of_user()
