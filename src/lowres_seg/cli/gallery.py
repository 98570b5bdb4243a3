"""The command that lists the recipes that come along: gallery."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lowres_seg.cli.options import AsJson, Debug, app
from lowres_seg.cli.screen import importing, out, plain, print_json, print_row

if TYPE_CHECKING:  # help needs no pydantic
    from lowres_seg.export.gallery import Entry

_LEFT = 14
_HEAD = ("id", "name", "task", "parameters", "weights")


@app.command()
def gallery(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Show one of them: a name, or an id such as S02.")
    ] = None,
    *,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """List the networks that recipes come along for, or show one.

    Weights are on PyPI, published elsewhere, or left for you to train.
    """
    with importing():
        from lowres_seg.export import gallery as all_of_them

    if name is not None:
        found = all_of_them.entry(name)
        if as_json:
            print_json(_content(found))
            return
        for key, text in _rows(found):
            print_row(key, text, left=_LEFT)
        out.print(plain(f"{'model card':{_LEFT}}{found.card}"))  # in one line, so that it can be copied
        out.print(plain(f"{'export':{_LEFT}}{_command(found)}"))
        return
    listed = all_of_them.entries()
    if as_json:
        print_json({"recipes": [_content(one) for one in listed]})
        return
    table = [_HEAD, *(_cells(one) for one in listed)]
    widths = [max(len(row[at]) for row in table) for at in range(len(_HEAD))]
    for row in table:
        words = [
            f"{cell:{'>' if at == 'parameters' else '<'}{size}}"
            for at, cell, size in zip(_HEAD, row, widths, strict=True)
        ]
        out.print(plain("  ".join(words).rstrip()))


def _cells(entry: Entry) -> tuple[str, ...]:
    return entry.id or "–", entry.name, entry.task, _millions(entry.parameters), entry.weights


def _millions(count: int | None) -> str:
    return "–" if count is None else f"{count / 1e6:.1f} M"


def _rows(entry: Entry) -> Iterator[tuple[str, str]]:
    yield "name", entry.name if entry.id is None else f"{entry.id}, {entry.name}"
    yield "", entry.description
    yield "task", entry.task
    yield "source", entry.source
    if entry.parameters is not None:
        stated = entry.published_parameters
        paper = "the paper states none" if stated is None else f"the paper states {stated:,}"
        yield "parameters", f"{entry.parameters:,} of a network in full width; {paper}"
    for place, text in enumerate(entry.assumed):
        yield "" if place else "assumed", text
    yield "intended use", entry.intended_use
    yield "weights", entry.where
    yield "files", ", ".join(entry.files)


def _command(entry: Entry) -> str:
    weights = "" if entry.weights == "on PyPI" else " --weights FOLDER"
    return f"lowres-seg export {entry.id or entry.name}{weights} -o BUNDLE"


def _content(entry: Entry) -> dict[str, Any]:
    return {**asdict(entry), "recipe": str(entry.recipe), "card": str(entry.card), "export": _command(entry)}
