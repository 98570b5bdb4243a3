"""Recipes of a family: a recipe names what differs, and takes the rest from the file that it extends.

``extends = "../family.toml"`` names that file, beside the recipe or in the folder above. Tables are merged key by key;
any other value of the recipe, lists among them, stands in place of the family's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lowres_seg.errors import ExportError
from lowres_seg.export import toml_file

KEY = "extends"
_FILE = re.compile(r"(?:\.\./)?[A-Za-z0-9_][\w.-]*\.toml")
#: Keys of a network whose value is ``file.py:function``.
_CODE = ("factory", "convert")


@dataclass(frozen=True)
class Merged:
    """A recipe with what it takes from its family.

    Attributes
    ----------
    files : tuple of pathlib.Path
        The recipe's file, and that which it extends, if it extends one.
    own : mapping
        What the recipe's file itself says.
    content : mapping
        All that it says and takes.
    """

    files: tuple[Path, ...]
    own: Mapping[str, Any]
    content: dict[str, Any]

    def file_of(self, fault: str) -> Path:
        """File that says what is at fault.

        Parameters
        ----------
        fault : str
            It begins with the place of the fault, such as ``networks.net.factory: ``.
        """
        place = fault.partition(": ")[0]
        return self.files[-1] if _depth(self.own, place) < _depth(self.content, place) else self.files[0]


def read(path: Path) -> Merged:
    """Read a recipe, and the file that it extends.

    Raises
    ------
    ExportError
        If one of them cannot be read or is not TOML, or the recipe extends a file elsewhere, or one that itself extends
        another, or says so within a table.
    """
    own = toml_file.read(path, ExportError)
    for table, content in own.items():
        if isinstance(content, dict) and KEY in content:
            raise ExportError(f"{path}: {table}.{KEY}: no such key; {KEY} stands before the first [table] of the file")
    if KEY not in own:
        return Merged((path,), own, own)
    named = own.pop(KEY)
    if not isinstance(named, str) or not _FILE.fullmatch(named):
        raise ExportError(
            f"{path}: {KEY} is {named!r}, expected a file beside the recipe, such as family.toml, or in the folder "
            "above, such as ../family.toml"
        )
    base = path.parent / named
    shared = toml_file.read(base, ExportError)
    if KEY in shared:
        raise ExportError(
            f"{base}: extends {shared[KEY]!r} and is extended by {path}; expected a file that extends none, so write "
            "what both share into one file"
        )
    return Merged((path, base), own, _located(_merged(shared, own), path.parent, base.parent))


def _merged(shared: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    both = {
        key: _merged(shared[key], own[key])
        for key in own
        if isinstance(own[key], dict) and isinstance(shared.get(key), dict)
    }
    return {**shared, **own, **both}


def _located(content: dict[str, Any], home: Path, family: Path) -> dict[str, Any]:
    """The content, where code that lies in the family's folder and not in the recipe's is named there."""
    networks = content.get("networks")
    if home == family or not isinstance(networks, dict):
        return content
    return {**content, "networks": {name: _with_code(entry, home, family) for name, entry in networks.items()}}


def _with_code(entry: Any, home: Path, family: Path) -> Any:
    if not isinstance(entry, dict):
        return entry
    named = {key: str(entry[key]).partition(":")[0] for key in _CODE if isinstance(entry.get(key), str)}
    above = {
        key: f"../{entry[key]}"
        for key, file in named.items()
        if file.endswith(".py") and not (home / file).is_file() and (family / file).is_file()
    }
    return {**entry, **above}


def _depth(content: Any, place: str) -> int:
    """How many keys of a place, such as ``stages.brain.decode``, a content has. Names may hold dots."""
    items: Mapping[str, Any]
    if isinstance(content, list):
        items = {str(one.get("name", at)) if isinstance(one, dict) else str(at): one for at, one in enumerate(content)}
    elif isinstance(content, dict):
        items = content
    else:
        return 0
    found = [key for key in items if place == key or place.startswith(f"{key}.")]
    if not found:
        return 0
    key = max(found, key=len)
    return 1 + _depth(items[key], place[len(key) + 1 :])
