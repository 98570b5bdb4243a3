"""The command that writes a first recipe: new-recipe."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from lowres_seg.cli.options import Debug, Force, Quiet, app, one_of
from lowres_seg.cli.screen import importing, out, plain

Number = TypeVar("Number", int, float)


@app.command("new-recipe")
def new_recipe(
    *,
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FILE", help="Recipe to write.")] = Path(
        "recipe.toml"
    ),
    framework: Annotated[
        str | None, typer.Option(help="torch, monai, torchscript or onnx.", show_default="asked for")
    ] = None,
    factory: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="What builds the network: network.py:build, or a class of MONAI such as UNet.",
            show_default="asked for",
        ),
    ] = None,
    argument: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE", help="Argument of the factory, in TOML; repeated, for several.", show_default=False
        ),
    ] = None,
    weights: Annotated[
        str | None, typer.Option(metavar="FILE", help="File of weights.", show_default="asked for")
    ] = None,
    channels: Annotated[
        str | None,
        typer.Option(metavar="T1,T2", help="Images of a scan, in the network's order.", show_default="asked for"),
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(metavar="A,B", help="Names of labels 1, 2, …; or 1=A,4=B.", show_default="asked for"),
    ] = None,
    scores: Annotated[
        str, typer.Option(help="softmax (background is channel 0) or sigmoid (a channel for each label).")
    ] = "softmax",
    patch: Annotated[
        str | None, typer.Option(metavar="D,H,W", help="Windows over the scan.", show_default="asked for")
    ] = None,
    shape: Annotated[
        str | None,
        typer.Option(metavar="D,H,W", help="The whole scan at once, in this shape.", show_default="windows"),
    ] = None,
    spacing: Annotated[
        str | None, typer.Option(metavar="X,Y,Z", help="Spacing in mm.", show_default="1,1,1 with windows")
    ] = None,
    orientation: Annotated[str, typer.Option(help="Directions in which the array's axes grow.")] = "RAS",
    intensities: Annotated[str, typer.Option(help="z-score, z-score-nonzero, percentiles or none.")] = "z-score",
    name: Annotated[str, typer.Option(help="Name of the bundle.", show_default="that of the weights")] = "",
    force: Force = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Write a first recipe for a network of your own."""
    with importing():
        from lowres_seg.atomic import check_target
        from lowres_seg.export.new_recipe import Facts, arguments_lacking, write

    check_target(output, force=force)
    kinds = ("torch", "monai", "torchscript", "onnx")
    if framework is not None:
        one_of("--framework", framework, kinds)
    needed = {"--framework": framework, "--weights": weights, "--channels": channels, "--labels": labels}
    needed["--patch or --shape"] = patch or shape
    if framework in (None, "torch", "monai"):
        needed["--factory"] = factory
    missing = [option for option, value in needed.items() if value is None]
    if missing and not sys.stdin.isatty():
        raise typer.BadParameter("missing; give them, or answer on a terminal", param_hint=", ".join(missing))
    kind = one_of("--framework", framework or _asked("Framework (torch, monai, torchscript, onnx)", "torch"), kinds)
    if factory is None and kind in ("torch", "monai"):
        factory = _asked(
            *(("Network of MONAI", "UNet") if kind == "monai" else ("Function that builds it", "network.py:build"))
        )
    arguments = _arguments(argument or [])
    lacking = arguments_lacking(factory or "", arguments) if kind == "monai" else []
    if lacking and not sys.stdin.isatty():
        needs = " and ".join(f"{name}=VALUE" for name in lacking)
        raise typer.BadParameter(
            f"{factory} needs {needs}; give them, or answer on a terminal", param_hint="--argument"
        )
    arguments |= _arguments([f"{name}={_asked(f'{factory}: {name}, as in training', None)}" for name in lacking])
    weights = weights or _asked("File of weights", "model.onnx" if kind == "onnx" else "model.pt")
    channels = channels or _asked("Channels of a scan, in the network's order", "t1")
    labels = labels or _asked("Labels, without background", "brain")
    if shape is None:
        patch = patch or _asked("Windows, as in training", "96,96,96")
    facts = Facts(
        framework=kind,
        weights=weights,
        channels=_words("--channels", channels),
        labels=_labels(labels),
        factory=factory or "",
        arguments=arguments,
        scores=one_of("--scores", scores, ("softmax", "sigmoid")),
        orientation=orientation,
        spacing_mm=_three("--spacing", spacing, float),
        shape=_three("--shape", shape, int),
        patch=_three("--patch", patch, int),
        intensities=one_of("--intensities", intensities, ("z-score", "z-score-nonzero", "percentiles", "none")),
        name=name,
    )
    recipe = write(facts, output, force=force)
    if not quiet:
        out.print(plain(f"{output}: written; look through it, above all at the grid and the intensities"))
        out.print(plain(f"next, with {weights} beside it: lowres-seg export {output} -o {recipe.bundle.name}"))


def _asked(question: str, default: str | None) -> str:
    return str(typer.prompt(question, default=default))


def _words(option: str, text: str) -> tuple[str, ...]:
    words = tuple(word.strip() for word in text.split(","))
    if not all(words):
        raise typer.BadParameter(f"{text!r}, expected names with commas between them", param_hint=option)
    return words


def _labels(text: str) -> dict[int, str]:
    """Values and names: ``a,b`` are labels 1 and 2, ``1=a,4=b`` are labels 1 and 4."""
    found: dict[int, str] = {}
    for place, word in enumerate(_words("--labels", text), 1):
        value, given, label = word.rpartition("=")
        if (given and not (value.isascii() and value.isdigit())) or int(value or place) in found:
            raise typer.BadParameter(
                f"{text!r}, expected names, or VALUE=NAME with each value once", param_hint="--labels"
            )
        found[int(value or place)] = label
    return found


def _three(option: str, text: str | None, kind: Callable[[str], Number]) -> tuple[Number, ...] | None:
    if text is None:
        return None
    try:
        numbers = tuple(kind(word) for word in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) != 3:
        raise typer.BadParameter(f"{text!r}, expected three numbers with commas between them", param_hint=option)
    return numbers


def _arguments(given: list[str]) -> dict[str, Any]:
    from lowres_seg.errors import ExportError
    from lowres_seg.export import toml_file

    found: dict[str, Any] = {}
    for text in given:
        key, equals, value = text.partition("=")
        try:
            content = toml_file.parsed(f"value = {value}") if equals and key.isidentifier() else {}
        except ExportError:
            content = {}
        if set(content) != {"value"}:
            raise typer.BadParameter(
                f"{text!r}, expected KEY=VALUE in TOML, such as channels=[16,32] or norm='\"batch\"'",
                param_hint="--argument",
            )
        found[key] = content["value"]
    return found
