"""References and expressions of MONAI's configurations, resolved within bounds."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Protocol

from lowres_seg.export.importers import monai_expressions
from lowres_seg.export.importers.monai_files import DEEPEST, MOST_VALUES
from lowres_seg.export.importers.monai_values import (
    Component,
    Device,
    Refused,
    UnreadableError,
    is_disabled,
    placed,
    short,
)

#: A text that is a reference as a whole.
REFERENCE = re.compile(r"@(\w+(?:(?:#|::)\w+)*)")
#: What stands for the value of a key that is not there.
NOTHING = object()
#: Keys whose values are kept as they are written.
_DATA = frozenset({"_desc_", "_requires_"})


class Written(Protocol):
    """A configuration as it is written, and the files that its expressions may read."""

    @property
    def imported(self) -> Mapping[str, str]:
        """Full names of what it imports under other names."""
        ...

    def where(self, key: str) -> str:
        """File and key, for messages."""
        ...

    def raw(self, key: str) -> Any:
        """What is written at a key; `NOTHING` if there is no such key."""
        ...

    def load(self, path: str) -> Any:
        """Content of a file. Raises UnreadableError if it cannot be read."""
        ...

    def exists(self, path: str) -> bool:
        """Tell whether a file exists. Raises UnreadableError for one that may not be named."""
        ...


class Resolution:
    """The resolution of one value. What it visits is bounded, for references can name far more than they take."""

    def __init__(self, config: Written) -> None:
        self.config = config
        self.left = MOST_VALUES

    def value(self, raw: Any, key: str, within: tuple[str, ...]) -> Any:
        """Value of what is written at a key; `within` are the references that led there."""
        self.left -= 1
        if self.left < 0 or len(within) > DEEPEST:
            return Refused(
                f"{self.config.where(key)}: leads to more than {MOST_VALUES} values, or is nested too deeply"
            )
        if isinstance(raw, list):
            return [self.value(one, f"{key}#{place}", within) for place, one in enumerate(raw)]
        if isinstance(raw, dict):
            found = {name: self._entry(name, one, f"{key}#{name}", within) for name, one in raw.items()}
            kept = {name: one for name, one in found.items() if not (isinstance(one, dict) and is_disabled(one))}
            return Component(kept, key.replace("::", "#")) if "_target_" in kept else kept
        if not isinstance(raw, str):
            return raw
        if key.rpartition("#")[2] == "device":  # whatever it is, networks are exported on the CPU
            return Device()
        if raw.startswith("$"):
            return self._expression(raw, key, within)
        match = REFERENCE.fullmatch(raw)
        if match is not None:
            return self.reference(match[1], key, within)
        if raw.startswith("%"):
            return Refused(f"{self.config.where(key)} is the macro {short(raw)} within a macro; write its value")
        return raw

    def _entry(self, name: Any, raw: Any, key: str, within: tuple[str, ...]) -> Any:
        return raw if name in _DATA else self.value(raw, key, within)

    def reference(self, named: str, key: str, within: tuple[str, ...]) -> Any:
        """Value of the key that a reference at `key` names."""
        where, written = self.config.where(key), "@" + named.replace("::", "#")
        if named in within:
            return Refused(f"{where} refers to {written}, which refers to itself")
        raw = self.config.raw(named)
        if raw is NOTHING:
            return Refused(f"{where} refers to {written}, which leads to no value")
        return self.value(raw, named.replace("::", "#"), (*within, named))

    def _expression(self, text: str, key: str, within: tuple[str, ...]) -> Any:
        if monai_expressions.is_lambda(text):
            return text
        try:
            found = monai_expressions.evaluate(text, _World(self, key, within), self.config.imported)
            return placed(found, key.replace("::", "#"))
        except UnreadableError as error:
            instead = (
                ""
                if error.of_a_file
                else "; no code of a bundle is run: write its value, or an expression of " + monai_expressions.ALLOWED
            )
            return error.refused or Refused(
                f"{self.config.where(key)} is the expression {short(text)}, which {error}{instead}"
            )


class _World:
    """What an expression at a key may ask for."""

    def __init__(self, resolution: Resolution, key: str, within: tuple[str, ...]) -> None:
        self.resolution, self.key, self.within = resolution, key, within
        self.load, self.exists = resolution.config.load, resolution.config.exists

    def reference(self, key: str) -> Any:
        return self.resolution.reference(key, self.key, self.within)

    def constant(self, name: str) -> str | None:
        from lowres_seg.export.importers import monai_classes

        return monai_classes.constant(name)

    def spend(self, amount: int) -> None:
        self.resolution.left -= amount
        if self.resolution.left < 0:
            raise UnreadableError("takes too long to compute")
