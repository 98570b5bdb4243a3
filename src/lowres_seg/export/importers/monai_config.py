"""Configurations of MONAI bundles. Literal values and plain references are read; no expression is run."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from lowres_seg.errors import ExportError
from lowres_seg.export.importers.files import read_json

#: Example of a choice of labels that is understood, for messages.
EXAMPLE = "$lambda x: torch.where(x[[1]] > 0, 2, torch.where(x[[0]] > 0, 1, 0))"
_REFERENCE = re.compile(r"^\$?@([\w.-]+(?:(?:#|::)[\w.-]+)*)$")
#: Keys of a component that are no arguments.
_ABOUT = frozenset({"_target_", "_desc_", "_requires_", "_disabled_"})


class Arguments(BaseModel):
    """Arguments of a component that have a counterpart. Those in `ignored` do not change the result."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
    ignored: ClassVar[str] = ""

    @model_validator(mode="before")
    @classmethod
    def _without_ignored(cls, given: dict[str, Any]) -> dict[str, Any]:
        names = {"allow_missing_keys", *cls.ignored.split()}
        return {key: value for key, value in given.items() if key not in names}


_Kind = TypeVar("_Kind", bound=Arguments)


class Config:
    """A JSON file of a bundle's ``configs``.

    Attributes
    ----------
    path : pathlib.Path
    content : dict
        References in it are kept; `at` follows them.

    Raises
    ------
    ExportError
        If the file is missing, or is not a JSON object.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file():
            for other in (path.with_suffix(".yaml"), path.with_suffix(".yml")):
                if other.is_file():
                    raise ExportError(f"{other}: is YAML, which is not read; write the same as JSON to {path.name}")
            raise ExportError(f"{path}: is missing; expected the folder of a MONAI bundle")
        self.content = read_json(path)

    def at(self, key: str) -> Any:
        """Value of a key with its references resolved; None if there is no such key."""
        return self._resolved(self.content.get(key), ())

    def _resolved(self, value: Any, seen: tuple[str, ...]) -> Any:
        if isinstance(value, list):
            return [self._resolved(one, seen) for one in value]
        if isinstance(value, dict):
            return {key: self._resolved(one, seen) for key, one in value.items()}
        match = _REFERENCE.match(value) if isinstance(value, str) else None
        if match is None or match[1] in seen:
            return value
        found: Any = self.content
        for part in re.split("#|::", match[1]):
            try:
                found = found[int(part) if isinstance(found, list) else part]
            except (KeyError, IndexError, ValueError, TypeError):
                return value
        return self._resolved(found, (*seen, match[1]))

    def component(self, entry: Any, where: str) -> tuple[str, dict[str, Any]]:
        """Name and arguments of the component that an entry describes.

        Returns
        -------
        name : str
            Without its module if that is a module of MONAI.
        arguments : dict

        Raises
        ------
        ExportError
            If `entry`, found at `where`, describes no component.
        """
        target = entry.get("_target_") if isinstance(entry, dict) else None
        if not isinstance(target, str):
            raise ExportError(f"{self.path}: {where}: expected an object with a _target_, found {short(entry)}")
        disabled = entry.get("_disabled_", False)
        if disabled is not False:
            raise ExportError(f"{self.path}: {where}: _disabled_ is {short(disabled)}, expected true or false")
        name = target.rpartition(".")[2] if target.startswith("monai.") else target
        return name, {key: value for key, value in entry.items() if key not in _ABOUT}

    def transforms(self, key: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
        """Transforms of a Compose: the place of each, its name, which ends in d, and its arguments.

        Raises
        ------
        ExportError
            If the key holds anything else.
        """
        chain, where = self.at(key), key
        if isinstance(chain, dict):
            name, given = self.component(chain, key)
            if name != "Compose" or set(given) != {"transforms"}:
                raise ExportError(f"{self.path}: {key}: {name} of {', '.join(given)}, expected a Compose of transforms")
            chain, where = given["transforms"], f"{key}#transforms"
        if not isinstance(chain, list):
            raise ExportError(f"{self.path}: {where}: expected a list of transforms, found {short(chain)}")
        for place, entry in enumerate(chain):
            if isinstance(entry, dict) and entry.get("_disabled_") is True:
                continue
            name, given = self.component(entry, f"{where}#{place}")
            name = re.sub("(D|Dict)$", "d", name)
            yield f"{self.path}: {where}#{place} {name}", name, given

    def check_used(self, owner: str, role: str, key: str) -> None:
        """Check that a component uses the chain of the usual key.

        Raises
        ------
        ExportError
            If `role` of `owner` is another component than that of `key`.
        """
        holder = self.at(owner)
        if isinstance(holder, dict) and role in holder and holder[role] != self.at(key):
            raise ExportError(f"{self.path}: {owner}#{role} is {short(holder[role])}, expected @{key}")


def validated(kind: type[_Kind], given: Mapping[str, Any], where: str) -> _Kind:
    """Validate arguments as a `kind`.

    Raises
    ------
    ExportError
        If an argument, or its value, has no counterpart.
    """
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        raise ExportError(f"{where}: {problem(error)}") from error


def problem(error: ValueError) -> str:
    """Reason in one line why arguments have no counterpart."""
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors(include_url=False)[0]
    argument, found = first["loc"][0] if first["loc"] else "arguments", first.get("input")
    if first["type"] == "extra_forbidden":
        return f"its argument {argument} = {short(found)} has no exact counterpart in a bundle; remove it"
    if first["type"] == "missing":
        return f"has no {argument}"
    if isinstance(found, str) and found.startswith("$"):
        return f"{argument} is the expression {short(found)}, and no code of a bundle is run; write its value"
    if isinstance(found, str) and found.startswith("@"):
        return f"{argument} refers to {found}, which leads to no value"
    message = first["msg"].removeprefix("Value error, ")
    return f"{argument} is {short(found)}, which has no exact counterpart in a bundle ({message})"


def label_choice(func: str) -> list[tuple[int, int]]:
    """Channels and labels in the order in which they are painted, from nested calls of torch.where.

    The code is parsed, and never run.

    Raises
    ------
    ValueError
        If the code is anything else.
    """
    try:
        node: ast.AST = ast.parse(func.removeprefix("$").strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError):
        node = ast.Pass()
    found: list[tuple[int, int]] = []
    if isinstance(node, ast.Lambda) and len(node.args.args) == 1:
        pattern = re.compile(rf"{re.escape(node.args.args[0].arg)}\[\[(\d+)\]\] > 0(?:\.0)?")
        node = node.body
        while isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.where" and len(node.args) == 3:
            where, label, rest = node.args
            match = pattern.fullmatch(ast.unparse(where))
            if match is None or not isinstance(label, ast.Constant) or not isinstance(label.value, int):
                break
            found.append((int(match[1]), label.value))
            node = rest
    once = all(len(set(part)) == len(part) for part in zip(*found, strict=True))
    background = isinstance(node, ast.Constant) and node.value == 0
    if not found or not once or not background or not all(0 < label <= 255 for _, label in found):
        raise ValueError(
            f"func is {short(func)}, and no code of a bundle is run; only a choice of labels such as "
            f"{EXAMPLE} can be read"
        )
    return found[::-1]


def leaves(value: Any, where: str) -> Iterator[tuple[str, Any]]:
    """Every value within lists and objects, with its place."""
    if isinstance(value, (dict, list)):
        for key, one in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(one, f"{where}#{key}")
    else:
        yield where, value


def short(value: Any) -> str:
    """Shorten a value for a message."""
    text = repr(value)
    return text if len(text) <= 120 else text[:120] + "…"
