"""Values of MONAI's configurations, as plain data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

_MOST_OF_AN_ARRAY = 100_000


@dataclass(frozen=True)
class Refused:
    """The place of a value that could not be read. Whoever needs the value says `message`.

    Attributes
    ----------
    message : str
        One line: file, key, what was found, what is expected.
    """

    message: str


class UnreadableError(Exception):
    """Reason why an expression has no value here, as the end of a sentence about it.

    Attributes
    ----------
    refused : Refused or None
        The value that it needs and that could not be read.
    of_a_file : bool
        True if a file is the reason, and not how the expression is written.
    """

    def __init__(self, reason: str, refused: Refused | None = None, *, of_a_file: bool = False) -> None:
        super().__init__(reason)
        self.refused = refused
        self.of_a_file = of_a_file


@dataclass(frozen=True)
class Device:
    """A device of torch. Networks are exported on the CPU, whatever it is."""


@dataclass(frozen=True, eq=False)
class Tensor:
    """A tensor of torch, as an array."""

    array: Any


class Component(dict[str, Any]):
    """A component as an object of the configuration describes it. MONAI makes one object of each place.

    Attributes
    ----------
    key : str
        Where it is described.
    """

    def __init__(self, content: Mapping[str, Any], key: str) -> None:
        super().__init__(content)
        self.key = key


def placed(value: Any, key: str) -> Any:
    """What an expression at a key makes: each component that is new is described there."""
    if isinstance(value, (list, tuple)):
        return type(value)(placed(one, f"{key}#{place}") for place, one in enumerate(value))
    if isinstance(value, dict) and "_target_" in value and not isinstance(value, Component):
        return Component(value, key)
    return value


def is_same(one: Any, other: Any) -> bool:
    """Tell whether two values are one object in MONAI."""
    if isinstance(one, Component) and isinstance(other, Component):
        return one.key == other.key
    return bool(one == other)


def leaves(value: Any, where: str) -> Iterator[tuple[str, Any]]:
    """Every value within lists and objects, with its place."""
    if isinstance(value, (dict, list)):
        for key, one in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(one, f"{where}#{key}")
    else:
        yield where, value


def first_refused(value: Any) -> Refused | None:
    """The first part of a value that could not be read; None if all could."""
    return next((one for _, one in leaves(value, "") if isinstance(one, Refused)), None)


def short(value: Any) -> str:
    """Shorten a value for a message."""
    text = repr(value)
    return text if len(text) <= 120 else text[:120] + "…"


def is_disabled(entry: Mapping[str, Any]) -> bool:
    """Tell whether a component is switched off, as far as its value can be read."""
    given = entry.get("_disabled_", False)
    if isinstance(given, str):
        return given.strip().lower() == "true"
    return bool(given) and not isinstance(given, Refused)


def plain(value: Any, where: str) -> Any:
    """A resolved value as JSON has it; arrays are components that make them."""
    if isinstance(value, (list, tuple)):
        return [plain(one, where) for one in value]
    if isinstance(value, Mapping):
        content = {key if isinstance(key, str) else str(key): plain(one, where) for key, one in value.items()}
        return Component(content, value.key) if isinstance(value, Component) else content
    if isinstance(value, Device):
        return "cpu"
    array = value.array if isinstance(value, Tensor) else value
    if isinstance(array, np.ndarray):
        if array.size > _MOST_OF_AN_ARRAY or array.dtype.kind not in "biuf":
            return Refused(f"{where} is an array of {array.size} values, expected at most {_MOST_OF_AN_ARRAY} numbers")
        target = "torch.tensor" if isinstance(value, Tensor) else "numpy.array"
        return {"_target_": target, "object": array.tolist(), "dtype": array.dtype.name}
    return value


def natives(content: Any) -> Any:
    """Content of a checkpoint with its tensors as `Tensor`."""
    if isinstance(content, Mapping):
        return {key: natives(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [natives(one) for one in content]
    if hasattr(content, "detach"):
        return Tensor(np.asarray(content.detach().float() if content.dtype.is_floating_point else content.detach()))
    return content.item() if isinstance(content, np.generic) else content
