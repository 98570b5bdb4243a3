"""What dataset.json says: channels, labels and regions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from lowres_seg.bundle.pipeline import EvaluatedRegion, Label
from lowres_seg.bundle.stage import Argmax, PaintedRegion, Regions
from lowres_seg.errors import ExportError
from lowres_seg.export.importers.files import named

_IGNORE, _BACKGROUND = "ignore", "background"


def decoding(
    folder: Path, dataset: Mapping[str, Any]
) -> tuple[Argmax | Regions, tuple[Label, ...], tuple[EvaluatedRegion, ...]]:
    """How scores become labels; the labels; the regions that they are trained and evaluated in, if there are any.

    Raises
    ------
    ExportError
        If nnU-Net would not take the labels either, or a manifest cannot express them.
    """
    file = folder / "dataset.json"
    every = _values(file, dataset.get("labels", {}))
    ignored = every.pop(_IGNORE, None)
    highest = max(value for values in every.values() for value in values)
    if ignored is not None and ignored != [highest + 1]:
        raise ExportError(
            f"{file}: the label to ignore is {_shown(ignored)}, expected {highest + 1}, the highest of all"
        )
    foreground = {name: values for name, values in every.items() if set(values) != {0}}
    if not foreground:
        raise ExportError(f"{file}: names no labels beside the background")
    names = dict(zip(foreground, unique([name_of(name) for name in foreground]), strict=True))
    if all(len(values) == 1 for values in every.values()):
        # nnU-Net writes the number of the channel, whatever the value in dataset.json.
        by_value = {values[0]: names[name] for name, values in foreground.items()}
        plain = tuple(Label(value=number, name=by_value[value]) for number, value in enumerate(sorted(by_value), 1))
        return Argmax(labels=tuple(range(len(plain) + 1))), plain, ()
    order = dataset.get("regions_class_order")
    if not isinstance(order, list) or len(order) != len(foreground):
        raise ExportError(
            f"{file}: has {len(foreground)} regions and the regions_class_order {order}; "
            "expected one label for each region"
        )
    painted = [PaintedRegion(channel=channel, label=label) for channel, label in enumerate(order)]
    # A label that later regions overwrite keeps the rest of its region.
    rest = {value: "-rest" if place < len(order) - 1 else "" for place, value in enumerate(order)}
    label_names = {value: names[name] + rest[value] for name, value in zip(foreground, order, strict=True)}
    labels = tuple(Label(value=value, name=label_names[value]) for value in sorted(label_names))
    evaluated = tuple(
        EvaluatedRegion(name=names[name], labels=tuple(sorted({value for value in values if value})))
        for name, values in foreground.items()
    )
    return Regions(activation="sigmoid", regions=tuple(painted)), labels, evaluated


def foreground(folder: Path, dataset: Mapping[str, Any]) -> list[int]:
    """Values of all labels but the background and the one to ignore, in their order.

    Raises
    ------
    ExportError
        If a label is no whole number.
    """
    every = _values(folder / "dataset.json", dataset.get("labels", {}))
    every.pop(_IGNORE, None)
    return sorted({value for values in every.values() for value in values} - {0})


def _values(file: Path, labels: Any) -> dict[str, list[int]]:
    """Values of each label or region by its name, as they stand in dataset.json."""
    if not isinstance(labels, dict) or _BACKGROUND not in labels:
        raise ExportError(f'{file}: names no background among its labels, expected "background": 0')
    found = {}
    for name, value in labels.items():
        try:
            found[str(name)] = [int(v) for v in value] if isinstance(value, list) else [int(value)]
        except (TypeError, ValueError):
            found[str(name)] = []
        if not found[str(name)]:
            raise ExportError(f"{file}: the label {name} is {value!r}, expected a whole number, or a list of them")
    if found[_BACKGROUND] != [0]:
        raise ExportError(f"{file}: the background is {_shown(found[_BACKGROUND])}, expected 0")
    return found


def _shown(values: Sequence[int]) -> str:
    return str(values[0] if len(values) == 1 else list(values))


def channels(folder: Path, dataset: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of channels, in the order of their numbers.

    Raises
    ------
    ExportError
        If the channels are not numbered from 0.
    """
    given = dataset.get("channel_names") or dataset.get("modality") or {}
    if not isinstance(given, dict) or sorted(given) != sorted(str(n) for n in range(len(given))) or not given:
        raise ExportError(
            f"{folder / 'dataset.json'}: its channel_names are {given or 'missing'}, expected names of 0, 1, 2, …"
        )
    return tuple(unique([name_of(str(given[str(n)])) for n in range(len(given))]))


def name_of(text: str) -> str:
    """Turn a text into a name."""
    return named(text) or "unnamed"


def unique(names: Sequence[str]) -> list[str]:
    """Give names that are there several times their place, or the next number that makes them differ."""
    found: list[str] = []
    for place, name in enumerate(names):
        numbered = (f"{name[:56]}-{number}" for number in count(place))
        single = names.count(name) == 1 and name not in found
        found.append(name if single else next(one for one in numbered if one not in {*names, *found}))
    return found
