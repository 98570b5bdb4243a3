"""Labels that a user chooses or merges: ``core``, ``1``, ``tumor=core+edema``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lowres_seg.arguments import described
from lowres_seg.errors import InputError, shown

#: As the names of a manifest are.
_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")


@dataclass(frozen=True)
class Chosen:
    """A label of the result.

    Attributes
    ----------
    name : str
    values : tuple of int
        Values that it is made of, ascending. The result has the first one.
    """

    name: str
    values: tuple[int, ...]


def chosen(words: object, names: Mapping[int, str], regions: Mapping[str, Sequence[int]]) -> tuple[Chosen, ...]:
    """Labels that a text names, with commas between them.

    Parameters
    ----------
    words : str
        Each word is a label's name or value, the name of an evaluated region, or ``NEW=A+B`` for several in one.
    names : mapping of int to str
        Name of each label.
    regions : mapping of str to sequence of int
        Values of each evaluated region.

    Raises
    ------
    InputError
        If a label is unknown or named twice, or a new name is no name.

    Examples
    --------
    >>> chosen("edema, rest=core+3", {1: "core", 2: "edema", 3: "rim"}, {})
    (Chosen(name='edema', values=(2,)), Chosen(name='rest', values=(1, 3)))
    """
    if not isinstance(words, str) or not words.strip():
        raise InputError(f"labels: found {described(words)}, expected names such as {_example(names)}")
    found: list[Chosen] = []
    for word in words.split(","):
        new, equals, parts = (part.strip() for part in word.partition("="))
        if not equals:
            parts, new = new, ""
            if "+" in parts:
                raise InputError(f"labels: {shown(parts)} has no name; name what is merged: NEW={shown(parts)[1:-1]}")
        elif not _NAME.fullmatch(new):
            raise InputError(
                f"labels: {shown(new)} is no name for {shown(parts)}; expected small letters, digits, and _ . - within"
            )
        pairs = [_values(part.strip(), names, regions) for part in parts.split("+")]
        found.append(Chosen(new or pairs[0][0], tuple(sorted({value for _, values in pairs for value in values}))))
    for index, label in enumerate(found):
        for other in found[:index]:
            if other.name == label.name:
                raise InputError(f"labels: {label.name} is named twice; name each once")
            if both := set(other.values) & set(label.values):
                raise InputError(
                    f"labels: {names[min(both)]} is in {other.name} and in {label.name}; a voxel has one label, so "
                    "name it once"
                )
    return tuple(found)


def kept(labels: NDArray[np.uint8], choice: Sequence[Chosen]) -> NDArray[np.uint8]:
    """Label map (I, J, K) of chosen labels; all others become background."""
    table = np.zeros(256, np.uint8)
    for label in choice:
        table[list(label.values)] = label.values[0]
    return table[labels]


def _values(word: str, names: Mapping[int, str], regions: Mapping[str, Sequence[int]]) -> tuple[str, tuple[int, ...]]:
    """Name and values of a label or a region."""
    by_name = {name: value for value, name in names.items()}
    if word in by_name:
        return word, (by_name[word],)
    if values := tuple(value for value in regions.get(word, ()) if value in names):
        return word, values
    if word.isascii() and word.isdigit() and int(word) in names:
        return names[int(word)], (int(word),)
    known = ", ".join(f"{name} ({value})" for value, name in names.items())
    more = [name for name in regions if name not in by_name]
    also = f"; and the regions {', '.join(more)}" if more else ""
    raise InputError(f"labels: {shown(word)} is none of the bundle's, which has {known}{also}")


def _example(names: Mapping[int, str]) -> str:
    return ",".join(list(names.values())[:2])
