"""Words for people: counts with their nouns, durations, and tables that fit a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

#: Columns of a terminal that nobody has widened.
WIDTH = 80
#: Least width of a table's first column, and the space between two columns.
_LEAST, _GAP = 12, 2
#: Units of bytes, the largest first.
_BYTES = ((10**9, "GB"), (10**6, "MB"), (10**3, "kB"))
_MINUTE_S, _HOUR_S = 60, 3600
#: What is expected, by pydantic's name of the error.
_KINDS = {
    ("int_type", "int_parsing", "int_from_float"): "a whole number",
    ("float_type", "float_parsing"): "a number",
    ("finite_number",): "a finite number",
    ("string_type",): "a text",
    ("path_type",): "a path",
    ("bool_type", "bool_parsing"): "true or false",
    ("tuple_type", "list_type"): "a list",
    ("dict_type", "mapping_type", "model_type", "model_attributes_type"): "a table",
}
_BOUNDS = {
    "greater_than": ("more than", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("less than", "lt"),
    "less_than_equal": ("at most", "le"),
}


def counted(count: int, noun: str, plural: str = "") -> str:
    """Count with its noun in singular or plural.

    Parameters
    ----------
    count : int
    noun : str
        For one.
    plural : str
        For all other counts; by default the noun with an s.

    Examples
    --------
    >>> counted(1, "case"), counted(0, "case"), counted(2, "pass", "passes")
    ('1 case', '0 cases', '2 passes')
    """
    return f"{count} {noun if count == 1 else plural or noun + 's'}"


def duration(seconds: float) -> str:
    """Time that something takes, rounded as one would say it.

    Examples
    --------
    >>> duration(0.2), duration(44), duration(61), duration(3600 * 2.25)
    ('1 second', '44 seconds', '1 minute', '2 h 15 min')
    """
    if seconds < _MINUTE_S - 0.5:
        return counted(max(1, round(seconds)), "second")
    minutes = round(seconds / _MINUTE_S)
    if minutes < _HOUR_S // _MINUTE_S:
        return counted(minutes, "minute")
    return f"{minutes // 60} h {minutes % 60} min"


def sizes(*counts: int) -> list[str]:
    """Numbers of bytes in their units, with as many digits as it takes to tell different ones apart.

    Examples
    --------
    >>> sizes(2_400_000_000, 800_000_000), sizes(1_000_400_000, 1_000_000_000), sizes(1000)
    (['2.4 GB', '800 MB'], ['1.0004 GB', '1 GB'], ['1 kB'])
    """
    for digits in range(2, 20):
        found = [_size(count, digits) for count in counts]
        if len(set(found)) == len(set(counts)):
            return found
    return [counted(count, "byte") for count in counts]


def _size(count: int, digits: int) -> str:
    unit, name = next(((unit, name) for unit, name in _BYTES if count >= unit), (1, ""))
    if unit == 1:
        return counted(count, "byte")
    return f"{float(f'{count / unit:.{digits}g}'):.15g} {name}"


def expected(kind: str, context: Mapping[str, Any]) -> str:
    """What is expected where pydantic found an error of a kind; empty if this module has no words for it.

    Parameters
    ----------
    kind : str
        pydantic's name of the error.
    context : mapping
        What pydantic says beside it, such as a bound.

    Examples
    --------
    >>> expected("int_parsing", {}), expected("greater_than_equal", {"ge": 1})
    ('a whole number', 'at least 1')
    """
    if kind in _BOUNDS:
        word, bound = _BOUNDS[kind]
        return f"{word} {context[bound]:g}"
    return next((text for kinds, text in _KINDS.items() if kind in kinds), "")


def columns(rows: Sequence[Sequence[str]], *, width: int = WIDTH) -> list[str]:
    """Lines of a table, the first column to the left and the others to the right.

    A row of one cell is a heading over all columns. A row may end early. What is too long for the first column, or a
    heading, goes on in the next line.

    Parameters
    ----------
    rows : sequence of sequence of str
    width : int
        Columns of text that a line may take.

    Examples
    --------
    >>> for line in columns([["", "Dice", "HD95"], ["a bundle"], ["  brain", "0.98", "1.00 mm"]]):
    ...     print(line)
                  Dice     HD95
    a bundle
      brain       0.98  1.00 mm
    """
    table = [row for row in rows if len(row) > 1]
    count = max((len(row) for row in table), default=1)
    widths = [max(len(row[at]) for row in table if at < len(row)) for at in range(1, count)]
    left = max(_LEAST, width - sum(widths) - _GAP * len(widths))
    first = max(_LEAST, min(left, max((len(row[0]) for row in table), default=0)))
    lines = []
    for row in rows:
        name, *more = _wrapped(row[0], width if len(row) == 1 else first)
        cells = "".join(f"{'':{_GAP}}{cell:>{size}}" for cell, size in zip(row[1:], widths, strict=False))
        lines += [f"{name:{first}}{cells}".rstrip(), *more]
    return lines


def _wrapped(text: str, width: int) -> list[str]:
    margin = " " * (len(text) - len(text.lstrip()))
    further = margin + " " * _GAP
    lines = textwrap.wrap(text.strip(), width, initial_indent=margin, subsequent_indent=further, break_on_hyphens=False)
    return lines or [""]
